"""Folders as a user has them, of the real tokenizers among the shared data."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

from vocab_file import config

MISTRAL = {
    "mistral-v1": "tokenizer.model.v1",
    "mistral-v2": "mistral_instruct_tokenizer_240216.model.v2",
    "mistral-v3": "mistral_instruct_tokenizer_240323.model.v3",
}
FOLDERS = ("gpt2", "falcon", "phi3", *MISTRAL, "m7", "stories260k", "stories260k-spm", "babyllama105")
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + '\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def real_folder(shared: Path, place: Path, name: str) -> Path:
    """A copy of the tokenizer's files and a config.json."""
    if name in MISTRAL:
        shutil.copyfile(shared / "tokenizers" / "mistral" / MISTRAL[name], place / "tokenizer.model")
        settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True, "unk_token": "<unk>"}
        _settings(place, settings | {"bos_token": "<s>", "eos_token": "</s>", "chat_template": INSTRUCT})
        return config(place, 32768, 2)
    if name == "phi3":
        (place / "tokenizer.json").write_bytes(gzip.decompress(_phi3(shared).read_bytes()))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|endoftext|>"}
        _settings(place, settings | {"unk_token": "<unk>", "chat_template": PHI3})
        return config(place, 32064, 32007)
    if name == "falcon":
        return _falcon(shared, place)
    source = shared / ("tokenizers" if name == "gpt2" else "models") / name
    for path in source.iterdir():
        if path.is_file() and path.suffix in (".json", ".jinja", ".txt", ".model"):
            shutil.copyfile(path, place / path.name)
    return config(place, 50257, 50256) if name == "gpt2" else place


def _phi3(shared: Path) -> Path:
    return shared / "tokenizers" / "phi3v" / "tokenizer.json.gz"


def _settings(place: Path, settings: dict[str, Any]) -> None:
    (place / "tokenizer_config.json").write_text(json.dumps(settings))


def _falcon(shared: Path, place: Path) -> Path:
    """tokenizer.json from the vocabulary that llama.cpp tests with, and Falcon's published pre-tokenizer."""
    tokens, merges, types = gguf_lists(shared / "gguf_vocab" / "ggml-vocab-falcon.gguf")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": i, "content": tokens[i]} | flags for i, kind in enumerate(types) if kind == 3]
    steps = [
        {"type": "Punctuation", "behavior": "Contiguous"},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        {"type": "Digits", "individual_digits": False},
        {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": False},
    ]
    model = {"type": "BPE", "vocab": {text: i for i, text in enumerate(tokens)}, "merges": merges}
    data = {"version": "1.0", "added_tokens": added, "normalizer": None, "post_processor": None, "decoder": None}
    data |= {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}, "model": model}
    (place / "tokenizer.json").write_text(json.dumps(data))
    _settings(place, {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"})
    return config(place, len(tokens), tokens.index("<|endoftext|>"))


def gguf_lists(path: Path) -> tuple[list[str], list[str], list[int]]:
    """(token texts, merges, token types) of a .gguf file."""
    import gguf

    fields = gguf.GGUFReader(path).fields
    texts, merges = (
        [bytes(fields[key].parts[i]).decode() for i in fields[key].data] if key in fields else []
        for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    )
    kinds = fields["tokenizer.ggml.token_type"]
    return texts, merges, [int(kinds.parts[i][0]) for i in kinds.data]


def real_lines(shared: Path, count: int) -> list[str]:
    """Customer messages, encyclopedia text, documents and prompts."""
    with (shared / "banking77" / "test.csv").open(encoding="utf-8") as file:
        found = [row[0] for row in csv.reader(file)][: count // 2]
    stories = (shared / "tinystories_sample" / "tinystories_sample.txt").read_text(encoding="utf-8")
    return found + stories.splitlines()[: count - len(found)]
