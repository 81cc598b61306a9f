"""Whether wording matters more than compression: the baseline asked the same things in harmless other words.

A candidate's flips mean little beside those that a blank line causes. So the baseline answers some items again, each in
the wordings of ``WORDINGS``; their flips stand beside those of the candidates on the same items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compress.validate.answers import score
from compress.validate.items import Item
from compress.validate.runner import Messages
from runtime.rules import RuleBook

LINE = "You are a helpful assistant."


def spaced(messages: Messages) -> Messages:
    """A blank line behind every message that is not the assistant's."""
    return [m if m["role"] == "assistant" else {**m, "content": f"{m['content']}\n\n"} for m in messages]


def introduced(messages: Messages) -> Messages:
    """One general sentence in front of the system message, or as one where there is none."""
    if messages[0]["role"] in ("system", "developer"):
        return [{**messages[0], "content": f"{LINE}\n{messages[0]['content']}"}, *messages[1:]]
    return [{"role": "system", "content": LINE}, *messages]


def polite(messages: Messages) -> Messages:
    """A greeting in front of the last question."""
    return [*messages[:-1], {**messages[-1], "content": f"Hello! {messages[-1]['content']}"}]


WORDINGS: dict[str, tuple[str, Callable[[Messages], Messages]]] = {
    "blank lines": ("a blank line behind every message", spaced),
    "general sentence": (f"{LINE!r} in front of the system message", introduced),
    "greeting": ("'Hello!' in front of the last question", polite),
}
"""Name -> what is changed, and the function that changes it."""


@dataclass(frozen=True)
class Reworded:
    """What the baseline said to ``rows`` (numbers of items) in one wording: ``(text, truncated)`` each."""

    name: str
    rows: Sequence[int]
    replies: Sequence[tuple[str, bool]]

    def to_json(self) -> dict[str, Any]:
        """For scratch."""
        return {"name": self.name, "rows": list(self.rows), "replies": [list(reply) for reply in self.replies]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Reworded:
        """Read back what ``to_json`` gave."""
        return cls(value["name"], value["rows"], [(text, truncated) for text, truncated in value["replies"]])


def reword(items: Sequence[Item], name: str) -> list[Item]:
    """The items in another wording. What they are judged by stays as it is."""
    change = WORDINGS[name][1]
    return [replace(item, messages=change(item.messages)) for item in items]


Said = Sequence[tuple[str, bool]]


def changes(book: RuleBook, items: Sequence[Item], before: Said, after: Said) -> dict[str, Any]:
    """What differs between two answers to every item: texts, right answers and rules, each ``[to pass, to fail]``."""
    first, second = score(book, items, before), score(book, items, after)
    rules = [(a[name], b[name]) for a, b in zip(first.rules, second.rules, strict=True) for name in a]
    return {
        "n": len(items),
        "text_changed": sum(a[0] != b[0] for a, b in zip(before, after, strict=True)),
        "accuracy_flips": flips(list(zip(first.accurate, second.accurate, strict=True))),
        "rule_n": len(rules),
        "rule_flips": flips(rules),
    }


def flips(pairs: Sequence[tuple[bool, bool]]) -> list[int]:
    """``[to pass, to fail]``."""
    return [sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs)]


def sensitivity(
    book: RuleBook,
    items: Sequence[Item],
    reworded: Sequence[Reworded],
    baseline: Said,
    others: Mapping[str, Mapping[int, tuple[str, bool]]],
) -> list[dict[str, Any]]:
    """A row for every wording and for all of ``others`` (what candidates and the baseline's second pass said, by the
    place of the item) on the same items, against the baseline's own answers:
    ``{name, what, n, text_changed, accuracy_flips, rule_n, rule_flips}``."""
    if not reworded:
        return []
    rows = reworded[0].rows

    def row(name: str, what: str, asked: Sequence[int], after: Said) -> dict[str, Any]:
        some = [items[number] for number in asked]
        return {"name": name, "what": what, **changes(book, some, [baseline[number] for number in asked], after)}

    found = [row(one.name, WORDINGS[one.name][0], one.rows, one.replies) for one in reworded]
    for name, replies in others.items():
        asked = [number for number in rows if number in replies]
        found.append(row(name, "the same words", asked, [replies[number] for number in asked]))
    return found
