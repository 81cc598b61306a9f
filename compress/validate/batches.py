"""Which prompts are read together: those that begin alike, and of like length."""

from __future__ import annotations

from collections.abc import Sequence

WINDOW = 8
"""Batches whose prompts are ordered together."""


def plan_batches(prompts: Sequence[Sequence[int]], size: int, *, reverse: bool = False) -> list[list[int]]:
    """Indices of ``prompts`` in batches of at most ``size``: prompts with a common beginning side by side, and among
    neighbours those of like length, where that computes fewer tokens.

    ``reverse`` starts the cutting from the other end, which gives batches of another composition.
    """
    order = sorted(range(len(prompts)), key=lambda i: (tuple(prompts[i]), i), reverse=reverse)
    windows = [order[at : at + WINDOW * size] for at in range(0, len(order), WINDOW * size)]
    return [batch for window in windows for batch in _cut(prompts, window, size)]


def _cut(prompts: Sequence[Sequence[int]], window: Sequence[int], size: int) -> list[list[int]]:
    by_length = sorted(window, key=lambda i: len(prompts[i]))
    cuts = [[list(order[at : at + size]) for at in range(0, len(order), size)] for order in (window, by_length)]
    return min(cuts, key=lambda batches: sum(_computed([prompts[i] for i in batch]) for batch in batches))


def _computed(rows: Sequence[Sequence[int]]) -> int:
    """Tokens that reading ``rows`` in one batch takes."""
    shared = common_prefix(rows)
    return shared + len(rows) * (max(map(len, rows)) - shared)


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Tokens that all ``rows`` begin with, leaving at least one token of each row."""
    low, high = min(map(tuple, rows)), max(map(tuple, rows))
    shared = 0
    for a, b in zip(low, high, strict=False):
        if a != b:
            break
        shared += 1
    return min(shared, min(len(row) for row in rows) - 1)
