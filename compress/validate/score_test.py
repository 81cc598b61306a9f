"""Tango's score test of a paired difference, and its exact p-values. Numbers in, numbers out.

Notation of Tango (1998), "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design", Statistics in Medicine 17:891-908: of n pairs, c were passed by the candidate only and b by
the baseline only; the difference is estimated by (c - b)/n and tested at the value lambda. Counts may be real
numbers, which is how a design effect enters: (n, b, c)/deff.

The score statistic orders the outcomes; how probable an order at least so extreme is, is computed from the trinomial
itself and not from the normal curve: Suissa & Shuster (1991), Biometrics 47:361-372, with the maximum over the unknown
share of flips restricted to its confidence set as Berger & Boos (1994), JASA 89:1012-1016, do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import floor, inf, log, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
"""One-sided level of every test."""
Z = NormalDist().inv_cdf(1 - ALPHA)
EXACT_FLIPS = 400
"""Discordant pairs up to which p-values are exact; above, the normal curve is off by about 0.001."""
OUTSIDE = 1e-4
"""Probability that the true share of flips lies outside its confidence set (Berger & Boos' beta)."""
SHARES = 16
"""Shares of flips at which the maximum is looked for, half a standard error apart."""
CLEAR = 1.2, 3.5
"""Scores below which nothing is significant, and above which all is: no exact p-value is needed there."""
BETTER, WORSE = 1, -1

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def tango_q(n: float, b: float, c: float, lam: float) -> float:
    """Maximum-likelihood probability of a candidate-only pass when the difference is ``lam``."""
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


def p_value(n: float, b: float, c: float, lam: float, side: int) -> float:
    """Probability, if the difference were ``lam``, of a score at least as far on ``side`` (BETTER or WORSE) as seen.

    Exact (see the module) up to ``EXACT_FLIPS`` discordant pairs. Of real-valued counts, n is rounded down with the
    rates kept, and the p-values of the neighbouring whole b and c are interpolated. 1 where the score is on the other
    side of zero.
    """
    whole = floor(n + 1e-9)
    if whole < 1:
        return 1.0
    b, c = b * whole / n, c * whole / n
    z = side * tango_z(whole, b, c, lam)
    if z <= 0:
        return 1.0
    if b + c > EXACT_FLIPS:
        return NormalDist().cdf(-z)
    (b0, part_b), (c0, part_c) = _split(b), _split(c)
    total = 0.0
    for b1, share_b in ((b0, 1 - part_b), (b0 + 1, part_b)):
        for c1, share_c in ((c0, 1 - part_c), (c0 + 1, part_c)):
            if share_b * share_c:
                total += share_b * share_c * _exact(whole, b1, min(c1, whole - b1), lam, side)
    return total


def _split(count: float) -> tuple[int, float]:
    """Whole and fractional part; a rounding error is no fraction."""
    whole = floor(count + 1e-9)
    part = count - whole
    return whole, part if part > 1e-9 else 0.0


@lru_cache(maxsize=1 << 16)
def _exact(n: int, b: int, c: int, lam: float, side: int) -> float:
    """The p-value of whole counts: the largest over the shares of flips that the data leave possible."""
    z = tango_z(n, b, c, lam)
    if side * z <= 0:
        return 1.0
    low, high = _possible_shares(n, b + c, lam)
    if low > high:
        return OUTSIDE
    q = np.linspace(low, high, SHARES)[:, None]
    spread = 7 * sqrt(n * high)
    cs = np.arange(max(0, floor(n * low - spread - 8)), min(n, floor(n * high + spread + 12)) + 1)
    return min(1.0, float((_binomial(n, cs, q) * _tail(n, cs, q, z, lam, side)).sum(axis=1).max()) + OUTSIDE)


def _possible_shares(n: int, flips: int, lam: float) -> tuple[float, float]:
    """Confidence set of the probability of a candidate-only pass, given that both kinds of flips have 2q - lam."""
    from scipy.special import betaincinv

    low = betaincinv(flips, n - flips + 1, OUTSIDE / 2) if flips else 0.0
    high = betaincinv(flips + 1, n - flips, 1 - OUTSIDE / 2) if flips < n else 1.0
    return max((float(low) + lam) / 2, lam, 0.0), min((float(high) + lam) / 2, (1 + lam) / 2)


def _binomial(n: int, k: Ints, p: Floats) -> Any:
    from scipy.special import gammaln, xlog1py, xlogy

    return np.exp(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + xlogy(k, p) + xlog1py(n - k, -p))


def _tail(n: int, cs: Ints, q: Floats, z: float, lam: float, side: int) -> Any:
    """P(b is at least as extreme | c) for every share ``q`` (rows) and count ``cs`` (columns)."""
    from scipy.special import bdtr, bdtrc

    p = np.clip((q - lam) / np.maximum(1 - q, 1e-12), 0.0, 1.0)
    most = _largest_b(n, cs, z + side * -1e-9, lam, strict=side == WORSE)
    if side == BETTER:
        return np.where(most < 0, 0.0, bdtr(np.maximum(most, 0), n - cs, p))
    return np.where(most < 0, 1.0, np.where(most >= n - cs, 0.0, bdtrc(np.clip(most, 0, n - cs), n - cs, p)))


def _largest_b(n: int, cs: Ints, z: float, lam: float, *, strict: bool) -> Ints:
    """For every c the largest b whose score is at least (``strict``: above) ``z``, or -1: scores fall with b.

    The score is zero where b = c - n lam, and its variance is at most n.
    """
    even = cs - n * lam
    low = np.clip(np.floor(even).astype(np.int64) - 1, -1, n - cs) if strict else np.full(len(cs), -1)
    most = even + min(abs(z), sqrt(n)) * sqrt(n) + 2 if strict else even + 2
    high = np.clip(np.ceil(most).astype(np.int64), 0, n - cs + 1)
    while (high - low > 1).any():
        middle = (low + high) // 2
        score = _scores(n, np.maximum(middle, 0), cs, lam)
        above = score > z if strict else score >= z
        open_ = high - low > 1
        low, high = np.where(open_ & above, middle, low), np.where(open_ & ~above, middle, high)
    return low


def _scores(n: int, b: Ints, c: Ints, lam: float) -> Floats:
    """``tango_z`` of arrays."""
    A = 2 * n
    B = -b - c + (2 * n - c + b) * lam
    C = -b * lam * (1 - lam)
    q = np.maximum((np.sqrt(np.maximum(B * B - 4 * A * C, 0.0)) - B) / (2 * A), max(-lam, 0.0))
    variance, gap = n * (2 * q + lam * (1 - lam)), c - b - n * lam
    edge = np.where(np.abs(gap) <= 1e-12 * n, 0.0, np.where(gap > 0, np.inf, -np.inf))
    found: Floats = np.where(variance <= 1e-12 * n, edge, gap / np.sqrt(np.maximum(variance, 1e-12 * n)))
    return found


def significant(n: float, b: float, c: float, lam: float, side: int, level: float = ALPHA) -> bool:
    """Whether ``p_value`` is at most ``level`` (0.01 to 0.1)."""
    z = side * tango_z(n, b, c, lam)
    return z > CLEAR[1] or (z > CLEAR[0] and p_value(n, b, c, lam, side) <= level)


def bounds(n: float, b: float, c: float) -> tuple[float, float]:
    """One-sided 95 % lower and upper confidence bounds of the difference, to 1e-4: where ``p_value`` crosses ALPHA."""
    near, estimate = tango_bounds(n, b, c), (c - b) / n
    low = _cross(lambda lam: p_value(n, b, c, lam, BETTER), near[0], near[0] - estimate)
    high = _cross(lambda lam: p_value(n, b, c, lam, WORSE), near[1], near[1] - estimate)
    return min(low, estimate), max(high, estimate)


def _cross(p: Callable[[float], float], near: float, away: float) -> float:
    """Where ``p`` crosses ALPHA, looked for around ``near``; it falls in the direction of ``away``. Regula falsi on the
    logarithm, with the Illinois rule."""
    step = away / 16 or FINE
    kept, refuted = _inside(near - step), _inside(near + step)
    f_kept, f_refuted = _over(p, kept), _over(p, refuted)
    while f_kept < 0:
        refuted, f_refuted, kept = kept, f_kept, _inside(kept - 4 * step)
        f_kept = _over(p, kept)
    while f_refuted > 0:
        if abs(refuted) == 1:
            return refuted
        kept, f_kept, refuted = refuted, f_refuted, _inside(refuted + 4 * step)
        f_refuted = _over(p, refuted)
    for _ in range(20):
        if abs(refuted - kept) < FINE:
            break
        at = kept + (refuted - kept) * min(max(f_kept / (f_kept - f_refuted), 0.05), 0.95)
        f = _over(p, at)
        if f > 0:
            kept, f_kept, f_refuted = at, f, f_refuted / 2
        else:
            refuted, f_refuted, f_kept = at, f, f_kept / 2
    return (kept + refuted) / 2


FINE = 1e-4
"""To what the bounds are exact."""


def _inside(lam: float) -> float:
    return min(max(lam, -1.0), 1.0)


def _over(p: Callable[[float], float], lam: float) -> float:
    return log(p(lam) / ALPHA) - 1e-12


def tango_bounds(n: float, b: float, c: float, z: float = Z) -> tuple[float, float]:
    """One-sided lower and upper confidence bounds by the normal curve: the score test inverted by bisection."""
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
