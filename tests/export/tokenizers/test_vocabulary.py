"""What a GGUF header tells the runtime about conversations is what transformers reads from the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_templates import DATED, STRICT
from small_folder import write_tokenizer
from vocab_file import export

from runtime.engine.chat import GGUF_SPECIAL, of_gguf, of_tokenizer
from runtime.engine.gguf_file import read_gguf

NAMED = [{"name": "default", "template": DATED}, {"name": "with tools", "template": STRICT}]


@pytest.mark.parametrize(
    ("given", "beyond_ids"),
    [
        ({}, False),
        ({"chat_template": NAMED}, False),
        ({"chat_template": NAMED[1:]}, False),
        ({"sep_token": "<s>", "mask_token": "<|user|>"}, True),
        ({"image_token": "<|system|>"}, True),
        ({"bos_token": None}, True),
        ({"eos_token": "<pad>"}, True),
    ],
)
def test_templates_and_special_tokens_are_in_the_header(
    tmp_path: Path, given: dict[str, Any], beyond_ids: bool
) -> None:
    size = write_tokenizer(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | given))
    ids = {"bos_token_id": 1, "eos_token_id": 2, "vocab_size": size}
    (tmp_path / "config.json").write_text(json.dumps(ids))
    path, _, tokenizer = export(tmp_path)
    header = read_gguf(path).metadata
    assert of_gguf(header) == of_tokenizer(tokenizer)
    assert (GGUF_SPECIAL in header) == beyond_ids  # files that need no such key stay as they were
