"""The table of architectures: how the tensors and settings of a Hugging Face model are called in GGUF.

A new architecture is one row of ``ARCHITECTURES``. In a row's tensor list each line is::

    <Hugging Face name in a block>   <GGUF name in a block>   <dimensions>   [flags]

Dimensions: E hidden, Q all query heads, K all key/value heads, F feed-forward, V vocabulary.
Flags: ``rotary`` - rows are permuted per head from the halves of Hugging Face's rotary embedding
to llama.cpp's neighbouring pairs; ``optional`` - may be absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError, UnsupportedArchitecture
from export.checkpoint import Checkpoint

_OUTSIDE = """
model.embed_tokens.weight         token_embd.weight    V E
model.norm.weight                 output_norm.weight   E
lm_head.weight                    output.weight        V E   optional
"""

_LLAMA = """
input_layernorm.weight            attn_norm.weight     E
self_attn.q_proj.weight           attn_q.weight        Q E   rotary
self_attn.q_proj.bias             attn_q.bias          Q     rotary optional
self_attn.k_proj.weight           attn_k.weight        K E   rotary
self_attn.k_proj.bias             attn_k.bias          K     rotary optional
self_attn.v_proj.weight           attn_v.weight        K E
self_attn.v_proj.bias             attn_v.bias          K     optional
self_attn.o_proj.weight           attn_output.weight   E Q
self_attn.o_proj.bias             attn_output.bias     E     optional
post_attention_layernorm.weight   ffn_norm.weight      E
mlp.gate_proj.weight              ffn_gate.weight      F E
mlp.gate_proj.bias                ffn_gate.bias        F     optional
mlp.up_proj.weight                ffn_up.weight        F E
mlp.up_proj.bias                  ffn_up.bias          F     optional
mlp.down_proj.weight              ffn_down.weight      E F
mlp.down_proj.bias                ffn_down.bias        E     optional
"""

_QWEN2 = """
input_layernorm.weight            attn_norm.weight     E
self_attn.q_proj.weight           attn_q.weight        Q E
self_attn.q_proj.bias             attn_q.bias          Q
self_attn.k_proj.weight           attn_k.weight        K E
self_attn.k_proj.bias             attn_k.bias          K
self_attn.v_proj.weight           attn_v.weight        K E
self_attn.v_proj.bias             attn_v.bias          K
self_attn.o_proj.weight           attn_output.weight   E Q
post_attention_layernorm.weight   ffn_norm.weight      E
mlp.gate_proj.weight              ffn_gate.weight      F E
mlp.up_proj.weight                ffn_up.weight        F E
mlp.down_proj.weight              ffn_down.weight      E F
"""


@dataclass(frozen=True)
class Architecture:
    """One row: the GGUF name of the architecture and its block's tensors."""

    gguf: str
    block: str


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama", _LLAMA),
    "MistralForCausalLM": Architecture("llama", _LLAMA),
    "Qwen2ForCausalLM": Architecture("qwen2", _QWEN2),
}
"""``architectures[0]`` of config.json -> row."""

_SKIPPED = (".rotary_emb.inv_freq", ".attn.masked_bias", ".attn.bias")


@dataclass(frozen=True)
class Tensor:
    """One tensor to write: its source, its GGUF name and its shape [rows, columns] or [n]."""

    source: str
    name: str
    shape: tuple[int, ...]
    rotary: bool = False


