"""The table of block layouts: how a decoder block of each architecture is computed and what its linears read.

A new architecture is one row: the names of its parts, its linears grouped by the input they share (one
Hessian serves a group) and the function that runs one block on plain tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.decoder import Rope, rope_table, run_llama_block
from compress.errors import ArtifactError, UnsupportedArchitecture
from compress.weights import Weights

if TYPE_CHECKING:
    import torch

    See = Callable[[str, torch.Tensor], None]
    RunBlock = Callable[["ModelFolder", int, Mapping[str, torch.Tensor], torch.Tensor, Rope, See], torch.Tensor]


@dataclass(frozen=True)
class BlockLayout:
    """Names inside a model folder. ``inputs``: linears of one block, grouped by the tensor that they read."""

    run: RunBlock
    inputs: tuple[tuple[str, ...], ...]
    ffn: tuple[str, ...]
    """The linears whose output channels are the FFN's; ``down`` reads those channels."""
    down: str
    blocks: str = "model.layers"
    embed: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    head: str = "lm_head"

    def linears(self) -> tuple[str, ...]:
        """Every linear of a block, in the order of its computation."""
        return tuple(name for group in self.inputs for name in group)


_LLAMA = BlockLayout(
    run=run_llama_block,
    inputs=(
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    ),
    ffn=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
)

LAYOUTS: Mapping[str, BlockLayout] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
}
"""``model_type`` of config.json -> layout."""


class ModelFolder:
    """A Hugging Face folder seen block by block: config, layout and weights, nothing loaded ahead."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_config(path)
        self.layout = layout_of(self.config, path)

    @cached_property
    def weights(self) -> Weights:
        return Weights(self.path)

    @property
    def blocks(self) -> int:
        """Number of decoder blocks."""
        return int(self.config["num_hidden_layers"])

    def name(self, block: int, linear: str) -> str:
        """Full module name, e.g. ``model.layers.0.mlp.down_proj``."""
        return f"{self.layout.blocks}.{block}.{linear}"

    def linears(self) -> list[str]:
        """Full names of all block linears."""
        return [self.name(block, linear) for block in range(self.blocks) for linear in self.layout.linears()]

    def block_tensors(self, block: int) -> dict[str, torch.Tensor]:
        """The block's tensors in float32, keyed by their names inside the block."""
        prefix = f"{self.layout.blocks}.{block}."
        names = [name for name in self.weights.names() if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.weights.load_finite(name) for name in names}

    def rope(self, length: int) -> Rope:
        """Rotary cosines and sines of ``length`` positions."""
        return rope_table(self.config, length)


def read_config(path: Path) -> dict[str, Any]:
    """``config.json`` of a model folder; ArtifactError if it is missing or no JSON object."""
    file = path / "config.json"
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} cannot be read ({error})", next="give a complete Hugging Face folder") from None
    if not isinstance(config, dict):
        raise ArtifactError(f"{file} is not a JSON object", next="give a complete Hugging Face folder")
    return config


def layout_of(config: Mapping[str, Any], path: Path) -> BlockLayout:
    """The row of LAYOUTS for a config."""
    kind = str(config.get("model_type"))
    if kind not in LAYOUTS:
        raise UnsupportedArchitecture(
            f"{path}: model_type {kind!r} has no row in compress/blocks.py LAYOUTS "
            f"(known: {', '.join(sorted(LAYOUTS))})",
            next="use a model of a known type, or add its row to that table",
        )
    return LAYOUTS[kind]
