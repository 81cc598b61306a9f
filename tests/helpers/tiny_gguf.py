"""A random Llama model with a byte-level vocabulary, small enough to be written by a fixture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTROLS = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|pad|>"]
HIDDEN, LAYERS, HEADS, HEADS_KV, FFN = 64, 2, 4, 2, 96


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(extra)) for b in range(256)]


def write_tiny_gguf(
    path: Path,
    *,
    seed: int = 0,
    context: int = 256,
    templates: Mapping[str, str] | None = None,
    roles: int = 3,
) -> Path:
    """Write the model; the same seed gives the same bytes. ``roles``: type of the tokens that mark roles (3 control,
    4 user-defined); ``templates``: instead of TEMPLATE, by name."""
    rng = np.random.default_rng(seed)
    tokens = [*CONTROLS, *byte_alphabet(), "th"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(context)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS_KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, roles, roles, roles, 3] + [1] * 257)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(4)
    writer.add_add_bos_token(False)
    writer.add_chat_template([{"name": n, "template": t} for n, t in (templates or {"default": TEMPLATE}).items()])
    for name, shape in tensor_shapes(len(tokens)):
        scale = 1.0 if len(shape) == 1 else 0.5 if name == "token_embd.weight" else 2.0 / np.sqrt(shape[1])
        data = np.ones(shape) if len(shape) == 1 else rng.normal(0, scale, shape)
        writer.add_tensor(name, data.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensor_shapes(n_vocab: int) -> list[tuple[str, tuple[int, ...]]]:
    """Names and numpy shapes of the model's tensors."""
    kv = HIDDEN // HEADS * HEADS_KV
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("token_embd.weight", (n_vocab, HIDDEN)),
        ("output_norm.weight", (HIDDEN,)),
    ]
    for i in range(LAYERS):
        rows = {
            "attn_norm": (HIDDEN,),
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (kv, HIDDEN),
            "attn_v": (kv, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_norm": (HIDDEN,),
            "ffn_gate": (FFN, HIDDEN),
            "ffn_up": (FFN, HIDDEN),
            "ffn_down": (HIDDEN, FFN),
        }
        shapes += [(f"blk.{i}.{name}.weight", shape) for name, shape in rows.items()]
    return [*shapes, ("output.weight", (n_vocab, HIDDEN))]
