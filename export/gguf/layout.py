"""Sizes and settings of one model as GGUF needs them, read from its config.json, and the header keys they become."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from compress.errors import ArtifactError, UnsupportedArchitecture
from export.gguf.arch import Architecture, architecture_of, settings_of
from export.gguf.rope import FULL, SLIDING, needs, rope_of, rope_tensors, write_rope

UNCAPPED = 2.0**30
"""A soft cap that changes no logit: x / 2^30 is so small that tanh gives it back."""


@dataclass(frozen=True)
class Layout:
    """One model. ``settings`` are its config.json in Llama's names."""

    row: Architecture
    settings: Mapping[str, Any]
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    positions: int
    tied: bool

    @cached_property
    def dims(self) -> dict[str, int]:
        """Sizes of the letters of the tensor lists."""
        letters = {"E": self.hidden, "F": self.ffn, "V": self.vocab, "P": self.positions, "D": self.head_dim}
        return letters | {"Q": self.heads * self.head_dim, "K": self.kv_heads * self.head_dim}

    @cached_property
    def rope(self) -> dict[str, Any]:
        """``rope.rope_of`` of the blocks that see everything."""
        return rope_of(self.settings, FULL if self.row.two_ropes else None)

    @property
    def turned(self) -> int:
        """How many dimensions of a head turn; 0 where positions are learned."""
        return int(self.head_dim * self.rope["partial"]) if self.row.ropes else 0

    @cached_property
    def windows(self) -> list[bool]:
        """Which blocks see a sliding window only."""
        found = self.row.windows(self.settings)
        if any(found) and not self.window:
            raise ArtifactError("config.json has blocks with a sliding window and no sliding_window", next=_COMPLETE)
        return found

    @property
    def window(self) -> int:
        """Positions that blocks with a window see; 0 for no window."""
        return _count("sliding_window", self.settings.get("sliding_window") or 0, least=0)

    @property
    def context(self) -> int:
        """Positions for which llama.cpp answers as Hugging Face does: to the window where the graph has none."""
        capped = self.row.window != "graph" and any(self.windows)
        return min(self.positions, self.window) if capped else self.positions

    @property
    def query_factor(self) -> float:
        """What the queries are multiplied by so that the graph's attention scale becomes the model's."""
        scalar = self.settings.get("query_pre_attn_scalar")
        if not scalar or not self.row.scaled_as:
            return 1.0
        graph = self.hidden // self.heads if self.layers == self.row.scaled_as else self.head_dim
        return math.sqrt(graph / float(scalar))


_COMPLETE = "give a complete config.json"


def layout_of(config: Mapping[str, Any]) -> Layout:
    """Sizes of a model. Raises UnsupportedArchitecture for a variant that no graph of llama.cpp computes, ArtifactError
    for a size that is missing or no positive number."""
    row = architecture_of(config)
    try:
        layout = _fitting(row, config)
        write_settings(_Nowhere(), layout)
        if layout.turned:
            rope_tensors(layout.rope, layout.turned)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"config.json has a setting that is missing or no number ({error!r})"
        raise ArtifactError(what, next=_COMPLETE) from None
    return layout


class _Nowhere:
    """A header that is not kept: what cannot be written shows before anything is."""

    def __getattr__(self, name: str) -> Any:
        return lambda value: value


def _fitting(row: Architecture, config: Mapping[str, Any]) -> Layout:
    """With the first graph of the row that computes this model."""
    layout = _layout(row, settings_of(row, config))
    found = problems(layout)
    while found and layout.row.otherwise:
        layout = _layout(layout.row.otherwise, layout.settings)
        found = problems(layout)
    if found:
        raise UnsupportedArchitecture(
            f"llama.cpp's {row.gguf!r} graph does not compute this variant: {'; '.join(found)}",
            next="use another runtime, or add a row to ARCHITECTURES in export/gguf/arch.py for a graph that does",
        )
    return layout


