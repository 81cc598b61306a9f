"""Stopping early: evidence that may be looked at as often as one likes.

Each pair pays a bet against the hypothesis that the difference is ``lam``: with d = 1, 0 or -1 (candidate only, both or
neither, baseline only) wealth is multiplied by 1 + L (d - lam), which under the hypothesis does not grow on average. By
Ville's inequality it ever exceeds 1/alpha with a probability of at most alpha, so that a verdict may be given at any
look: an e-process (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS B
86:1-27; Ramdas et al. 2023, Statistical Science 38:576-601). The mean of the wealth of several fixed stakes is wealth
too, and depends on the counts alone.

The items have an end, and whatever wealth lacks there the exact test may still show: of alpha, ``STREAMED`` is spent
on the looks and the rest, ``CLOSING``, on the exact test behind the last item.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import NamedTuple

import numpy as np

from compress.validate.score_test import ALPHA, BETTER, WORSE, p_value

STREAMED = 0.035
"""Share of alpha that all looks together may spend."""
CLOSING = ALPHA - STREAMED
"""Share of alpha left to the exact test behind the last item."""
BETS = np.array([1.0, *np.arange(0.05, 1.0, 0.1)])
"""Stakes as shares of the largest: 1 wins most without a flip and loses all at the first one against it."""
PRIOR = np.array([0.4, *[0.06] * 10])
LOOK, GROWTH = 300, 1.36
"""One look comes after so many items, just enough for a hard rule without a violation; the others by which factor
before and behind it."""
FIRST_LOOK = 60
"""Fewest items of a look, unless there are no more."""


class Looks(NamedTuple):
    """When the outcomes were looked at: after so many items, ascending. ``complete``: there are no more."""

    ends: tuple[int, ...]
    complete: bool


def plan_looks(items: int) -> tuple[int, ...]:
    """Numbers of items after which the verdict is looked at; the last is ``items``."""
    ends = [round(LOOK * GROWTH**k) for k in range(-20, 60)]
    last = {LOOK} if items > LOOK else set()
    return (*(end for end in ends if FIRST_LOOK <= end < items / GROWTH**0.5 or end in last), items)


def log_wealth(n: float, b: float, c: float, lam: float, side: int) -> float:
    """Natural logarithm of the wealth after n pairs (b baseline only, c candidate only) against the hypothesis that the
    difference is at most (BETTER) or at least (WORSE) ``lam``; counts may be real."""
    stakes = BETS / (1 + side * lam)
    counts = np.array([[c], [n - b - c], [b]], np.float64)
    factors = 1 + side * stakes * (np.array([[1.0], [0.0], [-1.0]]) - lam)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(counts > 1e-12, counts * np.log(np.maximum(factors, 0.0)), 0.0).sum(axis=0) + np.log(PRIOR)
    most = float(logs.max())
    return most + log(float(np.exp(logs - most).sum()))


def sequential_verdict(looked: Sequence[tuple[float, float, float]], margin: float, *, complete: bool) -> int:
    """BETTER (not worse than the margin), WORSE or 0 (not sure), from the counts (n, b, c) at every look: what was sure
    once stays sure."""
    for n, b, c in looked:
        for side in (BETTER, WORSE):
            if log_wealth(n, b, c, -margin, side) >= -log(STREAMED):
                return side
    for side in (BETTER, WORSE):
        if complete and p_value(*looked[-1], -margin, side) <= CLOSING:
            return side
    return 0


def sequence_bounds(n: float, b: float, c: float) -> tuple[float, float]:
    """Lower and upper bounds of the difference that hold at all looks at once, each with probability 1 - STREAMED."""
    estimate = (c - b) / n
    low = _edge(n, b, c, BETTER, -1.0 + 1e-9, estimate)
    high = _edge(n, b, c, WORSE, 1.0 - 1e-9, estimate)
    return low, high


def _edge(n: float, b: float, c: float, side: int, refuted: float, open_: float) -> float:
    """The last hypothesis that is not refuted, on the way from one that is (if any is) to the estimate."""
    if log_wealth(n, b, c, refuted, side) < -log(STREAMED):
        return refuted
    for _ in range(30):
        middle = (refuted + open_) / 2
        if log_wealth(n, b, c, middle, side) >= -log(STREAMED):
            refuted = middle
        else:
            open_ = middle
    return open_
