"""A random Llama model of a few thousand parameters with its own tokenizer, made here."""

from __future__ import annotations

import json
from pathlib import Path

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXTS = [
    '{"action": "answer", "reply": "Your order ships today."}',
    '{"action": "escalate", "reply": "A colleague will call you."}',
    "where is my order please help I want to sue you lawyer hello",
]


def make_tokenizer(folder: Path) -> int:
    """Write a byte-level BPE tokenizer with a chat template; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return len(fast)


def make_model(folder: Path, *, seed: int = 0, layers: int = 2) -> Path:
    """Write a random Llama folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=make_tokenizer(folder),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=5,
        initializer_range=0.4,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def prompts(count: int) -> list[list[dict[str, str]]]:
    """Prompts of several lengths, two system prompts."""
    return [
        [
            {"role": "system", "content": f"you are helpful {n % 2}"},
            {"role": "user", "content": "where is my order " * (1 + n % 3) + json.dumps({"n": n})},
        ]
        for n in range(count)
    ]