def _layout(row: Architecture, settings: Mapping[str, Any]) -> Layout:
    hidden, heads = (_count(name, settings.get(name)) for name in ("hidden_size", "num_attention_heads"))
    kv_heads = _count("num_key_value_heads", settings.get("num_key_value_heads") or heads)
    head_dim = _count("head_dim", settings.get("head_dim") or hidden // heads)
    ffn = settings.get("intermediate_size") or (4 * hidden if row.layer_norm else None)
    if heads % kv_heads or (row.ropes and head_dim % 2):
        raise ArtifactError(
            f"config.json has {heads} heads of {head_dim} for {kv_heads} key/value heads, which does not divide",
            next=_COMPLETE,
        )
    return Layout(
        row,
        settings,
        layers=_count("num_hidden_layers", settings.get("num_hidden_layers")),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=_count("intermediate_size", ffn),
        vocab=_count("vocab_size", settings.get("vocab_size")),
        positions=_count("max_position_embeddings", settings.get("max_position_embeddings") or 2048),
        tied=bool(settings["tie_word_embeddings"]),
    )


def _count(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise ArtifactError(f"config.json lacks a valid size: {name} is {value!r}", next=_COMPLETE)
    return value


def problems(layout: Layout) -> list[str]:
    """What of this model the row's graph does not compute."""
    row, settings, found = layout.row, layout.settings, []
    if settings["hidden_act"] not in row.activations:
        found.append(f"activation {settings['hidden_act']!r} (only {', '.join(row.activations)})")
    if row.ropes:
        found += _rope_problems(layout)
    if row.square and layout.heads * layout.head_dim != layout.hidden:
        found.append(f"{layout.heads} heads of {layout.head_dim} in a hidden state of {layout.hidden}")
    if row.tied_only and not layout.tied:
        found.append("an output head of its own")
    for option, value in row.fixed.items():
        if bool(settings.get(option, value)) != value:
            found.append(f"{option} = {settings[option]!r}")
    return found


def _rope_problems(layout: Layout) -> list[str]:
    row, rope, found = layout.row, layout.rope, []
    if needs(rope) not in row.ropes:
        found.append(f"rotary scaling {rope['rope_type']!r} with these settings")
    if {FULL, SLIDING} & set(rope):
        found.append("rotary settings by kind of block")
    if rope["partial"] != 1 and not row.partial:
        found.append(f"partial_rotary_factor {rope['partial']}")
    if row.two_ropes and rope_of(layout.settings, SLIDING)["rope_type"] != "default":
        found.append("rotary scaling of the blocks with a window")
    return found


def write_settings(writer: Any, layout: Layout) -> None:
    """The architecture's keys of the header (``gguf.GGUFWriter``)."""
    row, eps = layout.row, float(layout.settings["rms_norm_eps"])
    writer.add_block_count(layout.layers)
    writer.add_context_length(layout.context)
    writer.add_embedding_length(layout.hidden)
    writer.add_feed_forward_length(layout.ffn)
    writer.add_head_count(layout.heads)
    writer.add_head_count_kv(layout.kv_heads)
    writer.add_key_length(layout.head_dim)
    writer.add_value_length(layout.head_dim)
    (writer.add_layer_norm_eps if row.layer_norm else writer.add_layer_norm_rms_eps)(eps)
    writer.add_vocab_size(layout.vocab)
    if row.ropes:
        write_rope(writer, layout.rope, layout.turned)
    if row.two_ropes:
        writer.add_rope_freq_base_swa(rope_of(layout.settings, SLIDING)["rope_theta"])
    _write_window(writer, layout)
    _write_caps(writer, layout)


def _write_window(writer: Any, layout: Layout) -> None:
    """A graph with windows wants at least one block with one, or (Gemma 3) no window at all."""
    row, windows, window = layout.row, layout.windows, layout.window
    if row.window == "graph" and not any(windows):
        if row.two_ropes:
            return
        windows, window = _alternating(layout), layout.positions
    if row.window:
        writer.add_sliding_window(window)
    if row.pattern and windows != _alternating(layout):
        writer.add_sliding_window_pattern(windows)


def _alternating(layout: Layout) -> list[bool]:
    """Blocks with a window where the header does not say it."""
    return [(block + 1) % layout.row.pattern != 0 for block in range(layout.layers)]


def _write_caps(writer: Any, layout: Layout) -> None:
    """Gemma 2's graph always caps; Gemma 3's only its logits, and only if the key is there."""
    attention, final = (layout.settings.get(f"{name}_logit_softcapping") for name in ("attn", "final"))
    if layout.row.tied_only:
        writer.add_attn_logit_softcapping(float(attention or UNCAPPED))
        writer.add_final_logit_softcapping(float(final or UNCAPPED))
    elif layout.row.window == "graph" and final:
        writer.add_final_logit_softcapping(float(final))
