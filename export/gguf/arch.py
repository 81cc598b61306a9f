"""The table of architectures: how a Hugging Face model's settings are called, and what llama.cpp's graph computes.

A new architecture is one row of ``ARCHITECTURES`` and its tensor list in ``names.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from compress.errors import ArtifactError, UnsupportedArchitecture
from export.gguf import names
from export.gguf.rope import FULL, SLIDING

Settings = Mapping[str, Any]
"""A config.json in Llama's names, with what transformers takes where it is silent."""


def _nowhere(settings: Settings) -> list[bool]:
    return [False] * settings["num_hidden_layers"]


def _everywhere(settings: Settings) -> list[bool]:
    return [bool(settings.get("sliding_window"))] * settings["num_hidden_layers"]


def _qwen(settings: Settings) -> list[bool]:
    """Blocks from ``max_window_layers`` on, if the window is switched on."""
    if not (settings["use_sliding_window"] and settings["sliding_window"]):
        return _nowhere(settings)
    return _typed(settings, lambda block: block >= settings["max_window_layers"])


def _gemma2(settings: Settings) -> list[bool]:
    return _typed(settings, lambda block: block % 2 == 0)


def _gemma3(settings: Settings) -> list[bool]:
    pattern = settings.get("sliding_window_pattern") or settings.get("_sliding_window_pattern") or 6
    return _typed(settings, lambda block: (block + 1) % int(pattern) != 0)


def _typed(settings: Settings, default: Callable[[int], bool]) -> list[bool]:
    """Which blocks have a window, from ``layer_types`` or by the family's rule."""
    blocks, types = settings["num_hidden_layers"], settings.get("layer_types")
    if types is None:
        return [default(block) for block in range(blocks)]
    if not isinstance(types, Sequence) or len(types) < blocks or set(types[:blocks]) - {FULL, SLIDING}:
        raise ArtifactError(f"config.json's layer_types do not name {blocks} kinds of attention", next=_COMPLETE)
    return [kind == SLIDING for kind in types[:blocks]]


_COMPLETE = "give a complete config.json"
_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


@dataclass(frozen=True)
class Architecture:
    """One row: what a family's tensors and settings are called, and what llama.cpp's graph of it computes."""

    gguf: str
    model_type: str
    block: str
    outside: str = names.OUTSIDE
    prefix: str = "model."
    """Before the names of all but the head; some folders leave it out."""
    stack: str = "layers"
    keys: Mapping[str, str] = field(default_factory=dict)
    """Llama's name -> this family's name in config.json."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What transformers takes where config.json is silent."""
    activations: tuple[str, ...] = ("silu", "swish")
    ropes: tuple[str, ...] = ("keys", "yarn")
    """What the graph offers of ``rope.needs``; none where positions are learned."""
    partial: bool = False
    """Whether some of a head's dimensions may stay unturned."""
    pairs: bool = False
    """The graph turns neighbouring rows of a head, not halves."""
    two_ropes: bool = False
    """Blocks with a window turn with a base of their own."""
    windows: Callable[[Settings], list[bool]] = _nowhere
    """Which blocks see a window only."""
    window: Literal["", "key", "graph"] = ""
    """Whether the graph computes windows (else the context ends where the window does), or the header only names it."""
    pattern: int = 0
    """The graph's own pattern: every so many blocks one without window."""
    square: bool = False
    """The graph wants heads that are as wide together as the hidden state."""
    tied_only: bool = False
    """The graph has no output head of its own."""
    layer_norm: bool = False
    scaled_as: int = 0
    """With so many blocks the graph takes hidden / heads for head_dim in its attention scale."""
    fixed: Mapping[str, bool] = field(default_factory=dict)
    """Options whose only value the graph computes."""
    otherwise: Architecture | None = None
    """Another graph for what this one does not compute."""


