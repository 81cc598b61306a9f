"""Evaluation items: what is asked, what would be right, and whether a reply is."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compress import rows
from compress.errors import DataError
from compress.validate import classifier
from compress.validate.scoring import SCORERS, refusal
from runtime.rules import RuleBook, Turn
from runtime.rules.checks_format import read_json
from runtime.rules.instructions import expected_problems
from runtime.rules.json_schema import same

KNOWN = (*rows.PARTS, "chosen", "rejected", "label")


@dataclass(frozen=True)
class Item:
    """One row of eval.jsonl, ready to be asked."""

    id: str
    messages: Sequence[Mapping[str, Any]]
    """The prompt: the row's own system message, or the rule file's where the row has none."""
    turn: Turn
    answer: Any
    match: str
    cluster: str
    """Items of one scenario are not independent; they share this name. One question asked twice is one scenario."""

    def accurate(self, book: RuleBook, reply: str) -> bool:
        """Whether ``reply`` is right by the row's own ``expected``."""
        if self.match == "json":
            return _same_fields(self.answer, _fields(book, reply))
        text = book.parse(reply).text
        if self.match == "refusal":  # what the question was decides what much of it means
            return refusal(self.answer, text, self.turn.user)
        return SCORERS[self.match](self.answer, text)


def load_items(path: Path, book: RuleBook) -> list[Item]:
    """All items of ``path``, in order. Raises DataError naming the first unusable line."""
    items: list[Item] = []
    seen: dict[str, int] = {}
    for number, row in rows.numbered_rows(path, _SHAPE, _NO_ITEM):
        item = _item(path, number, row, book)
        if item.id in seen:
            raise DataError(path, number, f"id {item.id!r} stands on line {seen[item.id]} too", next=_OWN_ID)
        seen[item.id] = number
        items.append(item)
    if not items:
        raise DataError(path, None, "there are no evaluation items", next="add rows with messages and expected")
    return join_clusters(items)


def _item(path: Path, number: int, row: Mapping[str, Any], book: RuleBook) -> Item:
    turn = read_turn(path, number, row, book, KNOWN, _SHAPE, _NO_ITEM)
    if row["messages"][-1]["role"] == "assistant":
        raise DataError(path, number, "an evaluation item ends with the user's message", next=_SHAPE)
    if "expected" not in row:
        raise DataError(path, number, "expected is missing", next=_SHAPE)
    asked, expected = with_system(book, turn), row["expected"]
    name = str(row.get("id", f"line-{number}"))
    match = expected.get("match", "exact")
    return Item(name, asked.messages, asked, expected["answer"], match, str(row.get("cluster", f"#{number}")))


_SHAPE = 'a row is {"id", "messages": [{"role", "content"}…], "expected": {"answer", "match"}}'
_NO_ITEM = "not an evaluation item: "
_OWN_ID = "give every row an id of its own"
_MEND = "correct the row, or declare it in the rule file"


def read_turn(
    path: Path,
    number: int,
    row: Mapping[str, Any],
    book: RuleBook,
    known: Sequence[str],
    shape: str,
    prefix: str = "",
) -> Turn:
    """The turn of a row whose every part is of its type and known to the rule file.

    Raises DataError (file and line) for an unknown key, a part that is not what it must be, an undeclared fact, a
    label or rule that the file does not know, or an expected answer that the contract cannot hold.
    """
    try:
        rows.check_known_keys(row, known)
        if "messages" not in row:
            raise ValueError("messages is not a list of {role, content} (it is missing)")
        rows.check_parts(row)
        turn = Turn.from_row(row)
        rows.check_question(turn.messages)
    except ValueError as error:
        raise DataError(path, number, f"{prefix}{error}", next=shape) from None
    wrong = book.turn_problems(turn)
    expected = row.get("expected") or {}
    wrong += expected_problems(book, expected) + classifier.problems(expected)
    if wrong:
        raise DataError(path, number, "; ".join(wrong), next=_MEND)
    return turn


def join_clusters(items: Sequence[Item]) -> list[Item]:
    """The items with one cluster for all that share a cluster's name or ask the same question of the same facts."""
    leader: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        while leader.setdefault(key, key) != key:
            leader[key] = key = leader[leader[key]]
        return key

    asked = [("asked", rows.question_of(item.messages, item.turn.facts)) for item in items]
    for item, question in zip(items, asked, strict=True):
        leader[root(question)] = root(("named", item.cluster))
    names: dict[Hashable, str] = {}
    return [
        replace(item, cluster=names.setdefault(root(q), item.cluster)) for item, q in zip(items, asked, strict=True)
    ]


def with_system(book: RuleBook, turn: Turn) -> Turn:
    """``turn`` with the rule file's system prompt in front, unless it has a system message already."""
    if not book.system or any(message["role"] == "system" for message in turn.messages):
        return turn
    system = {"role": "system", "content": book.system_prompt(turn.facts, turn.prompted)}
    return Turn((system, *turn.messages), turn.facts, turn.labels, turn.sources, turn.prompted)


def _fields(book: RuleBook, reply: str) -> Any:
    if book.contract is not None:
        return book.parse(reply).fields
    return read_json(reply)[0]


def _same_fields(answer: Mapping[str, Any], fields: Any) -> bool:
    return isinstance(fields, Mapping) and all(name in fields and same(fields[name], answer[name]) for name in answer)
