"""Pairs of outcomes under one margin, and whether the baseline is a measure at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from compress.validate.statistics import (
    FAIL,
    INCONCLUSIVE,
    Interval,
    design_effect,
    non_inferiority,
    shown_above,
    vacuous,
)


class Outcome(NamedTuple):
    """Whether baseline and candidate passed one unit."""

    baseline: bool
    candidate: bool
    cluster: str


def paired(outcomes: Sequence[Outcome], margin: float) -> tuple[Interval, float, int, int]:
    """(interval, design effect, to pass, to fail)"""
    to_pass = sum(o.candidate and not o.baseline for o in outcomes)
    to_fail = sum(o.baseline and not o.candidate for o in outcomes)
    deff = design_effect([o.candidate - o.baseline for o in outcomes], [o.cluster for o in outcomes])
    return non_inferiority(len(outcomes), to_fail, to_pass, margin, deff), deff, to_pass, to_fail


def clusters(outcomes: Sequence[Outcome]) -> int:
    """How many outcomes are independent of each other."""
    return len({o.cluster for o in outcomes})


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


def broken(outcomes: Sequence[Outcome], limit: float) -> str:
    """That the baseline itself breaks a hard rule more often than ``limit``, or an empty text."""
    n, bad = len(outcomes), sum(not o.baseline for o in outcomes)
    deff = design_effect([not o.baseline for o in outcomes], [o.cluster for o in outcomes])
    if not shown_above(bad, n, limit, deff):
        return ""
    return (
        f"the baseline itself breaks this hard rule in {bad} of {n}, and more than {100 * limit:g} % is no measure; "
        "mend the baseline or the rule"
    )
