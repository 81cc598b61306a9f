"""The gate on recorded replies: two JSONL files from any two systems, paired by ``id``.

A row is ``{"id", "messages", "reply": text or object, "facts"?, "labels"?, "sources"?, "prompted"?, "truncated"?,
"expected"?, "cluster"?}``; any other key is an error. Everything but ``reply`` and ``truncated`` belongs to the
question, so it must be the same in both files; ``expected`` and ``cluster`` may stand in one of them only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress import rows
from compress.errors import DataError
from compress.validate.gate import Answer, judge
from compress.validate.items import Item, join_clusters, read_turn
from runtime.rules import RuleBook, Turn, load_rules

SHAPE = 'a row is {"id", "messages": [{"role", "content"}…], "reply": "text" or {contract fields}}; see docs/gate.md'
KNOWN = (*rows.PARTS, "reply", "truncated")
QUESTION = ("messages", "facts", "labels", "sources", "prompted")


@dataclass(frozen=True)
class _Recorded:
    """One line of a file."""

    line: int
    row: Mapping[str, Any]
    turn: Turn
    answer: Answer


def gate_files(baseline: Path, candidate: Path, rules: Path) -> dict[str, Any]:
    """Judge ``candidate`` against ``baseline`` by the rule file: ``{verdict, reasons, suites, rules, side_effects}``.

    Raises RuleError for the rule file, DataError (file and line) for a line that cannot be used, a doubled id, an id
    that only one file has, or a question that differs between the files.
    """
    book = load_rules(rules)
    first, second = _read(Path(baseline), book), _read(Path(candidate), book)
    _same_ids(Path(baseline), first, Path(candidate), second)
    items = join_clusters([_item(Path(baseline), Path(candidate), name, first[name], second[name]) for name in first])
    answers = [first[name].answer for name in first], [second[name].answer for name in first]
    return judge(book, items, *answers, mode="recorded").to_json()


def _read(path: Path, book: RuleBook) -> dict[str, _Recorded]:
    found: dict[str, _Recorded] = {}
    for number, row in rows.numbered_rows(path, SHAPE):
        if "id" not in row:
            raise DataError(path, number, "id is missing", next=SHAPE)
        recorded, name = _recorded(path, number, row, book), str(row["id"])
        if name in found:
            raise DataError(path, number, f"id {name!r} stands on line {found[name].line} too", next=_DOUBLED)
        found[name] = recorded
    if not found:
        raise DataError(path, None, "the file has no rows", next=SHAPE)
    return found


_DOUBLED = "give every reply an id of its own; the same question asked twice is two ids and one cluster"


def _recorded(path: Path, number: int, row: Mapping[str, Any], book: RuleBook) -> _Recorded:
    turn = read_turn(path, number, row, book, KNOWN, SHAPE)
    truncated = row.get("truncated", False)
    if not isinstance(truncated, bool):
        raise DataError(path, number, f"truncated is {truncated!r}, not true or false", next=SHAPE)
    return _Recorded(number, row, turn, Answer(_reply(path, number, row, book), truncated))


def _reply(path: Path, number: int, row: Mapping[str, Any], book: RuleBook) -> str:
    reply = row.get("reply")
    if isinstance(reply, str):
        return reply
    if not isinstance(reply, dict):
        what = rows.kind(reply) if "reply" in row else "missing"
        raise DataError(path, number, f"reply is {what}, not a text or an object", next=SHAPE)
    if book.contract is None:
        raise DataError(
            path, number, "reply is an object, but the rule file has no contract", next="add contract: to the rule file"
        )
    return json.dumps(reply, ensure_ascii=False)


def _same_ids(baseline: Path, first: Mapping[str, _Recorded], candidate: Path, second: Mapping[str, _Recorded]) -> None:
    for path, mine, other_path, other in ((baseline, first, candidate, second), (candidate, second, baseline, first)):
        alone = [name for name in mine if name not in other]
        if alone:
            more = f" ({len(alone)} such ids)" if len(alone) > 1 else ""
            raise DataError(
                path,
                mine[alone[0]].line,
                f"id {alone[0]!r} is not in {other_path}{more}",
                next="record both systems on the same questions; a reply that is missing is a reply too (empty text)",
            )


def _item(baseline: Path, candidate: Path, name: str, first: _Recorded, second: _Recorded) -> Item:
    for key in QUESTION:
        if (first.row.get(key) or None) != (second.row.get(key) or None):
            raise DataError(
                candidate, second.line, f"{key} of id {name!r} differ from {baseline}:{first.line}", next=_PAIRED
            )
    merged = {key: _either(key, name, first, second, candidate) for key in ("expected", "cluster")}
    expected = merged["expected"] or {}
    match = expected.get("match", "exact") if expected else ""
    cluster = str(merged["cluster"]) if merged["cluster"] is not None else f"#{name}"
    return Item(name, first.turn.messages, first.turn, expected.get("answer"), match, cluster)


_PAIRED = "a paired comparison needs the same question on both sides"


def _either(key: str, name: str, first: _Recorded, second: _Recorded, candidate: Path) -> Any:
    mine, other = first.row.get(key), second.row.get(key)
    if mine is not None and other is not None and mine != other:
        raise DataError(candidate, second.line, f"{key} of id {name!r} differs between the files", next=_PAIRED)
    return mine if mine is not None else other
