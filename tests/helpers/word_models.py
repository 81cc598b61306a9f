"""Tiny models of the families with a tokenizer of one token per word, and text for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny_families import save_tiny

WORDS = 90
SMALL = {"calibration_tokens": 1024, "calibration_length": 32}


def save_with_words(name: str, folder: Path) -> Any:
    """``save_tiny`` and a tokenizer.json; returns transformers' model."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(exist_ok=True)
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return save_tiny(name, folder)


def word_text(path: Path, tokens: int = 2048) -> Path:
    """A JSONL of random words."""
    draw = torch.randint(3, WORDS, (tokens // 64, 64), generator=torch.Generator().manual_seed(8))
    path.write_text("".join(json.dumps({"text": " ".join(f"w{i}" for i in row)}) + "\n" for row in draw.tolist()))
    return path
