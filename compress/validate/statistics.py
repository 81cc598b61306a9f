"""The gate's arithmetic: paired non-inferiority, exact bounds, clusters and sample sizes. Numbers in, numbers out.

Notation of Tango (1998), "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design", Statistics in Medicine 17:891-908: of n pairs, c were passed by the candidate only and b by
the baseline only; the difference is estimated by (c - b)/n and tested at the value lambda. Every function takes
real-valued counts, which is how a design effect enters: (n, b, c)/deff.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil, inf, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

ALPHA = 0.05
"""One-sided level of every test."""
Z = NormalDist().inv_cdf(1 - ALPHA)
VIOLATIONS = 0.01
"""Largest tolerated violation rate of a hard rule."""
PASS, FAIL, INCONCLUSIVE, NOT_TESTED = "PASS", "FAIL", "INCONCLUSIVE", "n/a"
MAX_N = 10**9


@dataclass(frozen=True)
class Interval:
    """An estimate with its one-sided 95 % lower and upper bounds, and what they say of the margin."""

    estimate: float
    low: float
    high: float
    verdict: str
    needed: int | None = None
    """For INCONCLUSIVE: how many units would decide if the rates stayed as they are; None when no number would."""


def tango_q(n: float, b: float, c: float, lam: float) -> float:
    """Maximum-likelihood probability of a baseline-only pass when the difference is ``lam``."""
    A = 2 * n
    B = -b - c + (2 * n - c + b) * lam
    C = -b * lam * (1 - lam)
    return max((sqrt(max(B * B - 4 * A * C, 0.0)) - B) / (2 * A), -lam, 0.0)


def tango_z(n: float, b: float, c: float, lam: float) -> float:
    """Score statistic for the hypothesis that the difference is ``lam``; large means candidate better than that."""
    variance = n * (2 * tango_q(n, b, c, lam) + lam * (1 - lam))
    gap = c - b - n * lam
    if variance <= 1e-12 * n:
        return 0.0 if abs(gap) <= 1e-12 * n else inf if gap > 0 else -inf
    return gap / sqrt(variance)


def tango_bounds(n: float, b: float, c: float, z: float = Z) -> tuple[float, float]:
    """One-sided lower and upper confidence bounds of the difference, by inverting the score test (bisection)."""
    estimate = (c - b) / n
    low = _crossing(lambda lam: tango_z(n, b, c, lam) > z, -1.0, estimate)
    high = _crossing(lambda lam: tango_z(n, b, c, lam) >= -z, estimate, 1.0)
    return low, high


def _crossing(true_below: Callable[[float], bool], low: float, high: float) -> float:
    """Where a condition that holds at ``low`` stops to hold on the way to ``high``."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if true_below(middle) else (low, middle)
    return (low + high) / 2


def non_inferiority(n: int, b: int, c: int, margin: float, deff: float = 1.0) -> Interval:
    """PASS when the lower bound of the difference is above ``-margin``, FAIL when the upper bound is below it.

    The test itself (score statistic at lambda = -margin) decides, so a bound's rounding never does.
    """
    low, high = tango_bounds(n / deff, b / deff, c / deff)
    verdict = _tango_verdict(n / deff, b / deff, c / deff, margin)
    needed = None
    if verdict == INCONCLUSIVE:
        needed = _smallest(n, lambda m: _tango_verdict(m / deff, b * m / n / deff, c * m / n / deff, margin) != verdict)
    return Interval((c - b) / n, low, high, verdict, needed)


def _tango_verdict(n: float, b: float, c: float, margin: float) -> str:
    z = tango_z(n, b, c, -margin)
    return PASS if z >= Z else FAIL if z <= -Z else INCONCLUSIVE


def _smallest(start: int, decided: Callable[[int], bool]) -> int | None:
    """The smallest number >= start that decides (``decided`` is monotone), or None up to MAX_N."""
    high = max(start, 1)
    while not decided(high):
        high *= 2
        if high > MAX_N:
            return None
    low = max(start, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle + 1, high)
    return high


def clopper_pearson(violations: float, n: float, alpha: float = ALPHA) -> tuple[float, float]:
    """One-sided exact lower and upper bounds of a rate, each at ``1 - alpha`` (Clopper & Pearson 1934)."""
    from scipy.special import betaincinv

    low = float(betaincinv(violations, n - violations + 1, alpha)) if violations > 0 else 0.0
    high = float(betaincinv(violations + 1, n - violations, 1 - alpha)) if violations < n else 1.0
    return low, high


def hard_limit(violations: int, n: int, deff: float = 1.0, limit: float = VIOLATIONS) -> Interval:
    """PASS when the upper bound of the violation rate is at most ``limit``, FAIL when the lower bound is above it.

    With clusters, the effective counts of Korn & Graubard (1998), Survey Methodology 24: (violations, n)/deff.
    """
    low, high = clopper_pearson(violations / deff, n / deff)
    verdict = _limit_verdict(violations / deff, n / deff, limit)
    needed = None
    if verdict == INCONCLUSIVE:
        rate = violations / n
        needed = _smallest(n, lambda m: _limit_verdict(rate * m / deff, m / deff, limit) != INCONCLUSIVE)
    return Interval(violations / n, low, high, verdict, needed)


