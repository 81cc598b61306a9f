"""config.json and generation_config.json from a GGUF header: what export/gguf/layout.py writes, the other way round.

A function per architecture of llama.cpp. ``layout_of`` of the result must name that same architecture, so that nothing
is claimed which the exporter could not read back.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import Any

from compress.errors import UnsupportedArchitecture
from export.gguf.arch import ARCHITECTURES
from export.gguf.layout import UNCAPPED, Layout, layout_of
from export.gguf.rope import FULL, SLIDING
from finetune.source.gguf.keys import Keys
from finetune.source.gguf.parts import GgufParts
from finetune.source.gguf.rope import rotary

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
Config = dict[str, Any]


def config_of(parts: GgufParts) -> tuple[Config, Layout]:
    """The config.json of a model, without token ids, and its layout.

    Raises UnsupportedArchitecture for another architecture or a variant that the exporter does not know, ArtifactError
    for a key that is missing or not what it must be.
    """
    build = _BUILDERS.get(parts.architecture)
    if build is None:
        raise UnsupportedArchitecture(
            f"{parts.path} is a {parts.architecture!r} model; known here: {', '.join(_BUILDERS)}",
            next="take a model of these architectures (Mistral, SmolLM and others are 'llama')",
        )
    keys = Keys(parts)
    if keys.get("expert_count"):
        raise UnsupportedArchitecture(
            f"{parts.path} has {keys.get('expert_count')} experts; mixtures are not known here",
            next="take a dense model",
        )
    config = build(keys)
    layout = layout_of(config)
    if layout.row.gguf != parts.architecture:
        raise keys.error(f"{parts.architecture!r} with these settings would be written as {layout.row.gguf!r}")
    return config, layout


def _common(keys: Keys, name: str) -> Config:
    """What every architecture has, in Llama's names."""
    heads, hidden = keys.count("attention.head_count"), keys.count("embedding_length")
    if EMBEDDING not in keys.parts.tensors:
        raise keys.error(f"{EMBEDDING} is missing")
    return {
        "architectures": [name],
        "model_type": ARCHITECTURES[name].model_type,
        "hidden_size": hidden,
        "intermediate_size": keys.count("feed_forward_length"),
        "num_hidden_layers": keys.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.count("attention.head_count_kv", heads),
        "max_position_embeddings": keys.count("context_length"),
        "vocab_size": keys.parts.shape(EMBEDDING)[0],
        "tie_word_embeddings": HEAD not in keys.parts.tensors,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),  # not the class's own: they may lie outside
    }


def _rotary(keys: Keys, name: str) -> Config:
    """The same with RMS norms and rotary positions."""
    config = _common(keys, name)
    head = keys.count("attention.key_length", max(1, config["hidden_size"] // config["num_attention_heads"]))
    if keys.count("attention.value_length", head) != head:
        raise keys.error("its keys and values have heads of different sizes")
    return (
        config
        | {
            "hidden_act": "silu",
            "head_dim": head,
            "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        }
        | rotary(keys, head, config["max_position_embeddings"])
    )


def _llama(keys: Keys) -> Config:
    names = keys.parts.tensors
    attention, ffn = (
        any(f"blk.{block}.{part}.bias" in names for block in range(keys.count("block_count")) for part in parts)
        for parts in (("attn_q", "attn_k", "attn_v", "attn_output"), ("ffn_gate", "ffn_up", "ffn_down"))
    )
    return _rotary(keys, "LlamaForCausalLM") | {"attention_bias": attention, "mlp_bias": ffn}


def _qwen2(keys: Keys) -> Config:
    return _rotary(keys, "Qwen2ForCausalLM") | {"use_sliding_window": False}


def _qwen3(keys: Keys) -> Config:
    return _rotary(keys, "Qwen3ForCausalLM") | {"use_sliding_window": False, "attention_bias": False}


def _phi3(keys: Keys) -> Config:
    return _rotary(keys, "Phi3ForCausalLM") | {"sliding_window": keys.window("attention.sliding_window") or None}


def _gemma(keys: Keys, name: str) -> Config:
    config = _rotary(keys, name)
    scaled_as = ARCHITECTURES[name].scaled_as
    whole = config["hidden_size"] // config["num_attention_heads"]
    del config["hidden_act"]
    return config | {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": whole if config["num_hidden_layers"] == scaled_as else config["head_dim"],
    }


def _gemma2(keys: Keys) -> Config:
    config = _gemma(keys, "Gemma2ForCausalLM")
    return config | {
        "attn_logit_softcapping": _cap(keys, "attn_logit_softcapping", 50.0),
        "final_logit_softcapping": _cap(keys, "final_logit_softcapping", 30.0),
        "sliding_window": keys.window("attention.sliding_window") or 4096,
        "layer_types": _kinds(keys, config["num_hidden_layers"], 2),
    }


def _gemma3(keys: Keys) -> Config:
    config, window = _gemma(keys, "Gemma3ForCausalLM"), keys.window("attention.sliding_window")
    layers = config["num_hidden_layers"]
    return config | {
        "attn_logit_softcapping": None,
        "final_logit_softcapping": _cap(keys, "final_logit_softcapping", None),
        "rope_local_base_freq": keys.number("rope.freq_base_swa", 10000.0),
        "sliding_window": window or 4096,
        "layer_types": _kinds(keys, layers, 6) if window else [FULL] * layers,
    }


def _cap(keys: Keys, name: str, default: float | None) -> float | None:
    """A cap; None where it is none or so large that it changes no logit."""
    if default is None and keys.get(name) is None:
        return None
    cap = keys.number(name, default)
    return cap if cap < UNCAPPED else None


def _kinds(keys: Keys, layers: int, period: int) -> list[str]:
    """``layer_types``: by the header's period or list, else by the architecture's period."""
    given = keys.get("attention.sliding_window_pattern")
    if given is not None and not isinstance(given, int):
        if not isinstance(given, list | array):
            raise keys.error(f"attention.sliding_window_pattern is {given!r:.40}, neither a period nor a list")
        windows = [bool(value) for value in given]
        if len(windows) != layers:
            raise keys.error(f"attention.sliding_window_pattern names {len(windows)} of {layers} blocks")
    else:
        every = keys.count("attention.sliding_window_pattern", period)
        windows = [(block + 1) % every != 0 for block in range(layers)]
    return [SLIDING if window else FULL for window in windows]


def _gpt2(keys: Keys) -> Config:
    config, row = _common(keys, "GPT2LMHeadModel"), ARCHITECTURES["GPT2LMHeadModel"]
    config["rms_norm_eps"] = keys.number("attention.layer_norm_epsilon")
    del config["num_key_value_heads"]
    named = {row.keys.get(name, name): value for name, value in config.items()}
    return named | {"activation_function": "gelu_new", "n_ctx": config["max_position_embeddings"]}


_BUILDERS: Mapping[str, Callable[[Keys], Config]] = {
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gpt2": _gpt2,
    "llama": _llama,
    "phi3": _phi3,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
}
"""``general.architecture`` -> what makes the config.json."""
