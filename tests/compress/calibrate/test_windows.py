"""Rows of calibration text: what cannot be read is named with file and line."""

import json

import pytest

from compress.calibrate.windows import calibration_windows, document_ids
from compress.errors import DataError

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
    "[" * 100_000: "not JSON",
    "7": "neither 'messages' nor 'text'",
}


@pytest.mark.parametrize("row", BAD)
def test_a_row_that_cannot_be_read_is_named(row, tiny_llama, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD + row + "\n")
    with pytest.raises(DataError, match=rf"rows.jsonl:2: .*{BAD[row]}"):
        list(document_ids(tiny_llama, path))


def test_a_row_that_the_template_refuses_is_named(tiny_llama, tmp_path):
    from shutil import copytree

    folder = copytree(tiny_llama, tmp_path / "m")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content + 1 }}")
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD + json.dumps({"messages": [TALK]}) + "\n")
    with pytest.raises(DataError, match=r"rows.jsonl:2: the chat template fails"):
        calibration_windows(folder, path, 64, 32)