@dataclass(frozen=True)
class Layout:
    """What GGUF needs to know of one model, read from its config.json."""

    row: Architecture
    config: Mapping[str, Any]
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    ffn: int
    vocab: int
    tied: bool

    @property
    def dims(self) -> dict[str, int]:
        """Sizes of the letters of the tensor lists."""
        letters = {"E": self.hidden, "F": self.ffn, "V": self.vocab}
        return letters | {"Q": self.heads * self.head_dim, "K": self.kv_heads * self.head_dim}


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The table row of a config.json, or UnsupportedArchitecture."""
    names = config.get("architectures") or [config.get("model_type", "unknown")]
    row = ARCHITECTURES.get(names[0])
    if row is None:
        raise UnsupportedArchitecture(
            f"GGUF export does not know the architecture {names[0]!r} (known: {', '.join(ARCHITECTURES)})",
            next=f"add a row {names[0]!r} to ARCHITECTURES in export/gguf_arch.py",
        )
    return row


def layout_of(config: Mapping[str, Any]) -> Layout:
    """Sizes of a model. Raises UnsupportedArchitecture for a variant that llama.cpp's graph does not compute."""
    row = architecture_of(config)
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        layout = Layout(
            row,
            config,
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            hidden=hidden,
            ffn=int(config["intermediate_size"]),
            vocab=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ArtifactError(f"config.json lacks a valid size ({error!r})", next="give a complete config.json") from None
    _refuse_variants(config, row)
    return layout


def _refuse_variants(config: Mapping[str, Any], row: Architecture) -> None:
    found = []
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        found.append(f"hidden_act {config['hidden_act']!r} (only silu)")
    rope = rope_parameters(config)
    if rope["rope_type"] not in ("default", "linear", "dynamic", "yarn", "llama3"):
        found.append(f"rope type {rope['rope_type']!r} (only default, linear, dynamic, yarn, llama3)")
    if float(rope.get("partial_rotary_factor", config.get("partial_rotary_factor") or 1.0)) != 1.0:
        found.append("partial_rotary_factor other than 1")
    if found:
        raise UnsupportedArchitecture(
            f"llama.cpp's {row.gguf!r} graph does not compute this variant: {'; '.join(found)}",
            next="add a row for it to ARCHITECTURES in export/gguf_arch.py if llama.cpp has another graph",
        )


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings with ``rope_type`` and ``rope_theta``, from transformers 5's ``rope_parameters``
    or the older ``rope_theta`` + ``rope_scaling``."""
    given = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    given.setdefault("rope_type", given.pop("type", None) or "default")
    theta = given.get("rope_theta") or config.get("rope_theta") or 10000.0
    return given | {"rope_theta": float(theta)}


def context_length(config: Mapping[str, Any]) -> int:
    """Positions for which llama.cpp's graph answers as Hugging Face's: its llama and qwen2 graphs have no
    sliding window, so a window that the model uses is where the equality ends."""
    length = int(config.get("max_position_embeddings") or 2048)
    window = config.get("sliding_window")
    return min(length, int(window)) if window and config.get("use_sliding_window", True) else length


def tensors_of(layout: Layout, checkpoint: Checkpoint) -> list[Tensor]:
    """Every tensor to write, in llama.cpp's order (outside the blocks by name, then block by block).

    Raises ArtifactError for a tensor that is missing, has another shape than config.json says, or is unknown.
    """
    have = set(checkpoint.names())
    found: list[Tensor] = []
    for line in _OUTSIDE.split("\n"):
        found += _tensor(line, "", "", layout, have)
    for block in range(layout.layers):
        for line in layout.row.block.split("\n"):
            found += _tensor(line, f"model.layers.{block}.", f"blk.{block}.", layout, have)
    if layout.tied:
        found = [t for t in found if t.name != "output.weight"]
    elif not any(t.name == "output.weight" for t in found):
        raise ArtifactError("lm_head.weight is missing and config.json does not tie it to the embedding", next=_SAVE)
    _refuse_strays(found, have)
    for tensor in found:
        checkpoint.require_float(tensor.source)
        if checkpoint.shape(tensor.source) != tensor.shape:
            got = list(checkpoint.shape(tensor.source))
            raise ArtifactError(f"{tensor.source} has shape {got}; config.json says {list(tensor.shape)}", next=_SAVE)
    return sorted(found, key=lambda t: (_block(t.name), t.name))


_SAVE = "save the model again with save_pretrained"


def _tensor(line: str, source: str, target: str, layout: Layout, have: set[str]) -> list[Tensor]:
    words = line.split()
    if not words:
        return []
    flags = {"rotary", "optional"} & set(words)
    shape = tuple(layout.dims[word] for word in words[2:] if word not in flags)
    tensor = Tensor(source + words[0], target + words[1], shape, "rotary" in flags)
    if tensor.source in have:
        return [tensor]
    if "optional" in flags:
        return []
    raise ArtifactError(f"the weights hold no {tensor.source}", next=_SAVE)


def _refuse_strays(found: list[Tensor], have: set[str]) -> None:
    strays = sorted(have - {t.source for t in found} - {"lm_head.weight"})
    strays = [name for name in strays if not name.endswith(_SKIPPED)]
    if strays:
        more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
        raise ArtifactError(
            f"the weights hold {strays[0]}{more}, which this architecture's row does not name",
            next="merge adapters first (finetune.sft does), or extend the row in export/gguf_arch.py",
        )


def _block(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else -1


def permute_rotary(rows: npt.NDArray[Any], head_dim: int) -> npt.NDArray[Any]:
    """Per head: row order (first half, second half) -> (pairs i, i + half), for [heads * head_dim, in] or [1, n]."""
    flat = rows.reshape(-1, head_dim, rows.shape[1]) if rows.shape[0] > 1 else rows.reshape(-1, head_dim, 1)
    halves = flat.reshape(flat.shape[0], 2, head_dim // 2, flat.shape[2])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def rope_factors(layout: Layout) -> npt.NDArray[np.float32] | None:
    """Divisors of the rotary frequencies, float32 [head_dim / 2], for Llama 3's scaling (else None)."""
    rope = rope_parameters(layout.config)
    if rope["rope_type"] != "llama3":
        return None
    steps = np.arange(0, layout.head_dim, 2, dtype=np.float32) / np.float32(layout.head_dim)
    wavelength = 2 * math.pi * np.float32(rope["rope_theta"]) ** steps
    factor, context = float(rope.get("factor", 8.0)), float(rope.get("original_max_position_embeddings", 8192))
    low, high = float(rope.get("low_freq_factor", 1.0)), float(rope.get("high_freq_factor", 4.0))
    smooth = (context / wavelength - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(wavelength < context / high, 1.0, np.where(wavelength > context / low, factor, between))
    return factors.astype(np.float32)


def write_settings(writer: Any, layout: Layout) -> None:
    """The architecture's keys of the header (``gguf.GGUFWriter``)."""
    config = layout.config
    writer.add_block_count(layout.layers)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(layout.hidden)
    writer.add_feed_forward_length(layout.ffn)
    writer.add_head_count(layout.heads)
    writer.add_head_count_kv(layout.kv_heads)
    writer.add_key_length(layout.head_dim)
    writer.add_value_length(layout.head_dim)
    writer.add_rope_dimension_count(layout.head_dim)
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    writer.add_vocab_size(layout.vocab)
    _write_rope(writer, rope_parameters(config), config)


def _write_rope(writer: Any, rope: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    import gguf

    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif rope["rope_type"] == "yarn":
        original = rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(rope["factor"]))
        writer.add_rope_scaling_orig_ctx_len(int(original))
        for key, add in (
            ("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
            ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
            ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
        ):
            if rope.get(key) is not None:
                add(float(rope[key]))
