"""The gate: two systems' replies to the same items become suites, rules and one verdict.

All conditions must hold at once (an intersection-union test), so none of them needs a correction of alpha.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from compress.validate.paired import Outcome, blank, broken, clusters, measured, paired
from compress.validate.results import Judgement, RuleResult, SuiteResult, more
from compress.validate.side_effects import side_effects_of
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
from runtime.rules import RuleBook, Turn, Verdict

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


Replies = Sequence[tuple[str, bool]]


class Question(Protocol):
    """An evaluation item. ``match`` is empty when no answer is known."""

    @property
    def turn(self) -> Turn: ...
    @property
    def answer(self) -> Any: ...
    @property
    def match(self) -> str: ...
    @property
    def cluster(self) -> str: ...
    def accurate(self, book: RuleBook, reply: str) -> bool: ...


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
    table, margins = _Table.of(book, items, baseline, candidate), {**MARGINS, **margins}
    if mode == "enforced":
        return _enforced(book, table)
    suites = _suites(book, items, baseline, candidate, table, margins, mode)
    rules = tuple(_rule(table, rule.id, rule.severity, mode, margins) for rule in book.rules)
    return _conclude(suites, rules, side_effects_of(book, items, baseline, candidate))


def enforce_all(book: RuleBook, items: Sequence[Question], answers: Replies) -> list[Enforced]:
    """What the runtime would send for each reply. Without a retry: greedy decoding would only repeat itself."""
    return [
        enforce(book, item.turn, text, truncated=truncated)
        for item, (text, truncated) in zip(items, answers, strict=True)
    ]


@dataclass(frozen=True)
class _Pair:
    """One rule in one item."""

    rule: str
    severity: str
    cluster: str
    item: int
    baseline: bool
    candidate: bool


@dataclass(frozen=True)
class _Table:
    pairs: tuple[_Pair, ...]
    clusters: tuple[str, ...]

    @classmethod
    def of(cls, book: RuleBook, items: Sequence[Question], baseline: Replies, candidate: Replies) -> _Table:
        pairs = []
        for place, (item, first, second) in enumerate(zip(items, baseline, candidate, strict=True)):
            before = book.check(item.turn, *first)
            after = before if first == second else book.check(item.turn, *second)
            pairs += [_pair(item.cluster, place, b, c) for b, c in zip(before, after, strict=True)]
        return cls(tuple(pairs), tuple(item.cluster for item in items))


def _pair(cluster: str, item: int, before: Verdict, after: Verdict) -> _Pair:
    return _Pair(after.rule, after.severity, cluster, item, before.passed, after.passed)


def _suites(
    book: RuleBook,
    items: Sequence[Question],
    baseline: Replies,
    candidate: Replies,
    table: _Table,
    margins: Mapping[str, float],
    mode: str,
) -> tuple[SuiteResult, ...]:
    known = [
        Outcome(item.accurate(book, first), item.accurate(book, second), item.cluster)
        for item, (first, _), (second, _) in zip(items, baseline, candidate, strict=True)
        if item.match
    ]
    pooled = {
        severity: [Outcome(p.baseline, p.candidate, p.cluster) for p in table.pairs if p.severity == severity]
        for severity in ("hard", "soft")
    }
    wanted = (
        ("accuracy", known, margins["accuracy"]),
        ("adherence", pooled["hard"], margins["adherence"]),
        ("soft adherence", pooled["soft"], margins["rule"]),
    )
    return tuple(_suite(name, outcomes, margin, mode) for name, outcomes, margin in wanted if outcomes)


def _excused(mode: str, margin: float) -> float:
    """How much better a candidate must be shown to be for its baseline's faults not to matter. In two recorded files
    nothing excuses them: a baseline that passes nothing there is most often the wrong file."""
    return margin if mode == "model" else 1.0


def _suite(name: str, outcomes: Sequence[Outcome], margin: float, mode: str) -> SuiteResult:
    interval, deff, _, _ = paired(outcomes, margin)
    n, passed = len(outcomes), sum(o.baseline for o in outcomes)
    verdict, note = measured(interval.verdict, blank(passed, n, margin), interval.low, _excused(mode, margin))
    return SuiteResult(
        name,
        n,
        passed / n,
        sum(o.candidate for o in outcomes) / n,
        interval.estimate,
        interval.low,
        interval.high,
        margin,
        verdict,
        interval.needed,
        deff,
        clusters(outcomes),
        note,
    )


def _rule(table: _Table, rule: str, severity: str, mode: str, margins: Mapping[str, float]) -> RuleResult:
    outcomes = [Outcome(p.baseline, p.candidate, p.cluster) for p in table.pairs if p.rule == rule]
    if not outcomes:
        return RuleResult(rule, severity, mode, 0, None, None, None, None, NOT_TESTED, (0, 0))
    n, margin, recorded = len(outcomes), margins["rule"], severity == "hard" and mode == "recorded"
    interval, _, to_pass, to_fail = paired(outcomes, margin)
    before, after = sum(o.baseline for o in outcomes), sum(o.candidate for o in outcomes)
    note = blank(before, n, margin)
    if severity == "hard" and not note:
        note = broken(outcomes, VIOLATIONS if recorded else margins["baseline"])
    bounds, needed, own = (interval.low, interval.high), interval.needed, interval.verdict
    if recorded:
        deff = design_effect([not o.candidate for o in outcomes], [o.cluster for o in outcomes])
        limit = hard_limit(n - after, n, deff)
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
        clusters(outcomes),
        note,
    )


def _enforced(book: RuleBook, table: _Table) -> Judgement:
    """Any violation fails; without one, the number of replies must bound the rate of violating replies below 1 %."""
    hard = [pair for pair in table.pairs if pair.severity == "hard"]
    items = sorted({pair.item for pair in hard})
    if not items:
        idle = tuple(rule.id for rule in book.rules if rule.severity == "hard")
        return Judgement((), (), NOT_TESTED, ("no hard rule is in force in any item",), not_in_force=idle)
    broken = {place: {p.item for p in hard if not (p.baseline, p.candidate)[place]} for place in (0, 1)}
    deff = design_effect([item in broken[1] for item in items], [table.clusters[item] for item in items])
    interval = hard_limit(len(broken[1]), len(items), deff)
    verdict = FAIL if broken[1] else interval.verdict
    rules = tuple(_enforced_rule(hard, rule.id, verdict) for rule in book.rules if rule.severity == "hard")
    reasons = [rule.reason() for rule in rules if rule.verdict == FAIL]
    if verdict == INCONCLUSIVE:
        reasons.append(f"no violation in {len(items)} enforced replies{more(verdict, interval.needed)}")
    return Judgement((), rules, verdict, tuple(reasons), not_in_force=_idle(rules))


def _enforced_rule(hard: Sequence[_Pair], rule: str, verdict: str) -> RuleResult:
    mine = [pair for pair in hard if pair.rule == rule]
    if not mine:
        return RuleResult(rule, "hard", "enforced", 0, None, None, None, None, NOT_TESTED, (0, 0))
    kept = [sum(pair.baseline for pair in mine), sum(pair.candidate for pair in mine)]
    n = len(mine)
    flips = (sum(p.candidate and not p.baseline for p in mine), sum(p.baseline and not p.candidate for p in mine))
    deff = design_effect([not pair.candidate for pair in mine], [pair.cluster for pair in mine])
    interval = hard_limit(n - kept[1], n, deff)
    own = FAIL if kept[1] < n else PASS if verdict == FAIL else verdict
    return RuleResult(
        rule, "hard", "enforced", n, kept[0] / n, kept[1] / n, 1 - interval.high, 1 - interval.low, own, flips
    )


def _conclude(
    suites: tuple[SuiteResult, ...], rules: tuple[RuleResult, ...], side_effects: dict[str, dict[str, int]]
) -> Judgement:
    results: tuple[SuiteResult | RuleResult, ...] = (*suites, *rules)
    idle = _idle(rules)
    verdicts = {result.verdict for result in results} - {NOT_TESTED}
    if not verdicts:
        why = "nothing was tested: no expected answer and no rule in force"
        return Judgement(suites, rules, INCONCLUSIVE, (why,), side_effects, idle)
    verdict = FAIL if FAIL in verdicts else INCONCLUSIVE if INCONCLUSIVE in verdicts else PASS
    reasons = [r.reason() for wanted in (FAIL, INCONCLUSIVE) for r in results if r.verdict == wanted]
    return Judgement(suites, rules, verdict, tuple(reasons), side_effects, idle)


def _idle(rules: Sequence[RuleResult]) -> tuple[str, ...]:
    return tuple(rule.id for rule in rules if rule.severity == "hard" and rule.n == 0)
