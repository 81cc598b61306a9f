"""The gate: two systems' replies to the same items become suites, rules and one verdict.

All conditions must hold at once (an intersection-union test), so none of them needs a correction of alpha.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from compress.validate.results import Judgement, RuleResult, SuiteResult, more
from compress.validate.statistics import (
    FAIL,
    INCONCLUSIVE,
    NOT_TESTED,
    PASS,
    Interval,
    design_effect,
    gatekeep,
    hard_floor,
    hard_limit,
    non_inferiority,
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

MARGINS: Mapping[str, float] = {"accuracy": 0.02, "adherence": 0.02, "rule": 0.05}
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
    table = _Table.of(book, items, baseline, candidate)
    if mode == "enforced":
        return _enforced(book, table)
    suites = _suites(book, items, baseline, candidate, table, {**MARGINS, **margins})
    rules = tuple(_rule(table, rule.id, rule.severity, mode, {**MARGINS, **margins}["rule"]) for rule in book.rules)
    return _conclude(suites, rules, _side_effects(book, items, baseline, candidate))


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
    return tuple(_suite(name, outcomes, margin) for name, outcomes, margin in wanted if outcomes)


class Outcome(NamedTuple):
    """Whether baseline and candidate passed one unit."""

    baseline: bool
    candidate: bool
    cluster: str


def _paired(outcomes: Sequence[Outcome], margin: float) -> tuple[Interval, float, int, int]:
    """(interval, design effect, to pass, to fail)"""
    to_pass = sum(o.candidate and not o.baseline for o in outcomes)
    to_fail = sum(o.baseline and not o.candidate for o in outcomes)
    deff = design_effect([o.candidate - o.baseline for o in outcomes], [o.cluster for o in outcomes])
    return non_inferiority(len(outcomes), to_fail, to_pass, margin, deff), deff, to_pass, to_fail


def _suite(name: str, outcomes: Sequence[Outcome], margin: float) -> SuiteResult:
    interval, deff, _, _ = _paired(outcomes, margin)
    n = len(outcomes)
    before, after = sum(o.baseline for o in outcomes) / n, sum(o.candidate for o in outcomes) / n
    estimate, low, high = interval.estimate, interval.low, interval.high
    return SuiteResult(name, n, before, after, estimate, low, high, margin, interval.verdict, interval.needed, deff)


def _rule(table: _Table, rule: str, severity: str, mode: str, margin: float) -> RuleResult:
    outcomes = [Outcome(p.baseline, p.candidate, p.cluster) for p in table.pairs if p.rule == rule]
    if not outcomes:
        return RuleResult(rule, severity, mode, 0, None, None, None, None, NOT_TESTED, (0, 0))
    n = len(outcomes)
    interval, _, to_pass, to_fail = _paired(outcomes, margin)
    before, after = sum(o.baseline for o in outcomes), sum(o.candidate for o in outcomes)
    flips, shares = (to_pass, to_fail), (before / n, after / n)
    if severity == "hard" and mode == "recorded":
        deff = design_effect([not o.candidate for o in outcomes], [o.cluster for o in outcomes])
        own = hard_limit(n - after, n, deff)
        bounds = (1 - own.high, 1 - own.low)
        return RuleResult(rule, severity, mode, n, *shares, *bounds, own.verdict, flips, needed=own.needed)
    bounds = (interval.low, interval.high)
    return RuleResult(rule, severity, "model", n, *shares, *bounds, interval.verdict, flips, margin, interval.needed)


def _enforced(book: RuleBook, table: _Table) -> Judgement:
    """Any violation fails; without one, the number of replies must bound the rate of violating replies below 1 %."""
    hard = [pair for pair in table.pairs if pair.severity == "hard"]
    items = sorted({pair.item for pair in hard})
    if not items:
        return Judgement((), (), NOT_TESTED, ("no hard rule is in force in any item",))
    broken = {place: {p.item for p in hard if not (p.baseline, p.candidate)[place]} for place in (0, 1)}
    deff = design_effect([item in broken[1] for item in items], [table.clusters[item] for item in items])
    interval = hard_limit(len(broken[1]), len(items), deff)
    verdict = FAIL if broken[1] else interval.verdict
    rules = tuple(_enforced_rule(hard, rule.id, verdict) for rule in book.rules if rule.severity == "hard")
    reasons = [rule.reason() for rule in rules if rule.verdict == FAIL]
    if verdict == INCONCLUSIVE:
        reasons.append(f"no violation in {len(items)} enforced replies{more(verdict, interval.needed)}")
    return Judgement((), rules, verdict, tuple(reasons))


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
    verdicts = {result.verdict for result in results} - {NOT_TESTED}
    if not verdicts:
        return Judgement(suites, rules, INCONCLUSIVE, ("nothing was tested: no expected answer and no rule in force",))
    verdict = FAIL if FAIL in verdicts else INCONCLUSIVE if INCONCLUSIVE in verdicts else PASS
    reasons = [r.reason() for wanted in (FAIL, INCONCLUSIVE) for r in results if r.verdict == wanted]
    return Judgement(suites, rules, verdict, tuple(reasons), side_effects)


def _side_effects(
    book: RuleBook, items: Sequence[Question], baseline: Replies, candidate: Replies
) -> dict[str, dict[str, int]]:
    """Escalations and refusals that were missed or uncalled for, where the right action is known."""
    effects: dict[str, dict[str, int]] = {}
    for item, *answers in zip(items, baseline, candidate, strict=True):
        right = item.answer.get("action") if item.match == "json" and isinstance(item.answer, Mapping) else None
        if right is None:
            continue
        done = [(book.parse(text).fields or {}).get("action") for text, _ in answers]
        for action, name in (("escalate", "escalations"), ("refuse", "refusals")):
            kind = f"{'missed' if right == action else 'false'}_{name}"
            counts = effects.setdefault(kind, {"n": 0, "baseline": 0, "candidate": 0})
            counts["n"] += 1
            for side, given in zip(("baseline", "candidate"), done, strict=True):
                counts[side] += (given == action) != (right == action)
    return dict(sorted(effects.items()))
