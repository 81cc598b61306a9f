"""The gate's arithmetic: paired non-inferiority, exact bounds, and how many items it takes. Numbers in, numbers out.

The score test and its exact p-values stand in ``score_test``, clusters in ``clusters``, stopping early in
``sequential``. Every function takes real-valued counts, which is how a design effect enters: (n, b, c)/deff.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import ceil, sqrt
from statistics import NormalDist

from compress.validate.clusters import Clustering, design_effect, imagined, widened
from compress.validate.score_test import (
    ALPHA,
    BETTER,
    WORSE,
    Z,
    bounds,
    significant,
    tango_bounds,
    tango_q,
    tango_z,
)

__all__ = [
    "ALPHA",
    "FAIL",
    "INCONCLUSIVE",
    "NOT_TESTED",
    "PASS",
    "VIOLATIONS",
    "Clustering",
    "Interval",
    "Z",
    "clip",
    "clopper_pearson",
    "design_effect",
    "enough",
    "gatekeep",
    "hard_floor",
    "hard_limit",
    "in_clusters",
    "non_inferiority",
    "power_of",
    "sample_size",
    "shown_above",
    "tango_bounds",
    "tango_q",
    "tango_z",
    "vacuous",
    "why_n",
    "zero_flip_floor",
]

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


def non_inferiority(
    n: int, b: int, c: int, margin: float, deff: float = 1.0, *, grown: Callable[[float], float] | None = None
) -> Interval:
    """PASS when the difference is shown to be above ``-margin``, FAIL when it is shown to be below, by exact p-values.

    The test itself decides, so a bound's rounding never does. ``grown`` is the design effect if there were so many
    times as many items; by default it stays ``deff``.
    """
    verdict = _verdict(n / deff, b / deff, c / deff, margin)
    low, high = bounds(n / deff, b / deff, c / deff)
    needed = enough(n, b, c, margin, grown or (lambda scale: deff)) if verdict == INCONCLUSIVE else None
    return clip(Interval((c - b) / n, low, high, verdict, needed), margin)


def enough(n: int, b: int, c: int, margin: float, grown: Callable[[float], float], level: float = ALPHA) -> int | None:
    """How many pairs would decide if the rates stayed as they are; ``grown``: the design effect of so many times as
    many."""

    def decided(m: int) -> bool:
        share = m / n / grown(m / n)
        counts = n * share, b * share, c * share
        return any(significant(*counts, -margin, side, level) for side in (BETTER, WORSE))

    return _smallest(n, decided)


def clip(found: Interval, margin: float) -> Interval:
    """The interval with its bounds on the side of ``-margin`` that the verdict says."""
    low = max(found.low, -margin) if found.verdict == PASS else min(found.low, -margin)
    high = min(found.high, -margin) if found.verdict == FAIL else max(found.high, -margin)
    return replace(found, low=low, high=high)


def _verdict(n: float, b: float, c: float, margin: float) -> str:
    if significant(n, b, c, -margin, BETTER):
        return PASS
    return FAIL if significant(n, b, c, -margin, WORSE) else INCONCLUSIVE


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


def zero_flip_floor(margin: float) -> int:
    """Pairs without a single flip that it takes to pass: the smallest n with (1 - margin)^n <= alpha."""
    return _smallest(1, lambda n: significant(n, 0, 0, -margin, BETTER)) or 0


def hard_floor(limit: float = VIOLATIONS) -> int:
    """Replies without a single violation that it takes to pass a hard rule (299 at 1 %)."""
    return _smallest(1, lambda n: _limit_verdict(0, n, limit) == PASS) or 0


@lru_cache(maxsize=256)
def power_of(n: int, margin: float, discordance: float, difference: float = 0.0) -> float:
    """Probability that ``n`` independent pairs pass, summed over all outcomes.

    ``discordance`` is the expected share of pairs that flip (either way), ``difference`` the expected
    candidate - baseline.
    """
    from scipy.special import bdtr

    p_b, p_c = _flip_rates(discordance, difference)
    passing = _passing(n, margin, n * p_b + 8 * sqrt(n * p_b) + 8, n * p_c + 8 * sqrt(n * p_c) + 8)
    given = min(p_b / (1 - p_c), 1.0) if p_c < 1 else 0.0
    shares = _binomials(n, len(passing), p_c)
    known = enumerate(zip(passing, shares, strict=True))
    return float(sum(share * bdtr(most, n - c, given) for c, (most, share) in known if most >= 0))


def _binomials(n: int, count: int, p: float) -> list[float]:
    """P(X = 0), …, P(X = count - 1) of a binomial."""
    from scipy.special import bdtr

    below = [0.0, *(float(bdtr(k, n, p)) for k in range(count))]
    return [high - low for low, high in pairwise(below)]


def _passing(n: int, margin: float, most_b: float, most_c: float) -> list[int]:
    """For c = 0, 1, … the largest b (at most ``most_b``) that passes, or -1."""
    found, b = [], -1
    for c in range(int(min(most_c, n)) + 1):
        while b < min(most_b, n - c) and significant(n, b + 1, c, -margin, BETTER):
            b += 1
        found.append(min(b, n - c))
    return found


def _flip_rates(discordance: float, difference: float) -> tuple[float, float]:
    if abs(difference) > discordance or discordance > 1:
        raise ValueError(f"a difference of {difference} cannot come from {discordance} flips per pair")
    return (discordance - difference) / 2, (discordance + difference) / 2


def sample_size(
    margin: float,
    discordance: float,
    difference: float = 0.0,
    power: float = 0.9,
    *,
    cluster_size: float = 1.0,
    icc: float = 1.0,
) -> int | None:
    """Pairs needed to show non-inferiority with the given power, by the exact test.

    ``discordance`` is the expected share of pairs that flip (either way) and ``difference`` the expected
    candidate - baseline. Pairs come in clusters of ``cluster_size`` whose flips correlate by ``icc``; unless it is
    known to be less, a cluster counts as one pair. The search starts at the normal approximation (null variance at
    lambda = -margin as in the score test, alternative variance discordance - difference^2: Tango 1998, section 5; Liu
    et al. 2002, Statistics in Medicine 21:231-245). None when the expected difference is at or below the margin.
    """
    if difference <= -margin:
        return None
    alone = _independent_size(margin, discordance, difference, power)
    return in_clusters(alone, discordance - difference**2, margin, cluster_size, icc)


def in_clusters(alone: int, variance: float, margin: float, size: float, icc: float) -> int | None:
    """How many items in clusters of ``size`` count for as much as ``alone`` independent ones in a test at ``margin``,
    by the design effect that is to be expected. ``variance``: of an item's value; ``icc``: correlation in a cluster."""
    if size <= 1:
        return alone

    def enough(n: int) -> bool:
        flips, extra, count = n * variance, imagined(n, size, margin), max(n / size, 2)
        block = (1 + (size - 1) * icc) * count / (count - 1) * widened(count)
        return n >= alone * (flips * block + extra * size) / (flips + extra) - 1e-9

    return _smallest(alone, enough)


