"""The table of block layouts by ``model_type`` of config.json. A new family whose blocks
``compress/model/decoder.py`` can compute is one row: what differs from Llama, what transformers takes where config.json
is silent, and which kind of attention each block has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from compress.model.layout import ALWAYS, BlockLayout, Norms, Settings, every
from compress.model.rotary import FULL, SLIDING


def _windowed(settings: Settings) -> None:
    """One window for all blocks."""
    settings["layer_types"] = every(settings, SLIDING if settings.get("sliding_window") else FULL)


def _phi3(settings: Settings) -> None:
    """Older configs call LongRoPE ``su`` or ``yarn``; the original context stands beside the scaling."""
    _windowed(settings)
    rope = dict(settings.get("rope_scaling") or settings.get("rope_parameters") or {})
    if (rope.get("rope_type") or rope.get("type")) in {"su", "yarn"}:
        rope["rope_type"] = "longrope"
    settings.update(rope_scaling=None, rope_parameters=rope)


def _qwen(settings: Settings) -> None:
    """A window for the blocks from ``max_window_layers`` on, if it is switched on."""
    if not settings["use_sliding_window"]:
        settings["sliding_window"] = None
    if settings.get("layer_types") is None:
        first = settings["max_window_layers"] if settings["sliding_window"] else settings["num_hidden_layers"]
        settings["layer_types"] = [SLIDING if i >= first else FULL for i in range(settings["num_hidden_layers"])]


def _alternating(settings: Settings, pattern: int) -> None:
    """Every ``pattern``-th block sees everything, the others a window."""
    if settings.get("layer_types") is None:
        settings["layer_types"] = [SLIDING if (i + 1) % pattern else FULL for i in range(settings["num_hidden_layers"])]


def _gemma2(settings: Settings) -> None:
    _alternating(settings, 2)


def _gemma3(settings: Settings) -> None:
    """Local blocks turn with a base of their own and without the scaling of the global ones."""
    _alternating(settings, settings.get("sliding_window_pattern") or settings.get("_sliding_window_pattern") or 6)
    given = settings.get("rope_parameters") or {}
    bases = {FULL: ("rope_theta", 1e6), SLIDING: ("rope_local_base_freq", 1e4)}
    ropes = {
        kind: {"rope_theta": settings.get(key, base), **(given.get(kind) or {})} for kind, (key, base) in bases.items()
    }
    ropes[FULL].update(settings.get("rope_scaling") or {})
    settings.update(rope_scaling=None, rope_parameters=ropes)


_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_BIASED = dict.fromkeys(_ATTENTION, "attention_bias")
_PLAIN = BlockLayout()
_LLAMA = replace(
    _PLAIN, biased={**_BIASED, **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"), "mlp_bias")}
)
_QWEN2 = replace(
    _PLAIN,
    biased=dict.fromkeys(_ATTENTION[:3], ALWAYS),
    finish=_qwen,
    own_layer_types=True,
    defaults={"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28},
)
_GEMMA2 = replace(
    _PLAIN,
    biased=_BIASED,
    norms=Norms(
        "input_layernorm", "pre_feedforward_layernorm", "post_attention_layernorm", "post_feedforward_layernorm"
    ),
    norm_offset=1.0,
    scales_embedding=True,
    keys={"norm_eps": "rms_norm_eps", "hidden_act": "hidden_activation"},
    finish=_gemma2,
    own_layer_types=True,
    refused=("use_bidirectional_attention",),
    defaults={
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
)
_GPT2 = BlockLayout(
    qkv=("attn.c_attn",),
    out="attn.c_proj",
    ffn=("mlp.c_fc",),
    down="mlp.c_proj",
    gated=False,
    norms=Norms("ln_1", "ln_2"),
    conv1d=True,
    biased=dict.fromkeys(("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"), ALWAYS),
    norm_biases=True,
    ffn_times_hidden=4,
    rotary=False,
    prefix="transformer.",
    stack="h",
    embedding="wte",
    positions="wpe",
    norm="ln_f",
    keys={
        "hidden_act": "activation_function",
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
        "norm_eps": "layer_norm_epsilon",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    refused=("add_cross_attention",),
    defaults={
        "hidden_act": "gelu_new",
        "norm_eps": 1e-5,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
    },
)

LAYOUTS: Mapping[str, BlockLayout] = {
    "gemma2": _GEMMA2,
    "gemma3_text": replace(
        _GEMMA2,
        qk_norms=("self_attn.q_norm", "self_attn.k_norm"),
        finish=_gemma3,
        refused=("attn_logit_softcapping", "use_bidirectional_attention"),
        defaults={**_GEMMA2.defaults, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": replace(
        _PLAIN,
        finish=_windowed,
        renamed=("layer_types", "ministral"),
        defaults={"num_key_value_heads": 8, "sliding_window": 4096},
    ),
    "phi3": replace(
        _PLAIN,
        partial=True,
        qkv=("self_attn.qkv_proj",),
        ffn=("mlp.gate_up_proj",),
        finish=_phi3,
        defaults={"norm_eps": 1e-5, "original_max_position_embeddings": 4096, "max_position_embeddings": 4096},
    ),
    "qwen2": _QWEN2,
    "qwen3": replace(
        _QWEN2,
        biased=_BIASED,
        qk_norms=("self_attn.q_norm", "self_attn.k_norm"),
        defaults={**_QWEN2.defaults, "head_dim": 128},
    ),
}
"""``model_type`` of config.json -> layout."""


def logit_cap(settings: Any) -> float | None:
    """What transformers' model with these ``settings`` caps its logits at; families without a row as they say."""
    row = LAYOUTS.get(settings.model_type)
    cap = row.own(settings, _CAP) if row else getattr(settings, _CAP, None)
    return None if cap is None else float(cap)


_CAP = "final_logit_softcapping"
