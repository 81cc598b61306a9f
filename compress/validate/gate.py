"""The gate: two systems' replies to the same items become suites, rules and one verdict.

All conditions must hold at once (an intersection-union test), so none of them needs a correction of alpha.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from compress.validate.outcomes import Pairs, Question, Table
from compress.validate.paired import blank, broken, measured, paired
from compress.validate.results import Judgement, RuleResult, SuiteResult, more
from compress.validate.side_effects import Replies
from compress.validate.statistics import (
    FAIL,
    INCONCLUSIVE,
    NOT_TESTED,
    PASS,
    VIOLATIONS,
    design_effect,
    gatekeep,
    hard_floor,
    hard_limit,
    sample_size,
    why_n,
    zero_flip_floor,
)
from runtime.guard import Enforced, enforce
from runtime.rules import RuleBook

__all__ = [
    "FAIL",
    "INCONCLUSIVE",
    "MARGINS",
    "NOT_TESTED",
    "PASS",
    "Answer",
    "Judgement",
    "RuleResult",
    "SuiteResult",
    "enforce_all",
    "gatekeep",
    "hard_floor",
    "judge",
    "judge_table",
    "sample_size",
    "why_n",
    "zero_flip_floor",
]

MARGINS: Mapping[str, float] = {"accuracy": 0.02, "adherence": 0.02, "rule": 0.05, "baseline": 0.1}
"""``baseline`` is none: it is the largest share of replies in which the unguarded baseline may break a hard rule."""
Mode = Literal["model", "enforced", "recorded"]


class Answer(NamedTuple):
    """One reply as it came; ``truncated`` when it ran into the token limit. A plain ``(text, truncated)`` will do."""

    text: str
    truncated: bool = False


def judge(
    book: RuleBook,
    items: Sequence[Question],
    baseline: Replies,
    candidate: Replies,
    *,
    mode: Mode = "model",
    margins: Mapping[str, float] = MARGINS,
) -> Judgement:
    """Compare two systems' replies to ``items`` (all three in the same order).

    ``model``: the replies as the models wrote them; every rule by non-inferiority. ``recorded``: the same, but a
    hard rule is judged by the candidate's own violation rate. ``enforced``: what was sent after enforcement; hard
    rules only, by replies without any violation, and one violation fails.
    """
    if not len(items) == len(baseline) == len(candidate):
        raise ValueError(f"{len(items)} items, {len(baseline)} and {len(candidate)} replies: one reply per item")
    return judge_table(book, Table.of(book, items, baseline, candidate), mode=mode, margins=margins)


def judge_table(
    book: RuleBook, table: Table, *, mode: Mode = "model", margins: Mapping[str, float] = MARGINS
) -> Judgement:
    """The same of checks that were made already."""
    margins = {**MARGINS, **margins}
    if mode == "enforced":
        return _enforced(book, table)
    rules = tuple(_rule(table, rule.id, rule.severity, mode, margins) for rule in book.rules)
    return _conclude(_suites(table, margins, mode), rules, table)


def enforce_all(book: RuleBook, items: Sequence[Question], answers: Replies) -> list[Enforced]:
    """What the runtime would send for each reply. Without a retry: greedy decoding would only repeat itself."""
    return [
        enforce(book, item.turn, text, truncated=truncated)
        for item, (text, truncated) in zip(items, answers, strict=True)
    ]


def _suites(table: Table, margins: Mapping[str, float], mode: str) -> tuple[SuiteResult, ...]:
    wanted = (
        ("accuracy", table.accuracy(), margins["accuracy"]),
        ("adherence", table.pooled("hard"), margins["adherence"]),
        ("soft adherence", table.pooled("soft"), margins["rule"]),
    )
    return tuple(_suite(name, pairs, margin, mode, table.broken(name)) for name, pairs, margin in wanted if len(pairs))


def _excused(mode: str, margin: float) -> float:
    """How much better a candidate must be shown to be for its baseline's faults not to matter. In two recorded files
    nothing excuses them: a baseline that passes nothing there is most often the wrong file."""
    return margin if mode == "model" else 1.0


def _suite(name: str, pairs: Pairs, margin: float, mode: str, wrong: tuple[str, ...]) -> SuiteResult:
    interval, deff, to_pass, to_fail = paired(pairs, margin)
    n, (before, after) = len(pairs), pairs.passed
    verdict, note = measured(interval.verdict, blank(before, n, margin), interval.low, _excused(mode, margin))
    return SuiteResult(
        name,
        n,
        before / n,
        after / n,
        interval.estimate,
        interval.low,
        interval.high,
        margin,
        verdict,
        interval.needed,
        deff,
        pairs.clusters,
        note,
        (to_pass, to_fail),
        wrong,
    )


def _rule(table: Table, rule: str, severity: str, mode: str, margins: Mapping[str, float]) -> RuleResult:
    pairs = table.rule(rule)
    if not len(pairs):
        return RuleResult(rule, severity, mode, 0, None, None, None, None, NOT_TESTED, (0, 0))
    n, margin, recorded = len(pairs), margins["rule"], severity == "hard" and mode == "recorded"
    interval, _, to_pass, to_fail = paired(pairs, margin)
    before, after = pairs.passed
    note = blank(before, n, margin)
    if severity == "hard" and not note:
        note = broken(pairs, VIOLATIONS if recorded else margins["baseline"])
    bounds, needed, own = (interval.low, interval.high), interval.needed, interval.verdict
    if recorded:
        limit = hard_limit(n - after, n, design_effect(~pairs.candidate, pairs.cluster))
        bounds, needed, own = (1 - limit.high, 1 - limit.low), limit.needed, limit.verdict
    verdict, note = measured(own, note, interval.low, _excused(mode, margin))
    return RuleResult(
        rule,
        severity,
        "recorded" if recorded else "model",
        n,
        before / n,
        after / n,
        *bounds,
        verdict,
        (to_pass, to_fail),
        None if recorded else margin,
        needed,
        pairs.clusters,
        note,
        (interval.estimate, interval.low, interval.high),
        table.broken(rule),
    )


def _enforced(book: RuleBook, table: Table) -> Judgement:
    """Any violation fails; without one, the number of replies must bound the rate of violating replies below 1 %."""
    replies = table.replies("hard")
    n = len(replies)
    if not n:
        idle = tuple(rule.id for rule in book.rules if rule.severity == "hard")
        return Judgement((), (), NOT_TESTED, ("no hard rule is in force in any item",), not_in_force=idle)
    wrong = n - replies.passed[1]
    interval = hard_limit(wrong, n, design_effect(~replies.candidate, replies.cluster))
    verdict = FAIL if wrong else interval.verdict
    rules = tuple(_enforced_rule(table, rule.id, verdict) for rule in book.rules if rule.severity == "hard")
    reasons = [rule.reason() for rule in rules if rule.verdict == FAIL]
    if verdict == INCONCLUSIVE:
        reasons.append(f"no violation in {n} enforced replies{more(verdict, interval.needed)}")
    return Judgement((), rules, verdict, tuple(reasons), not_in_force=_idle(rules), cases=table.cases)


def _enforced_rule(table: Table, rule: str, verdict: str) -> RuleResult:
    pairs = table.rule(rule)
    n = len(pairs)
    if not n:
        return RuleResult(rule, "hard", "enforced", 0, None, None, None, None, NOT_TESTED, (0, 0))
    before, after = pairs.passed
    interval = hard_limit(n - after, n, design_effect(~pairs.candidate, pairs.cluster))
    own = FAIL if after < n else PASS if verdict == FAIL else verdict
    share = before / n, after / n, 1 - interval.high, 1 - interval.low
    return RuleResult(rule, "hard", "enforced", n, *share, own, pairs.flips, broken=table.broken(rule))


def _conclude(suites: tuple[SuiteResult, ...], rules: tuple[RuleResult, ...], table: Table) -> Judgement:
    results: tuple[SuiteResult | RuleResult, ...] = (*suites, *rules)
    idle, effects = _idle(rules), {name: dict(counts) for name, counts in table.side_effects.items()}
    verdicts = {result.verdict for result in results} - {NOT_TESTED}
    if not verdicts:
        why = "nothing was tested: no expected answer and no rule in force"
        return Judgement(suites, rules, INCONCLUSIVE, (why,), effects, idle)
    verdict = FAIL if FAIL in verdicts else INCONCLUSIVE if INCONCLUSIVE in verdicts else PASS
    reasons = [r.reason() for wanted in (FAIL, INCONCLUSIVE) for r in results if r.verdict == wanted]
    return Judgement(suites, rules, verdict, tuple(reasons), effects, idle, table.cases)


def _idle(rules: Sequence[RuleResult]) -> tuple[str, ...]:
    return tuple(rule.id for rule in rules if rule.severity == "hard" and rule.n == 0)
