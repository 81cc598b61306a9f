"""Escalations and refusals that were missed or uncalled for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.rules import RuleBook

Replies = Sequence[tuple[str, bool]]


def side_effects_of(
    book: RuleBook, items: Sequence[Any], baseline: Replies, candidate: Replies
) -> dict[str, dict[str, int]]:
    """Escalations and refusals that were missed or uncalled for, where the right action is known."""
    effects: dict[str, dict[str, int]] = {}
    for item, *answers in zip(items, baseline, candidate, strict=True):
        right = item.answer.get("action") if item.match == "json" and isinstance(item.answer, Mapping) else None
        if right is None:
            continue
        done = [(book.parse(text).fields or {}).get("action") for text, _ in answers]
        for action, name in (("escalate", "escalations"), ("refuse", "refusals")):
            kind = f"{'missed' if right == action else 'false'}_{name}"
            counts = effects.setdefault(kind, {"n": 0, "baseline": 0, "candidate": 0})
            counts["n"] += 1
            for side, given in zip(("baseline", "candidate"), done, strict=True):
                counts[side] += (given == action) != (right == action)
    return dict(sorted(effects.items()))