def _limit_verdict(violations: float, n: float, limit: float) -> str:
    low, high = clopper_pearson(violations, n)
    return PASS if high <= limit else FAIL if low > limit else INCONCLUSIVE


def vacuous(passed: int, n: int, margin: float) -> bool:
    """Whether the baseline passes so little that a candidate which passes nothing would still be within the margin."""
    return passed <= margin * n


def shown_above(violations: int, n: int, limit: float, deff: float = 1.0) -> bool:
    """Whether the exact one-sided 95 % lower bound of the violation rate lies above ``limit``."""
    return clopper_pearson(violations / deff, n / deff)[0] > limit


def design_effect(values: ArrayLike, clusters: ArrayLike) -> float:
    """By how much clustering inflates the variance of the mean of ``values``; 1 without clusters.

    Ratio of the cluster-robust to the independent variance, with one imagined cluster of average size that moves as
    a block added to both: with few or no flips nothing can be learned about dependence, so a cluster counts as
    one unit then; with many flips the data speak. Never below 1.
    """
    found = np.asarray(values, np.float64)
    _, place, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    count, apart = len(sizes), found - found.mean()
    if count == len(found):
        return 1.0
    typical = float((sizes.astype(np.float64) ** 2).sum()) / len(found)
    totals = np.bincount(place.ravel(), apart, count)
    robust = float(totals @ totals) * (count / (count - 1) if count > 1 else 1.0)
    independent = float(apart @ apart)
    return max((robust + typical * typical) / (independent + typical), 1.0)


def zero_flip_floor(margin: float) -> int:
    """Pairs without a single flip that it takes to pass: z^2 (1 - margin)/margin, rounded up."""
    return ceil(Z * Z * (1 - margin) / margin)


def hard_floor(limit: float = VIOLATIONS) -> int:
    """Replies without a single violation that it takes to pass a hard rule (299 at 1 %)."""
    return _smallest(1, lambda n: _limit_verdict(0, n, limit) == PASS) or 0


def sample_size(margin: float, discordance: float, difference: float = 0.0, power: float = 0.9) -> int | None:
    """Pairs needed to show non-inferiority with the given power.

    ``discordance`` is the expected share of pairs that flip (either way) and ``difference`` the expected
    candidate - baseline. Null variance at lambda = -margin as in the score test, alternative variance
    discordance - difference^2 (Tango 1998, section 5; Liu et al. 2002, Statistics in Medicine 21:231-245).
    None when the expected difference is at or below the margin.
    """
    if difference <= -margin:
        return None
    if abs(difference) > discordance or discordance > 1:
        raise ValueError(f"a difference of {difference} cannot come from {discordance} flips per pair")
    b, c = (discordance - difference) / 2, (discordance + difference) / 2
    null = 2 * tango_q(1.0, b, c, -margin) - margin * (1 + margin)
    spread = Z * sqrt(null) + NormalDist().inv_cdf(power) * sqrt(discordance - difference**2)
    return ceil((spread / (margin + difference)) ** 2 - 1e-9)


def why_n(n: int, margin: float, discordance: float, difference: float = 0.0, power: float = 0.9) -> str:
    """One sentence that says what ``n`` items can decide."""
    wanted = sample_size(margin, discordance, difference, power)
    start = f"A margin of {100 * margin:g} points needs {zero_flip_floor(margin)} items even if no answer changes"
    if wanted is None:
        return f"{start}; at a difference of {100 * difference:+.1f} points no number of items would pass."
    enough = "enough" if n >= wanted else f"too few by {wanted - n}"
    return (
        f"{start}, and {wanted} to pass with {100 * power:.0f} % probability if {100 * discordance:g} % of the answers "
        f"change and the difference is {100 * difference:+.1f} points: {n} items are {enough}."
    )


def gatekeep(order: Iterable[tuple[str, str]]) -> tuple[str | None, dict[str, str]]:
    """Fixed-sequence test over ``(name, verdict)`` from least to most compressed: stop at the first that does not pass.

    Returns the last that passed before that, and the verdicts with ``n/a`` for what was not reached. Each test is at
    the full alpha: a later one counts only if all before it passed (Maurer, Hothorn & Lehmacher 1995).
    """
    chosen: str | None = None
    stopped = False
    verdicts: dict[str, str] = {}
    for name, verdict in order:
        verdicts[name] = NOT_TESTED if stopped else verdict
        if not stopped and verdict == PASS:
            chosen = name
        stopped = stopped or verdict != PASS
    return chosen, verdicts
