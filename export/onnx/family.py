"""What the exporter knows of each model family, and a folder's settings as transformers reads them."""

from __future__ import annotations

import importlib
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError, UnsupportedArchitecture, UsageError
from compress.model.families import LAYOUTS
from compress.model.layout import BlockLayout

ACTIVATIONS = {
    "gelu": ("Gelu", "none"),
    "gelu_new": ("Gelu", "tanh"),
    "gelu_pytorch_tanh": ("Gelu", "tanh"),
    "relu": ("Relu", None),
    "silu": ("Silu", None),
    "swish": ("Silu", None),
}


@dataclass(frozen=True)
class Family:
    """Names of one family's tensors (inside a block unless said otherwise) and what it computes beside Llama."""

    module: str
    """``transformers.models.<module>``; its rotary embedding makes the cos and sin tables."""
    kind: str
    """``model.type`` of genai_config.json."""
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    out: str = "self_attn.o_proj"
    up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    """Before attention, before the FFN; then after attention and after the FFN where the family has those."""
    prefix: str = "model."
    blocks: str = "layers"
    embedding: str = "embed_tokens"
    positions: str | None = None
    final_norm: str = "norm"
    norm_offset: float = 0.0
    qk_norms: bool = False
    scales_embedding: bool = False
    gated: bool = True
    conv1d: bool = False
    """Linears are stored [in, out], and norms have a bias and subtract the mean."""

    def tensor(self, block: int, name: str) -> str:
        """Full name of a tensor inside a block."""
        return f"{self.prefix}{self.blocks}.{block}.{name}"

    def found_in(self, names: Container[str]) -> Family:
        """The family as a folder names it: the body of a model may be saved without its prefix."""
        bare = f"{self.embedding}.weight" in names and f"{self.prefix}{self.embedding}.weight" not in names
        return replace(self, prefix="") if bare else self


_SANDWICH = (
    "input_layernorm",
    "pre_feedforward_layernorm",
    "post_attention_layernorm",
    "post_feedforward_layernorm",
)
FAMILIES: Mapping[str, Family] = {
    "GPT2LMHeadModel": Family(
        module="gpt2",
        kind="decoder",
        qkv=("attn.c_attn",),
        out="attn.c_proj",
        up=("mlp.c_fc",),
        down="mlp.c_proj",
        norms=("ln_1", "ln_2"),
        prefix="transformer.",
        blocks="h",
        embedding="wte",
        positions="wpe",
        final_norm="ln_f",
        gated=False,
        conv1d=True,
    ),
    "Gemma2ForCausalLM": Family("gemma2", "gemma2", norms=_SANDWICH, norm_offset=1.0, scales_embedding=True),
    "Gemma3ForCausalLM": Family(
        "gemma3", "gemma3_text", norms=_SANDWICH, norm_offset=1.0, scales_embedding=True, qk_norms=True
    ),
    "LlamaForCausalLM": Family("llama", "llama"),
    "MistralForCausalLM": Family("mistral", "mistral"),
    "Phi3ForCausalLM": Family("phi3", "phi3", qkv=("self_attn.qkv_proj",), up=("mlp.gate_up_proj",)),
    "Qwen2ForCausalLM": Family("qwen2", "qwen2"),
    "Qwen3ForCausalLM": Family("qwen3", "qwen3", qk_norms=True),
}
"""Architecture of config.json -> family. Another one is a row here and a case in tests/export/onnx/test_families.py."""
_ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""``model_type`` -> architecture, where config.json names none."""


LONGEST = 1 << 21
"""Positions that a rotary table may have."""


@dataclass(frozen=True)
class Rope:
    """cos and sin, float32 [positions, rotated / 2]; ``switch`` > 0: rows from there on serve longer sequences."""

    cos: npt.NDArray[np.float32]
    sin: npt.NDArray[np.float32]
    switch: int = 0


@dataclass(frozen=True)
class Spec:
    """Sizes and settings of one model."""

    family: Family
    blocks: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    eps: float
    activation: str
    windows: tuple[int, ...]
    """Positions that each block sees, -1 for all."""
    scales: tuple[float, ...]
    """Factor of each block's attention scores."""
    softcap: float
    final_softcap: float
    kinds: tuple[str, ...]
    """Key of each block into the rotary tables."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The row of a config.json, by its ``model_type`` where it names no architecture.

    UnsupportedArchitecture names those that are known.
    """
    names = config.get("architectures")
    kind = str(config.get("model_type", "unknown"))
    name = str(names[0]) if names else _ARCHITECTURES.get(kind, kind)
    if name not in FAMILIES:
        raise UnsupportedArchitecture(
            f"ONNX export does not know the architecture {name!r} (known: {', '.join(FAMILIES)})",
            next="export GGUF, or add a row to FAMILIES in export/onnx/family.py once its answers agree",
        )
    return FAMILIES[name]


