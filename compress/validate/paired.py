"""Pairs of outcomes under one margin, and whether the baseline is a measure at all."""

from __future__ import annotations

from compress.validate.outcomes import Pairs
from compress.validate.statistics import (
    FAIL,
    INCONCLUSIVE,
    Interval,
    design_effect,
    non_inferiority,
    shown_above,
    vacuous,
)


def paired(pairs: Pairs, margin: float) -> tuple[Interval, float, int, int]:
    """(interval, design effect, to pass, to fail)"""
    to_pass, to_fail = pairs.flips
    deff = design_effect(pairs.candidate.astype(float) - pairs.baseline, pairs.cluster)
    return non_inferiority(len(pairs), to_fail, to_pass, margin, deff), deff, to_pass, to_fail


def measured(verdict: str, note: str, low: float, excused: float) -> tuple[str, str]:
    """A pass against a baseline that is no measure does not count, unless the difference is shown to be above
    ``excused``; a failure always does."""
    return (INCONCLUSIVE, note) if note and verdict != FAIL and low <= excused else (verdict, "")


def blank(passed: int, n: int, margin: float) -> str:
    """That the baseline passes next to nothing, or an empty text."""
    if not vacuous(passed, n, margin):
        return ""
    return (
        f"the baseline itself passes {passed} of {n}: being no worse than that shows nothing; give a working baseline"
    )


def broken(pairs: Pairs, limit: float) -> str:
    """That the baseline itself breaks a hard rule more often than ``limit``, or an empty text."""
    n, bad = len(pairs), len(pairs) - pairs.passed[0]
    if not shown_above(bad, n, limit, design_effect(~pairs.baseline, pairs.cluster)):
        return ""
    return (
        f"the baseline itself breaks this hard rule in {bad} of {n}, and more than {100 * limit:g} % is no measure; "
        "mend the baseline or the rule"
    )
