"""A Hugging Face folder seen block by block, in one vocabulary for all families of ``compress/model/families.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import UnsupportedArchitecture, UsageError
from compress.model.config import read_config
from compress.model.decoder import layer_norm, rms_norm, soft_cap
from compress.model.families import LAYOUTS
from compress.model.layout import Attention, BlockLayout, Part, shape_of
from compress.model.narrow import narrowed
from compress.model.rotary import Rope, rope_table
from compress.model.tensors import Held, held
from compress.model.weights import Weights
from compress.outline import Shape

if TYPE_CHECKING:
    import torch


class ModelFolder:
    """Config, layout and weights of a folder; nothing is loaded ahead.

    Raises ArtifactError for an unreadable or incomplete config.json, UnsupportedArchitecture for a family or an
    option of it that has no row in LAYOUTS.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_config(path)
        self._row = layout_of(self.config, path)
        self.settings = self._row.settings(self.config)
        """The config in Llama's names, defaults filled in."""
        self._kept: dict[str, torch.Tensor] = {}

    @cached_property
    def held(self) -> Held:
        """The folder's tensors, checked against its config.json."""
        return held(self.path)

    def check(self) -> None:
        """Raise ArtifactError naming a tensor that is missing, left over, switched off or of another size."""
        _ = self.held

    @cached_property
    def weights(self) -> Weights:
        """The tensors; raises as `check` does."""
        return Weights(self.path, self.held.entries)

    @cached_property
    def layout(self) -> BlockLayout:
        """The family's names as this folder spells them (with or without the prefix)."""
        return self._row.spelled(self.held.entries)

    @cached_property
    def shape(self) -> Shape:
        """Sizes of the model."""
        return shape_of(self.settings)

    @cached_property
    def parts(self) -> dict[str, Part]:
        """Role -> rows of a linear, named as inside a block."""
        return self._row.parts(self.shape)

    @property
    def blocks(self) -> int:
        """Number of decoder blocks."""
        return self.shape.blocks

    @property
    def has_gate(self) -> bool:
        """Whether the FFN multiplies a gate into its channels."""
        return self._row.gated

    def name(self, block: int, linear: str) -> str:
        """Full module name, e.g. ``model.layers.0.mlp.down_proj``."""
        return f"{self.layout.blocks}.{block}.{linear}"

    def linears(self) -> list[str]:
        """Full names of all block linears."""
        return [self.name(block, linear) for block in range(self.blocks) for linear in self.layout.linears()]

    def part(self, block: int, role: str) -> Part:
        """Rows of ``role`` (q, k, v, gate or up) in a possibly fused linear; KeyError for a gate that is not there."""
        part = self.parts[role]
        return part._replace(name=self.name(block, part.name))

    def out_name(self, block: int) -> str:
        """Full name of the attention's output projection."""
        return self.name(block, self.layout.out)

    def down_name(self, block: int) -> str:
        """Full name of the FFN's down projection."""
        return self.name(block, self.layout.down)

    @property
    def head_name(self) -> str:
        """Name of the output head."""
        return self._row.head

    @property
    def head_weight(self) -> str:
        """Name of the tensor ``[vocab, hidden]`` that the head multiplies by: its own, or the embedding's when tied."""
        own = f"{self._row.head}.weight"
        return own if own in self.weights else f"{self.layout.embed}.weight"

    def _transposed(self, name: str) -> bool:
        return self._row.conv1d and name.startswith(f"{self.layout.blocks}.")

    def linear_shape(self, name: str) -> tuple[int, int]:
        """``(out, in)`` of the linear with full name ``name``, without reading it."""
        first, second = self.weights.spec(f"{name}.weight").shape
        return (second, first) if self._transposed(name) else (first, second)

    def weight(self, name: str) -> torch.Tensor:
        """Weight float32 ``[out, in]`` of the linear with full name ``name``; ArtifactError if it holds NaN or Inf."""
        if name == self.head_name:
            return self.weights.load_finite(self.head_weight)
        W = self.weights.load_finite(f"{name}.weight")
        return W.T.contiguous() if self._transposed(name) else W

    def stored(self, name: str, W: torch.Tensor) -> torch.Tensor:
        """``W [out, in]`` of the linear ``name`` in the orientation of the folder, contiguous."""
        return W.T.contiguous() if self._transposed(name) else W.contiguous()

    def block_tensors(self, block: int, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """The block's tensors in ``dtype`` (float32 by default), keyed by their names inside the block.

        Linear weights are ``[out, in]``. ArtifactError names a tensor that holds NaN or Inf.
        """
        prefix = self.name(block, "")
        stored = {name.removeprefix(prefix) for name in self.weights.names() if name.startswith(prefix)}
        turned = {f"{linear}.weight" for linear in self.layout.linears()} if self._row.conv1d else set()
        tensors = {}
        for name in sorted(stored):
            tensor = self.weights.load_finite(prefix + name)
            tensor = tensor.T if name in turned else tensor
            tensors[name] = tensor.to(dtype or tensor.dtype).contiguous()
        return tensors

    def attention(self, block: int) -> Attention:
        """Scale, cap, window and kind of a block's attention."""
        return self._row.attention(self.settings, block)

    def rope(self, length: int) -> dict[str, Rope]:
        """Rotary tables of ``length`` positions by block type; empty where positions are learned."""
        import torch

        kinds = sorted(set(self.settings["layer_types"])) if self._row.rotary else []
        with torch.inference_mode(False):
            return {kind: rope_table(self.settings, length, kind) for kind in kinds}

    def norm(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The family's norm, in float32, returned in weight's dtype; a bias makes it a layer norm."""
        eps = float(self.settings["norm_eps"])
        if bias is not None:
            return layer_norm(x, weight, bias, eps)
        return rms_norm(x, weight, eps, self._row.norm_offset)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """float32 ``[windows, positions, hidden]`` of int64 ``ids [windows, positions]``: the first block's input.

        UsageError if there are more positions than a table of learned positions holds.
        """
        table = self._keep(f"{self.layout.embed}.weight", ids.device)
        x = table[ids].float()
        if self._row.scales_embedding:
            x *= self.shape.hidden**0.5
        if self._row.positions is None:
            return x
        places = self._keep(f"{self.layout.prefix}{self._row.positions}.weight", ids.device)
        if ids.shape[1] > places.shape[0]:
            raise UsageError(
                f"windows of {ids.shape[1]} tokens exceed the {places.shape[0]} positions of {self.path}",
                next="shorten the windows",
            )
        return x + places[: ids.shape[1]].float()

    def final_norm(self, x: torch.Tensor) -> torch.Tensor:
        """The head's input: the normed residual stream, in x's dtype."""
        weight = self._keep(f"{self.layout.final_norm}.weight", x.device)
        name = f"{self.layout.final_norm}.bias"
        bias = self._keep(name, x.device) if name in self.weights else None
        return self.norm(x, weight.float(), bias).to(x.dtype)

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        """float32 ``[…, vocab]`` of the head's input ``h`` (computed in h's dtype), soft-capped where the family is."""
        from torch.nn import functional

        out = functional.linear(h, self._keep(self.head_weight, h.device).to(h.dtype)).float()
        cap = self.settings.get("final_logit_softcapping")
        return soft_cap(out, cap) if cap else out

    def _keep(self, name: str, device: torch.device) -> torch.Tensor:
        """A tensor outside the blocks as stored, loaded once per device."""
        import torch

        key = f"{name}@{device}"
        if key not in self._kept:
            with torch.inference_mode(False):  # kept for callers that train, too
                self._kept[key] = self.weights.load_sound(name).to(device)
        return self._kept[key]

    def forget(self) -> None:
        """Drop the tensors that ``embed``, ``final_norm`` and ``logits`` keep."""
        self._kept.clear()

    def narrowed_config(
        self,
        ffn: int | None = None,
        heads: int | None = None,
        kv_heads: int | None = None,
        blocks: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """config.json of a folder with these sizes and only these blocks; see ``compress.model.narrow.narrowed``."""
        return narrowed(
            self.held.config, self._row, self.settings, ffn=ffn, heads=heads, kv_heads=kv_heads, blocks=blocks
        )


def layout_of(config: Mapping[str, Any], path: Path) -> BlockLayout:
    """The row of LAYOUTS for a config; UnsupportedArchitecture if there is none or it refuses an option."""
    kind = str(config.get("model_type"))
    if kind not in LAYOUTS:
        raise UnsupportedArchitecture(
            f"{path}: model_type {kind!r} has no row in compress/model/families.py LAYOUTS "
            f"(known: {', '.join(sorted(LAYOUTS))})",
            next="use a model of a known type, or add its row to that table",
        )
    for option in LAYOUTS[kind].refused:
        if config.get(option):
            raise UnsupportedArchitecture(
                f"{path}: {option} = {config[option]!r} is not known for {kind} models",
                next="use a model without that option",
            )
    return LAYOUTS[kind]
