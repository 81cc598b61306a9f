"""Small Hugging Face folders made from a seed, for tests of the exporters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXT = [
    "The customer asks where the order 48213 is; we answer politely and give the date.",
    "Hello, how can I help you today? I'm sorry, that's not possible.",
    'def f(x): return {"action": "answer", "priority": "P1"}',
    "numbers 0 1 2 3 4 5 6 7 8 9 and words, words, words!",
] * 3


def pre_tokenizer(kind: str) -> Any:
    """The Hugging Face pre-tokenizer of a family of byte-level tokenizers."""
    from tokenizers import Regex, pre_tokenizers

    spaced = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if kind == "gpt-2":
        return spaced
    if kind == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), spaced])
    pattern = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}") if kind == "qwen2" else LLAMA3
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), bare])


def write_tokenizer(folder: Path, *, kind: str = "smollm", vocab: int = 400, texts: list[str] | None = None) -> int:
    """A byte-level BPE tokenizer; returns its size."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    tokenizer.pre_tokenizer = pre_tokenizer(kind)
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts or TEXT, trainer)
    if kind == "llama-bpe":
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer.get_vocab_size()


def write_config(folder: Path, architecture: str, **sizes: Any) -> dict[str, Any]:
    """config.json and generation_config.json."""
    config = {
        "architectures": [architecture],
        "model_type": {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral"}.get(architecture, "qwen2"),
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 256,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float32",
    } | sizes
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "bos_token_id": 1}))
    return config


def weights(config: dict[str, Any], *, bias: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights with outliers, by Hugging Face name."""
    draw = np.random.default_rng(seed)
    hidden, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, k = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        block = {"q": (q, hidden), "k": (k, hidden), "v": (k, hidden), "o": (hidden, q)}
        shapes |= {f"{at}self_attn.{name}_proj.weight": shape for name, shape in block.items()}
        if bias:
            shapes |= {f"{at}self_attn.{name}_proj.bias": (block[name][0],) for name in "qkv"}
        mlp = {"gate": (ffn, hidden), "up": (ffn, hidden), "down": (hidden, ffn)}
        shapes |= {f"{at}mlp.{name}_proj.weight": shape for name, shape in mlp.items()}
        shapes |= {f"{at}{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
    return {name: _values(draw, name, shape) for name, shape in shapes.items()}


def _values(draw: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if "norm" in name:
        return draw.uniform(0.5, 1.5, shape).astype(np.float32)
    values = draw.standard_normal(shape) * draw.uniform(0.3, 3.0, shape[-1]) / np.sqrt(shape[-1])
    return values.astype(np.float32)


def write_model(
    folder: Path,
    *,
    architecture: str = "LlamaForCausalLM",
    hidden: int = 256,
    ffn: int = 512,
    layers: int = 2,
    heads: int = 8,
    kv_heads: int = 2,
    tied: bool = True,
    kind: str = "smollm",
    bias: bool = False,
    seed: int = 0,
    **extra: Any,
) -> Path:
    """A whole folder with random weights."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    vocab = write_tokenizer(folder, kind=kind)
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": tied,
        "vocab_size": vocab + 3,
    }
    config = write_config(folder, architecture, **(sizes | extra))
    save_file(weights(config, bias=bias, seed=seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
