"""Pairs of outcomes under one margin, and whether the baseline is a measure at all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from compress.validate.outcomes import Pairs, Table
from compress.validate.score_test import BETTER, WORSE
from compress.validate.sequential import CLOSING, Looks, sequence_bounds, sequential_verdict
from compress.validate.statistics import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    Clustering,
    Interval,
    clip,
    design_effect,
    enough,
    non_inferiority,
    shown_above,
    vacuous,
)

Pick = Callable[[Table], Pairs]


def paired(table: Table, pick: Pick, margin: float, looks: Looks | None = None) -> tuple[Interval, float]:
    """(interval, design effect) of the pairs that ``pick`` takes from ``table``; with ``looks``, as of a stream that
    was looked at so often."""
    pairs = pick(table)
    known, (to_pass, to_fail) = _clustering(pairs), pairs.flips
    deff = known.effect(margin)
    if looks is not None:
        return _streamed(table, pick, margin, looks), deff
    return non_inferiority(len(pairs), to_fail, to_pass, margin, deff, grown=partial(known.effect, margin)), deff


def _streamed(table: Table, pick: Pick, margin: float, looks: Looks) -> Interval:
    """What the looks made sure, with bounds that hold at all of them."""
    counts = []
    for end in looks.ends:
        pairs = pick(table.first(end))
        if len(pairs):
            known, (to_pass, to_fail) = _clustering(pairs), pairs.flips
            deff = known.effect(margin)
            counts.append((len(pairs) / deff, to_fail / deff, to_pass / deff))
    side = sequential_verdict(counts, margin, complete=looks.complete)
    verdict, needed = {BETTER: PASS, WORSE: FAIL}.get(side, INCONCLUSIVE), None
    if verdict == INCONCLUSIVE:
        needed = enough(len(pairs), to_fail, to_pass, margin, partial(known.effect, margin), CLOSING)
    estimate = (to_pass - to_fail) / len(pairs)
    return clip(Interval(estimate, *sequence_bounds(*counts[-1]), verdict, needed), margin)


def _clustering(pairs: Pairs) -> Clustering:
    return Clustering.of(pairs.candidate.astype(float) - pairs.baseline, pairs.cluster)


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
    if not shown_above(bad, n, limit, design_effect(~pairs.baseline, pairs.cluster, limit)):
        return ""
    return (
        f"the baseline itself breaks this hard rule in {bad} of {n}, and more than {100 * limit:g} % is no measure; "
        "mend the baseline or the rule"
    )


def too_often(pairs: Pairs, limit: float) -> str:
    """That the candidate breaks a hard rule more often than it may, and what the baseline does."""
    n, (before, after) = len(pairs), pairs.passed
    most = f"at most {100 * limit:g} % may, whatever the baseline does"
    said = f"the candidate breaks it in {n - after} of {n}, and {most}"
    if not shown_above(n - before, n, limit, design_effect(~pairs.baseline, pairs.cluster, limit)):
        return said
    return f"{said}; the baseline itself breaks it in {n - before} of {n}: mend the baseline or the rule"
