"""A rule book that judges each reply to an item once.

A validation checks the same replies many times: both passes of the baseline, every candidate and what the guard lets
out are mostly alike, and each is counted in several ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from runtime.rules import RuleBook, Turn, Verdict
from runtime.rules.book import Rule


@dataclass(frozen=True)
class RememberingBook(RuleBook):
    """``RuleBook`` with the verdicts it gave; for a few thousand turns that live as long as it does."""

    given: dict[tuple[int, str, bool], tuple[Turn, tuple[Verdict, ...]]] = field(default_factory=dict, compare=False)
    """By turn and reply. The turn is held, so that nothing else can have its identity."""

    def check(
        self, turn: Turn, reply_text: str, truncated: bool = False, active: Sequence[Rule] | None = None
    ) -> tuple[Verdict, ...]:
        """As in ``RuleBook``; ``active`` is what ``self.active(turn)`` gives."""
        key = (id(turn), reply_text, truncated)
        if key not in self.given:
            self.given[key] = turn, super().check(turn, reply_text, truncated, active)
        return self.given[key][1]


def remember(book: RuleBook) -> RememberingBook:
    """``book``, remembering."""
    values: dict[str, Any] = {each.name: getattr(book, each.name) for each in fields(book)}
    return RememberingBook(**values)
