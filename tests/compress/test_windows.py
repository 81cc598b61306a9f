"""Chat rows are rendered as transformers renders them, at a time that stands still; bad rows are named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from shutil import copytree

import pytest
from chat_templates import DATED, STRICT
from pydantic import ValidationError
from small_folder import write_tokenizer

from compress.errors import DataError, UsageError
from compress.stage import CalibratedParams
from compress.windows import calibration_windows, document_ids, read_rows, render_row

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


GOOD = '{"text": "My order never arrived."}\n'
TALK = {"role": "user", "content": "hi"}
BAD = {
    '{"text": null}': "'text' is None, not a text",
    '{"text": 5}': "'text' is 5, not a text",
    '{"text": ["a"]}': r"'text' is \['a'\], not a text",
    '{"text": "x \\ud83d y"}': r"half of a character \(\\ud83d\)",
    '{"messages": "user: hi"}': "'messages' is 'user: hi', not a list",
    '{"messages": []}': r"'messages' is \[\], not a list",
    '{"messages": ["hi"]}': "message 1 is 'hi', not an object",
    json.dumps({"messages": [TALK, {"content": "x"}]}): "message 2 is .*, not an object with a 'role'",
    json.dumps({"messages": [TALK, {"role": "assistant", "content": None}]}): "message 2 is None, not a text",
    json.dumps({"messages": [TALK, {"role": "assistant", "content": 7}]}): "content of message 2 is 7, not a text",
    '{"messages": [{"role": "user", "content": "\\udc00"}]}': r"half of a character \(\\udc00\)",
    '{"other": 1}': "neither 'messages' nor 'text'",
    "[" * 100_000: "not a line of JSON",
    "7": "a number, not an object",
    '{"text": "a", "text": "b"}': "the key 'text' stands twice",
}


@pytest.mark.parametrize("row", BAD)
def test_a_row_that_cannot_be_read_is_named(row, tiny_llama, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD + row + "\n")
    with pytest.raises(DataError, match=rf"rows.jsonl:2: .*{BAD[row]}"):
        list(document_ids(tiny_llama, path))


def test_a_byte_order_mark_and_blank_lines_are_no_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\ufeff" + GOOD + "\n" + GOOD)
    assert [number for number, _ in read_rows(path)] == [1, 3]


def test_a_packed_file_that_is_cut_short_is_named(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD.encode() * 99)[:-12])
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz: cannot be read"):
        list(read_rows(path))


def test_a_row_that_the_template_refuses_is_named(tiny_llama, tmp_path):
    folder = copytree(tiny_llama, tmp_path / "m")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content + 1 }}")
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD + json.dumps({"messages": [TALK]}) + "\n")
    with pytest.raises(DataError, match=r"rows.jsonl:2: the chat template fails"):
        calibration_windows(folder, path, 64, 32)


def test_windows_are_no_longer_than_the_models_context(tiny_llama, tmp_path, caplog):
    folder = copytree(tiny_llama, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32}))
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD * 60)
    assert calibration_windows(folder, path, 128, 64).shape == (4, 32)
    assert "has a context of 32, which is used" in caplog.text
    assert calibration_windows(tiny_llama, path, 128, 64).shape == (2, 64)


def test_a_budget_holds_a_window_at_least():
    with pytest.raises(ValidationError, match="256 are less than one window of calibration_length 512"):
        CalibratedParams(calibration_tokens=256, calibration_length=512)
