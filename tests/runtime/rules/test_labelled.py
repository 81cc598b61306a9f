"""Short texts of our own with what each checker should say of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.rules import load_rules  # noqa: F401  (registers every kind)
from runtime.rules.kinds import KINDS
from runtime.rules.sentences import sentences
from runtime.rules.text import plain
from runtime.rules.turn import Reply, Turn

ROWS = [json.loads(line) for line in Path(__file__).with_name("labelled.jsonl").open(encoding="utf-8")]


def said(row):
    if row["kind"] == "sentences":
        return len(sentences(plain(row["text"])))
    kind = KINDS["must_not" if row["kind"] == "leaks" else "must", row["kind"]]
    reply = Reply(Turn([{"role": "user", "content": "hi"}]), row["text"])
    return kind.check(reply, kind.adapter.validate_python(row["arg"]))[0]


@pytest.mark.parametrize("kind", sorted({row["kind"] for row in ROWS}))
def test_labelled_texts(kind):
    rows = [row for row in ROWS if row["kind"] == kind]
    wanted = {"sentences": "count", "leaks": "found"}.get(kind, "holds")
    assert len(rows) >= 30
    assert [row for row in rows if said(row) != row[wanted]] == []
