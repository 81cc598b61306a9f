"""Evaluation items: what is asked, what would be right, and whether a reply is."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import DataError
from runtime.rules import RuleBook, Turn

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
MATCHES = ("choice", "contains", "exact", "json", "numeric")


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
    """Items of one scenario are not independent; they share this name."""

    def accurate(self, book: RuleBook, reply: str) -> bool:
        """Whether ``reply`` is right by the row's own ``expected``."""
        if self.match == "json":
            return _same_fields(self.answer, _fields(book, reply))
        return SCORERS[self.match](self.answer, book.parse(reply).text)


def load_items(path: Path, book: RuleBook) -> list[Item]:
    """All items of ``path``, in order. Raises DataError naming the first unusable line."""
    items: list[Item] = []
    seen: dict[str, int] = {}
    with open(path, encoding="utf-8") as handle:
        for number, line in enumerate(handle, start=1):
            if line.strip():
                item = _item(path, number, line, book)
                if item.id in seen:
                    raise DataError(path, number, f"id {item.id!r} stands on line {seen[item.id]} too")
                seen[item.id] = number
                items.append(item)
    if not items:
        raise DataError(path, None, "there are no evaluation items", next="add rows with messages and expected")
    return items


def _item(path: Path, number: int, line: str, book: RuleBook) -> Item:
    try:
        row = json.loads(line)
        messages, expected = row["messages"], row["expected"]
        answer, match = expected["answer"], expected.get("match", "exact")
        turn = Turn.from_row(row)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            path, number, f"not an evaluation item ({type(error).__name__}: {error})", next=_SHAPE
        ) from None
    if match not in MATCHES:
        raise DataError(path, number, f"expected.match is {match!r}", next=f"known: {', '.join(MATCHES)}")
    if match == "json" and not isinstance(answer, Mapping):
        raise DataError(path, number, "expected.answer must be an object where expected.match is json")
    if match == "numeric" and not NUMBER.fullmatch(str(answer)):
        raise DataError(path, number, f"expected.answer {answer!r} is not a number, but expected.match is numeric")
    if not messages or messages[-1].get("role") == "assistant":
        raise DataError(path, number, "an evaluation item ends with the user's message", next=_SHAPE)
    asked = with_system(book, turn)
    return Item(
        str(row.get("id", f"line-{number}")),
        asked.messages,
        asked,
        answer,
        match,
        str(row.get("cluster", f"#{number}")),
    )


_SHAPE = 'a row is {"id", "messages": [{"role", "content"}…], "expected": {"answer", "match"}}'


def with_system(book: RuleBook, turn: Turn) -> Turn:
    """``turn`` with the rule file's system prompt in front, unless it has a system message already."""
    if not book.system or any(message["role"] == "system" for message in turn.messages):
        return turn
    system = {"role": "system", "content": book.system_prompt(turn.facts, turn.prompted)}
    return Turn((system, *turn.messages), turn.facts, turn.labels, turn.sources, turn.prompted)


def _fields(book: RuleBook, reply: str) -> Any:
    if book.contract is not None:
        return book.parse(reply).fields
    try:
        return json.loads(reply)
    except ValueError:
        return None


def _same_fields(answer: Mapping[str, Any], fields: Any) -> bool:
    return isinstance(fields, Mapping) and all(name in fields and fields[name] == answer[name] for name in answer)


def _plain(text: Any) -> str:
    return " ".join(unicodedata.normalize("NFKC", str(text)).casefold().split())


def _exact(answer: Any, text: str) -> bool:
    return _plain(answer).rstrip(".") == _plain(text).rstrip(".")


def _contains(answer: Any, text: str) -> bool:
    """Every wanted phrase stands in the text, at word boundaries."""
    wanted = answer if isinstance(answer, list) else [answer]
    said = _plain(text)
    return all(re.search(rf"(?<!\w){re.escape(_plain(phrase))}(?!\w)", said) for phrase in wanted)


def _numeric(answer: Any, text: str) -> bool:
    """The last number of the text (thousands commas allowed) equals the answer."""
    found = NUMBER.findall(text)
    if not found:
        return False
    wanted = float(str(answer).replace(",", ""))
    return abs(float(found[-1].replace(",", "")) - wanted) <= 1e-6 * max(1.0, abs(wanted))


def _choice(answer: Any, text: str) -> bool:
    """The label the text opens with, such as ``B`` or ``(B)``, or else its last stand-alone capital letter."""
    opening = re.match(r"\s*\(?([A-Z])\)?(?=[\s.:,)]|$)", text)
    labels = [opening[1]] if opening else re.findall(r"(?<!\w)([A-Z])(?!\w)", text)
    return bool(labels) and labels[-1] == str(answer).strip().upper()


SCORERS: dict[str, Callable[[Any, str], bool]] = {
    "choice": _choice,
    "contains": _contains,
    "exact": _exact,
    "numeric": _numeric,
}
