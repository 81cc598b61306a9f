"""Random small models of every family and variant, saved by transformers, with a tokenizer of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from small_folder import write_tokenizer

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
    "n_ctx": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_theta": 500000.0,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
ODD_YARN = {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False, "attention_factor": 1.3}
MSCALE = {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2}


def _long(original: int, frequencies: int, kind: str = "longrope") -> dict[str, Any]:
    return {
        "rope_scaling": {
            "type": kind,
            **({} if kind == "longrope" else {"original_max_position_embeddings": original}),
            "short_factor": [1.0 + 0.1 * i for i in range(frequencies)],
            "long_factor": [1.0 + 2.0 * i for i in range(frequencies)],
        },
        "original_max_position_embeddings": original,
        "max_position_embeddings": 512,
    }


WINDOW = {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1}
GEMMA = {"sliding_window": 32, "head_dim": 24, "query_pre_attn_scalar": 24}
NESTED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
MIXED = ["full_attention", "sliding_attention", "full_attention"]

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama-wide-biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 24}),
    "llama-linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 500.0}),
    "llama-llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama-dynamic": ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    "llama-yarn": ("llama", {"rope_scaling": YARN}),
    "llama-yarn-mscale": ("llama", {"rope_scaling": MSCALE}),
    "llama-yarn-odd": ("llama", {"rope_scaling": ODD_YARN}),
    "llama-longrope": ("llama", _long(64, 8)),
    "llama-stray-window": ("llama", {"sliding_window": 16}),
    "mistral": ("mistral", {"sliding_window": None, "head_dim": 32}),
    "mistral-window-beyond": ("mistral", {"sliding_window": 512}),
    "qwen2": ("qwen2", {}),
    "qwen2-tied-yarn": ("qwen2", {"rope_scaling": MSCALE, "tie_word_embeddings": True}),
    "qwen2-window-off": ("qwen2", {**WINDOW, "use_sliding_window": False}),
    "qwen2-fewer-heads": ("qwen2", {"head_dim": 16, "num_attention_heads": 2, "num_key_value_heads": 1}),
    "qwen2-llama3": ("qwen2", {"rope_parameters": LLAMA3}),
    "qwen2-yarn-odd": ("qwen2", {"rope_scaling": ODD_YARN}),
    "qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3-yarn": ("qwen3", {"rope_scaling": YARN, "head_dim": 16}),
    "gemma2": ("gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),
    "gemma2-uncapped": (
        "gemma2",
        {
            **GEMMA,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "query_pre_attn_scalar": 7,
            "rope_scaling": {"type": "linear", "factor": 2.0},
        },
    ),
    "gemma2-pattern": ("gemma2", {**GEMMA, "layer_types": MIXED, "query_pre_attn_scalar": 256}),
    "gemma2-46-blocks": ("gemma2", {**GEMMA, "num_hidden_layers": 46, "query_pre_attn_scalar": 20}),
    "gemma3": (
        "gemma3_text",
        {
            **GEMMA,
            "num_hidden_layers": 7,
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
            "layer_types": MIXED,
            "rope_parameters": NESTED,
            "query_pre_attn_scalar": 100,
            "tie_word_embeddings": False,
        },
    ),
    "gemma3-full": ("gemma3_text", {**GEMMA, "layer_types": ["full_attention"] * 3}),
    "gemma2-full": ("gemma2", {**GEMMA, "layer_types": ["full_attention"] * 3}),
    "gemma2-sliding": ("gemma2", {**GEMMA, "layer_types": ["sliding_attention"] * 3}),
    "gemma3-sliding": ("gemma3_text", {**GEMMA, "layer_types": ["sliding_attention"] * 3}),
    "gemma3-62-blocks": ("gemma3_text", {**GEMMA, "num_hidden_layers": 62, "query_pre_attn_scalar": 20}),
    "phi3": ("phi3", {"tie_word_embeddings": True}),
    "phi3-partial": ("phi3", {"partial_rotary_factor": 0.75, "num_key_value_heads": 4}),
    "phi3-longrope-short": ("phi3", {"partial_rotary_factor": 0.5, **_long(256, 4)}),
    "phi3-longrope-long": ("phi3", {"partial_rotary_factor": 0.5, **_long(64, 4)}),
    "phi3-su": ("phi3", {**_long(64, 8, "su"), "sliding_window": 512}),
    "phi3-fewer-heads": ("phi3", {"head_dim": 16, "num_attention_heads": 2, "num_key_value_heads": 1}),
    "gpt2": ("gpt2", {}),
    "gpt2-untied-narrow": ("gpt2", {"tie_word_embeddings": False, "n_inner": 80}),
}
"""Name -> ``model_type`` and what config.json says beside the sizes."""
PLAIN = ("gemma2", "gemma3", "gpt2", "llama-wide-biases", "mistral", "phi3", "qwen2", "qwen3")
"""One case of each family."""
GELU = ("gemma", "gpt2")
"""Families whose activation ggml looks up in half precision."""


def save_family(case: str, folder: Path, *, seed: int = 3, **more: Any) -> Path:
    """The case's model with random weights under its raw config.json; ``more`` overrides the case."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    vocab = write_tokenizer(folder)
    kind, extra = CASES[case]
    config = {"model_type": kind, "vocab_size": vocab + 3, **(GPT2 if kind == "gpt2" else SIZES), **extra, **more}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).eval()
    deep = model.config.num_hidden_layers > 10
    for name, parameter in model.named_parameters():
        spread = torch.empty(parameter.shape[-1]).uniform_(0.5, 2)
        parameter.data.normal_(0, 1).mul_(spread / 5)
        if deep and ".post_" in name:
            parameter.data.fill_(-0.95)  # blocks that add little: rounding does not grow on the way
    config["architectures"] = [type(model).__name__]
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "bos_token_id": 1}))
    return folder