_ROPES = ("keys", "yarn", "divisors", "long")
_LLAMA_ROW = Architecture("llama", "llama", names.LLAMA, ropes=_ROPES, pairs=True)
_QWEN2_ROW = Architecture(
    "qwen2",
    "qwen2",
    names.QWEN2,
    defaults={
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "sliding_window": 4096,
        "use_sliding_window": False,
    },
    windows=_qwen,
    square=True,
)
_GEMMA2_ROW = Architecture(
    "gemma2",
    "gemma2",
    names.GEMMA2,
    outside=names.GEMMA_OUTSIDE,
    keys={"hidden_act": "hidden_activation"},
    defaults={
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
    activations=_GELU,
    windows=_gemma2,
    window="graph",
    pattern=2,
    tied_only=True,
    scaled_as=46,
    fixed={"attention_bias": False, "use_bidirectional_attention": False},
)
_PHI3_ROW = Architecture(
    "phi3",
    "phi3",
    names.PHI3,
    defaults={
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
    },
    ropes=("keys", "long"),
    partial=True,
    windows=_everywhere,
    window="key",
    square=True,
)
ARCHITECTURES: Mapping[str, Architecture] = {
    "GPT2LMHeadModel": Architecture(
        "gpt2",
        "gpt2",
        names.GPT2,
        outside=names.GPT2_OUTSIDE,
        prefix="transformer.",
        stack="h",
        keys={
            "hidden_act": "activation_function",
            "hidden_size": "n_embd",
            "intermediate_size": "n_inner",
            "max_position_embeddings": "n_positions",
            "num_attention_heads": "n_head",
            "num_hidden_layers": "n_layer",
            "rms_norm_eps": "layer_norm_epsilon",
        },
        defaults={
            "hidden_act": "gelu_new",
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5,
            "scale_attn_weights": True,
            "tie_word_embeddings": True,
        },
        activations=_GELU,
        ropes=(),
        square=True,
        layer_norm=True,
        fixed={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    ),
    "Gemma2ForCausalLM": _GEMMA2_ROW,
    "Gemma3ForCausalLM": replace(
        _GEMMA2_ROW,
        gguf="gemma3",
        model_type="gemma3_text",
        block=names.GEMMA3,
        defaults={
            **_GEMMA2_ROW.defaults,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "max_position_embeddings": 131072,
        },
        ropes=("keys",),
        two_ropes=True,
        windows=_gemma3,
        pattern=6,
        tied_only=False,
        scaled_as=62,
        fixed={**_GEMMA2_ROW.fixed, "attn_logit_softcapping": False},
    ),
    "LlamaForCausalLM": _LLAMA_ROW,
    "MistralForCausalLM": replace(
        _LLAMA_ROW,
        model_type="mistral",
        defaults={"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
        windows=_everywhere,
    ),
    "Phi3ForCausalLM": replace(
        _PHI3_ROW,
        otherwise=replace(
            _PHI3_ROW, gguf="llama", block=names.PHI3_APART, partial=False, pairs=True, square=False, window=""
        ),
    ),
    "Qwen2ForCausalLM": replace(
        _QWEN2_ROW, otherwise=replace(_QWEN2_ROW, gguf="llama", ropes=_ROPES, pairs=True, square=False)
    ),
    "Qwen3ForCausalLM": replace(
        _QWEN2_ROW,
        gguf="qwen3",
        model_type="qwen3",
        block=names.QWEN3,
        defaults={**_QWEN2_ROW.defaults, "head_dim": 128},
        square=False,
        fixed={"attention_bias": False},
    ),
}
"""``architectures[0]`` of config.json -> row."""


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The table row of a config.json, or UnsupportedArchitecture."""
    names = config.get("architectures")
    if isinstance(names, list) and names:
        row = ARCHITECTURES.get(str(names[0]))
        name = str(names[0])
    else:
        name = str(config.get("model_type", "unknown"))
        row = next((row for row in ARCHITECTURES.values() if row.model_type == name), None)
    if row is not None and (kind := config.get("model_type")) not in {
        known.model_type for known in ARCHITECTURES.values()
    }:
        raise UnsupportedArchitecture(
            f"config.json calls {name} a model of type {kind!r}, which transformers does not know as one",
            next=f"set model_type: {row.model_type} if the model is one",
        )
    if row is None:
        raise UnsupportedArchitecture(
            f"GGUF export does not know the architecture {name!r} (known: {', '.join(ARCHITECTURES)})",
            next=f"add a row {name!r} to ARCHITECTURES in export/gguf/arch.py",
        )
    return row


def settings_of(row: Architecture, config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` in Llama's names with the family's defaults."""
    renamed = {name: config[key] for name, key in row.keys.items() if config.get(key) is not None}
    same = {key: value for key, value in config.items() if key not in row.keys}
    return {**_COMMON, **row.defaults, **same, **renamed}


_COMMON = {
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
