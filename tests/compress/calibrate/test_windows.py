"""Chat rows are rendered as transformers renders them, at a time that stands still."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_templates import DATED, STRICT
from small_folder import write_tokenizer

from compress.calibrate.windows import render_row
from compress.errors import DataError, UsageError

ROW = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]}


def folder_of(place: Path, template: object) -> Path:
    write_tokenizer(place)
    file = place / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template, "sep_token": "<s>"}))
    return place


def test_a_row_is_what_transformers_renders(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = folder_of(tmp_path, [{"name": "default", "template": STRICT}, {"name": "x", "template": "x"}])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for prompt in (False, True):
        expected = tokenizer.apply_chat_template(ROW["messages"], tokenize=False, add_generation_prompt=prompt)
        assert render_row(folder, tmp_path / "d.jsonl", 1, ROW, generation_prompt=prompt) == expected


def test_the_date_stands_still(tmp_path: Path) -> None:
    text = render_row(folder_of(tmp_path, DATED), tmp_path / "d.jsonl", 1, ROW)
    assert text.startswith("Today is 01 January 2025.")


def test_a_changed_template_is_read_again(tmp_path: Path) -> None:
    assert render_row(folder_of(tmp_path, "a"), tmp_path, 1, ROW) == "a"
    assert render_row(folder_of(tmp_path, "b"), tmp_path, 1, ROW) == "b"


def test_what_cannot_be_rendered_is_named(tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    with pytest.raises(UsageError, match="no default; there are: x, y"):
        render_row(folder_of(tmp_path, [{"name": n, "template": n} for n in "xy"]), data, 7, ROW)
    with pytest.raises(DataError, match=r"d\.jsonl:7: the chat template refuses these messages: no"):
        render_row(folder_of(tmp_path, "{{ raise_exception('no') }}"), data, 7, ROW)
