"""Write a random Llama-shaped checkpoint (bfloat16, sharded) with a byte tokenizer and calibration text.

    python benchmarks/gptq/random_model.py OUT [--shape 87m|1b|7b] [--tokenizer FOLDER]

FOLDER gives its tokenizer instead (llama.cpp's converter wants one that it knows); its tokens must fit the shape.

Tensors are drawn and written slab by slab, so memory stays at a slab whatever the size.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHAPES = {  # hidden, FFN, blocks, heads, KV heads, vocabulary
    "87m": (768, 2048, 12, 12, 12, 4096),
    "1b": (2048, 5632, 22, 32, 4, 32000),
    "7b": (4096, 14336, 32, 32, 8, 32000),
}


def config(shape: str) -> dict[str, object]:
    """config.json of a shape."""
    hidden, ffn, blocks, heads, kv_heads, vocab = SHAPES[shape]
    return {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 0,
        "dtype": "bfloat16",
        "eos_token_id": 1,
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": blocks,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": shape == "87m",
        "vocab_size": vocab,
    }


def specs(shape: str) -> list:
    """Names and shapes of all tensors."""
    from compress.model.weights import TensorSpec

    hidden, ffn, blocks, heads, kv_heads, vocab = SHAPES[shape]
    kv = hidden // heads * kv_heads
    sizes = {"q_proj": hidden, "k_proj": kv, "v_proj": kv, "o_proj": hidden}
    found = [("model.embed_tokens.weight", (vocab, hidden)), ("model.norm.weight", (hidden,))]
    if shape != "87m":
        found.append(("lm_head.weight", (vocab, hidden)))
    for block in range(blocks):
        place = f"model.layers.{block}."
        found += [(f"{place}self_attn.{name}.weight", (out, hidden)) for name, out in sizes.items()]
        found += [(f"{place}mlp.{name}.weight", (ffn, hidden)) for name in ("gate_proj", "up_proj")]
        found.append((f"{place}mlp.down_proj.weight", (hidden, ffn)))
        found += [(f"{place}{name}.weight", (hidden,)) for name in ("input_layernorm", "post_attention_layernorm")]
    return [TensorSpec(name, "BF16", size) for name, size in found]


TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def write(out: Path, shape: str, tokenizer: Path | None) -> None:
    """The whole folder."""
    import torch

    from compress.model.weights import write_model

    out.mkdir(parents=True)
    wanted = {spec.name: spec for spec in specs(shape)}
    generator = torch.Generator().manual_seed(1)

    def draw(name: str) -> torch.Tensor:
        size = wanted[name].shape
        tensor = torch.empty(size, dtype=torch.bfloat16)
        if len(size) == 1:
            return tensor.fill_(1.0)
        for slab in tensor.split(1024):
            slab.copy_(torch.randn(slab.shape, generator=generator) * size[1] ** -0.5)
        return tensor

    write_model(out, list(wanted.values()), draw)
    settings = config(shape)
    if tokenizer is not None:
        del settings["bos_token_id"], settings["eos_token_id"]  # the tokenizer's own
    (out / "config.json").write_text(json.dumps(settings, indent=2))
    if tokenizer is None:
        byte_tokenizer(out / "tokenizer.json")
    else:
        for name in TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, out / name)
    words = random.Random(1)
    rows = (" ".join(words.choices(["kettle", "order", "refund", "please", "late", "box"], k=400)) for _ in range(64))
    (out / "calibration.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))


def byte_tokenizer(file: Path) -> None:
    """A token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(file))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="87m")
    parser.add_argument("--tokenizer", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    write(options.out, options.shape, options.tokenizer)


if __name__ == "__main__":
    main()
