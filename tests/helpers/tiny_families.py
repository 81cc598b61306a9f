"""Random small models of every family, saved by transformers from a config.json as the families publish it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SIZES = {
    "vocab_size": 90,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {
    "vocab_size": 90,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONG = {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.5], "long_factor": [1.0, 2.0, 4.0, 8.0]}
SLIDING = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
NESTED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
GEMMA = {"sliding_window": 8, "head_dim": 24, "query_pre_attn_scalar": 20}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 24, "tie_word_embeddings": True}),
    "llama-linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 500.0}),
    "llama-llama3": ("llama", {"rope_parameters": {**LLAMA3, "rope_theta": 500.0}}),
    "llama-dynamic": ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    "llama-dynamic-beyond": (
        "llama",
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 16},
    ),
    "llama-yarn": ("llama", {"rope_scaling": YARN}),
    "qwen2-yarn-mscale": ("qwen2", {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2, "truncate": False}}),
    "mistral": ("mistral", {"sliding_window": 8}),
    "mistral-full": ("mistral", {"sliding_window": None, "hidden_act": "gelu"}),
    "qwen2": ("qwen2", SLIDING),
    "qwen2-full": ("qwen2", {**SLIDING, "use_sliding_window": False}),
    "qwen3": ("qwen3", {**SLIDING, "head_dim": 32, "attention_bias": True}),
    "gemma2": ("gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),
    "gemma2-uncapped": ("gemma2", {**GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3": (
        "gemma3_text",
        {
            **GEMMA,
            "sliding_window_pattern": 2,
            "rope_theta": 3e5,
            "rope_local_base_freq": 200.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "gemma3-nested": (
        "gemma3_text",
        {
            **GEMMA,
            "final_logit_softcapping": 3.0,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": NESTED,
        },
    ),
    "phi3": ("phi3", {"partial_rotary_factor": 0.5, "sliding_window": 8}),
    "phi3-longrope-short": (
        "phi3",
        {"partial_rotary_factor": 0.5, "rope_scaling": LONG, "original_max_position_embeddings": 32},
    ),
    "phi3-longrope-long": (
        "phi3",
        {"partial_rotary_factor": 0.5, "rope_scaling": LONG, "original_max_position_embeddings": 16},
    ),
    "gpt2": ("gpt2", {}),
    "gpt2-untied": (
        "gpt2",
        {
            "tie_word_embeddings": False,
            "n_inner": 80,
            "activation_function": "relu",
            "scale_attn_by_inverse_layer_idx": True,
        },
    ),
    "gpt2-unscaled": ("gpt2", {"scale_attn_weights": False}),
    "llama-strays": (
        "llama",
        {
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "query_pre_attn_scalar": 5,
            "scale_attn_weights": False,
            "scale_attn_by_inverse_layer_idx": True,
            "hidden_activation": "gelu",
            "layer_norm_epsilon": 0.5,
            "rms_norm_eps": 0.0,
        },
    ),
    "phi3-strays": ("phi3", {"sliding_window": 8, "layer_types": ["full_attention"] * 3}),
    "gpt2-strays": ("gpt2", {"hidden_act": "silu", "rms_norm_eps": 0.5, "final_logit_softcapping": 3.0}),
}
"""Name -> ``model_type`` and what config.json says beside the sizes."""
PLAIN = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2"]
"""One case of each family."""


def save_tiny(name: str, folder: Path) -> Any:
    """Save the case's model with random weights under its raw config.json; returns transformers' model, float32."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, extra = CASES[name]
    config = {"model_type": kind, **(GPT2 if kind == "gpt2" else SIZES), **extra}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return model


def ids(windows: int = 2, positions: int = 24) -> torch.Tensor:
    """Random tokens."""
    return torch.randint(0, 90, (windows, positions), generator=torch.Generator().manual_seed(4))
