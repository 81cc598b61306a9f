"""Vocabularies alone as .gguf files, and where two tokenizers part."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf

from export.tokenizers.chats import PROBES
from export.tokenizers.probes import llama_vocabulary
from export.tokenizers.read import load_tokenizer, read_vocabulary
from export.tokenizers.vocabulary import Vocabulary

POOLS = [
    "abcdefghijklmnopqrstuvwxyzABCXYZ",
    "0123456789",
    "  \t\n\r",
    "'’\".,;:!?()[]{}-_/\\@#$%^&*+=<>|`~",
    "éüñßçøåÅ",
    "你好世界日本語한국어",
    "🙂🚀👩‍👩‍👧🇩🇪❤️",
    "\u00a0\u2003\u3000\u200b\u0085\u1680\u2028",
    "٠١٢३४५½²Ⅳ①",
    "ก็ั์កាन्",
    "\x01\x1c\x1f\x7f",
    "БыстраяЛИСАγρήγορη",
    "שלום",
]
CHAT = "{{ bos_token }}{% for m in messages %}<|user|>{{ m['content'] }}</s>{% endfor %}"


def strings(count: int, special: list[str], lines: Iterable[str] = ()) -> list[str]:
    """Mixtures of scripts, spaces, digits and symbols; words; one in six with special tokens in the text."""
    draw, found = random.Random(3), ["", "word" * 200, *lines]
    while len(found) < count:
        if len(found) % 2:
            text = "".join(draw.choice(draw.choice(POOLS)) for _ in range(draw.randint(1, 30)))
        else:
            text = " ".join(draw.choice(PROBES)[draw.randint(0, 40) :] for _ in range(2))
        if len(found) % 6 == 0 and special:
            text = f"{text}{draw.choice(special)}{text[:9]}{draw.choice(special)}\n"
        found.append(text)
    return found[:count]


def write_vocabulary(path: Path, vocabulary: Vocabulary, *, name: str = "test") -> Path:
    """A .gguf file without tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(vocabulary.model_name(name))
    writer.add_vocab_size(len(vocabulary.tokens))
    for add in (writer.add_block_count, writer.add_head_count, writer.add_context_length):
        add(1)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_layer_norm_rms_eps(1e-5)
    vocabulary.write(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path


def export(folder: Path) -> tuple[Path, Vocabulary, Any]:
    """(file with the vocabulary alone, Vocabulary, Hugging Face tokenizer) of a folder with config.json."""
    tokenizer = load_tokenizer(folder)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    vocabulary = read_vocabulary(folder, tokenizer, size)
    return write_vocabulary(folder / "vocab.gguf", vocabulary), vocabulary, tokenizer


def differences(path: Path, vocabulary: Vocabulary, tokenizer: Any, texts: list[str]) -> tuple[list[str], int]:
    """(texts that llama.cpp splits otherwise, texts compared: those that it can follow)."""
    followed, found = [text for text in texts if vocabulary.follows(text)], []
    with llama_vocabulary(path) as llama:
        for add in (False, True):
            wanted = tokenizer(followed, add_special_tokens=add)["input_ids"]
            for text, ids in zip(followed, wanted, strict=True):
                if llama.encode(text, add_special=add) != ids:
                    found.append(text)
    return found, len(followed)


def save(folder: Path, backend: Any, *, rows: int = 3, chat: str | None = CHAT, **settings: Any) -> Path:
    """A folder as ``save_pretrained`` leaves it, with ``rows`` more rows in the embedding than tokens."""
    backend.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "clean_up_tokenization_spaces": False}
    given = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": chat} | names | settings
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in given.items() if v is not None}))
    return config(folder, backend.get_vocab_size() + rows, backend.token_to_id("</s>"))


def config(folder: Path, size: int, end: int | None) -> Path:
    (folder / "config.json").write_text(json.dumps({"vocab_size": size, "eos_token_id": end}))
    return folder
