"""A byte-level BPE tokenizer trained on the project's own text.

Digits stand alone, so that a number is copied digit by digit; all 256 bytes are in the alphabet, so
that any text can be written. The splitting pattern is Qwen2's, which llama.cpp (``qwen2``) and
onnxruntime-genai know by heart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

BOS, EOS, SYSTEM, USER, ASSISTANT, PAD = "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<pad>"
SPECIAL = (BOS, EOS, SYSTEM, USER, ASSISTANT, PAD)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{{- bos_token }}{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}{{- '<|assistant|>' + message['content'] + eos_token }}"
    "{%- else %}{{- '<|' + message['role'] + '|>' + message['content'] }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int, context: int) -> Any:
    """A ``PreTrainedTokenizerFast`` with at most ``vocabulary`` entries (deterministic for the same texts)."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode(tokenizer: Any, messages: Iterable[dict[str, str]]) -> tuple[list[int], list[int]]:
    """(ids, labels) of a conversation as the chat template writes it; labels are -100 outside assistant turns."""
    content = tokenizer.backend_tokenizer
    ids, labels = [tokenizer.bos_token_id], [-100]
    for message in messages:
        body = content.encode(message["content"], add_special_tokens=False).ids
        ids.append(tokenizer.convert_tokens_to_ids(f"<|{message['role']}|>"))
        labels.append(-100)
        if message["role"] == "assistant":
            body = [*body, tokenizer.eos_token_id]
        ids += body
        labels += body if message["role"] == "assistant" else [-100] * len(body)
    return ids, labels
