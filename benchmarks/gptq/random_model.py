"""Write a random Llama-shaped checkpoint (bfloat16, sharded) with a byte tokenizer and calibration text.

    python benchmarks/gptq/random_model.py OUT [--shape 87m|1b|7b]

Tensors are drawn and written slab by slab, so memory stays at a slab whatever the size.
"""

from __future__ import annotations

import argparse
import json
import random
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
    from compress.weights import TensorSpec

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


def write(out: Path, shape: str) -> None:
    """The whole folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from compress.weights import write_model

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
    (out / "config.json").write_text(json.dumps(config(shape), indent=2))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(out / "tokenizer.json"))
    words = random.Random(1)
    rows = (" ".join(words.choices(["kettle", "order", "refund", "please", "late", "box"], k=400)) for _ in range(64))
    (out / "calibration.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="87m")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    write(options.out, options.shape)


if __name__ == "__main__":
    main()