def spec_of(family: Family, settings: Any) -> Spec:
    """Everything the graph needs; UsageError for a setting that the graph cannot follow."""
    heads, hidden, blocks = settings.num_attention_heads, settings.hidden_size, settings.num_hidden_layers
    head_dim = getattr(settings, "head_dim", None) or hidden // heads
    row = LAYOUTS[settings.model_type]
    activation = row.own(settings, "hidden_act")
    if activation not in ACTIVATIONS:
        raise UnsupportedArchitecture(f"ONNX export does not know the activation {activation!r}", next="export GGUF")
    _refuse(settings)
    kinds = _kinds(settings, blocks)
    window = getattr(settings, "sliding_window", None) or -1
    return Spec(
        family=family,
        blocks=blocks,
        hidden=hidden,
        heads=heads,
        kv_heads=getattr(settings, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        vocab=settings.vocab_size,
        context=settings.max_position_embeddings,
        eps=float(row.own(settings, "norm_eps")),
        activation=activation,
        windows=tuple(window if kind == "sliding_attention" else -1 for kind in kinds),
        scales=tuple(_scale(row, settings, head_dim, block) for block in range(blocks)),
        softcap=row.own(settings, "attn_logit_softcapping") or 0.0,
        final_softcap=row.own(settings, "final_logit_softcapping") or 0.0,
        kinds=kinds,
    )


def _refuse(settings: Any) -> None:
    for option in ("use_bidirectional_attention", "add_cross_attention"):
        if getattr(settings, option, False):
            raise UsageError(f"{option} is not a decoder that ONNX export knows", next=f"set {option}: false")


def _kinds(settings: Any, blocks: int) -> tuple[str, ...]:
    """Kind of attention of each block; families without ``layer_types`` (Mistral, Phi-3) have one window for all."""
    given = getattr(settings, "layer_types", None)
    if given is not None and LAYOUTS[settings.model_type].own_layer_types:
        return tuple(given)
    windowed = settings.model_type in {"mistral", "phi3"} and getattr(settings, "sliding_window", None)
    return ("sliding_attention" if windowed else "full_attention",) * blocks


def _scale(row: BlockLayout, settings: Any, head_dim: int, block: int) -> float:
    scale = float(row.own(settings, "query_pre_attn_scalar") or head_dim) ** -0.5
    if row.own(settings, "scale_attn_weights") is False:
        scale = 1.0
    return scale / (block + 1) if row.own(settings, "scale_attn_by_inverse_layer_idx") else scale


def rope_tables(family: Family, settings: Any, kinds: tuple[str, ...]) -> dict[str, Rope]:
    """cos and sin of every kind of block, computed by transformers' own module: any scaling is exactly its own."""
    if family.positions:
        return {}
    module = importlib.import_module(f"transformers.models.{family.module}.modeling_{family.module}")
    (name,) = [n for n in vars(module) if n.endswith("RotaryEmbedding")]
    context, per_kind = settings.max_position_embeddings, family.module == "gemma3"
    if context > LONGEST:
        what = f"max_position_embeddings is {context}; ONNX export has a rotary table of {LONGEST} positions at most"
        raise UsageError(what, next="set it in config.json to the context that you need")
    try:
        rotary = getattr(module, name)(config=settings)
        return {kind: _table(rotary, settings, kind if per_kind else None) for kind in sorted(set(kinds))}
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        what = f"transformers cannot compute the rotary settings of config.json ({type(error).__name__}: {error})"
        raise ArtifactError(what, next="mend rope_parameters (rope_scaling in older folders)") from error


def _table(rotary: Any, settings: Any, kind: str | None) -> Rope:
    rope = getattr(settings, "rope_parameters", None) or {}
    rope = rope.get(kind, rope) if kind else rope
    context = settings.max_position_embeddings
    if rope.get("rope_type") != "longrope":
        return Rope(*_positions(rotary, context, kind))
    first = rope.get("original_max_position_embeddings") or settings.original_max_position_embeddings
    short = _positions(rotary, min(first, context), kind)
    if context <= first:
        return Rope(*short)
    long = _positions(rotary, context, kind)
    return Rope(np.concatenate([short[0], long[0]]), np.concatenate([short[1], long[1]]), switch=first)


def _positions(rotary: Any, count: int, kind: str | None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    import torch

    with torch.no_grad():
        places = torch.arange(count)[None]
        cos, sin = rotary(torch.zeros(1), places, **({"layer_type": kind} if kind else {}))
    half = cos.shape[-1] // 2
    return cos[0, :, :half].numpy(), sin[0, :, :half].numpy()