@lru_cache(maxsize=256)
def _independent_size(margin: float, discordance: float, difference: float, power: float) -> int:
    p_b, p_c = _flip_rates(discordance, difference)
    null = 2 * tango_q(1.0, p_b, p_c, -margin) - margin * (1 + margin)
    spread = Z * sqrt(null) + NormalDist().inv_cdf(power) * sqrt(discordance - difference**2)
    n = max(ceil((spread / (margin + difference)) ** 2 - 1e-9), zero_flip_floor(margin))
    while n * discordance <= MANY_FLIPS and power_of(n, margin, discordance, difference) < power:
        n = ceil(n * 1.01)
    return n


MANY_FLIPS = 60
"""Expected flips above which the normal approximation of the power will do."""


def why_n(
    n: int,
    margin: float,
    discordance: float,
    difference: float = 0.0,
    power: float = 0.9,
    *,
    clusters: int | None = None,
) -> str:
    """One sentence that says what ``n`` items (in so many clusters) can decide."""
    apart = clusters if clusters is not None and clusters < n else None
    size = n / apart if apart else 1.0
    wanted = sample_size(margin, discordance, difference, power, cluster_size=size)
    unit = "items" if apart is None else f"clusters (of {size:.3g} items each)"
    start = f"A margin of {100 * margin:g} points needs {zero_flip_floor(margin)} {unit} even if no answer changes"
    if wanted is None:
        return f"{start}; at a difference of {100 * difference:+.1f} points no number of items would pass."
    have, wanted = (n, wanted) if apart is None else (apart, ceil(wanted / size - 1e-9))
    enough = "enough" if have >= wanted else f"too few by {wanted - have}"
    together = "" if apart is None else ", all of a cluster together"
    held = f"{n} items" if apart is None else f"{apart} clusters ({n} items)"
    return (
        f"{start}, and {wanted} to pass with {100 * power:.0f} % probability if {100 * discordance:g} % of the answers "
        f"change and the difference is {100 * difference:+.1f} points{together}: {held} are {enough}."
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
