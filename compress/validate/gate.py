"""The gate: two systems' replies to the same items become suites, rules and one verdict.

All conditions must hold at once (an intersection-union test), so none of them needs a correction of alpha.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from compress.validate.outcomes import Question, Table
from compress.validate.paired import Pick, blank, broken, measured, paired, too_often
from compress.validate.results import Judgement, RuleResult, SuiteResult, more
from compress.validate.sequential import Looks
from compress.validate.side_effects import Replies
from compress.validate.statistics import (
    FAIL,
    INCONCLUSIVE,
    NOT_TESTED,
    PASS,
    VIOLATIONS,
    design_effect,
    hard_floor,
    hard_limit,
)
from runtime.rules import Rule, RuleBook

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
    looks: Looks | None = None,
) -> Judgement:
    """Compare two systems' replies to ``items`` (all three in the same order).

    ``model``: the replies as the models wrote them; every rule by non-inferiority, at its own margin where the rule
    file gives one. ``recorded``: the same, but a hard rule is judged by the candidate's own violation rate.
    ``enforced``: what was sent after enforcement; hard rules only, by replies without any violation, and one
    violation fails. ``looks``: the items came as a stream in random order and were judged so often (``sequential``).
    """
    if not len(items) == len(baseline) == len(candidate):
        raise ValueError(f"{len(items)} items, {len(baseline)} and {len(candidate)} replies: one reply per item")
    table = Table.of(book, items, baseline, candidate)
    return judge_table(book, table, mode=mode, margins=margins, looks=looks)


def judge_table(
    book: RuleBook,
    table: Table,
    *,
    mode: Mode = "model",
    margins: Mapping[str, float] = MARGINS,
    looks: Looks | None = None,
) -> Judgement:
    """The same of checks that were made already."""
    margins = {**MARGINS, **margins}
    if mode == "enforced":
        return _enforced(book, table)
    test = _Test(table, mode, margins, looks)
    return _conclude(_suites(test), tuple(_rule(test, rule) for rule in book.rules), table, _demands(test, book))


@dataclass(frozen=True)
class _Test:
    """What is tested, and how."""

    table: Table
    mode: Mode
    margins: Mapping[str, float]
    looks: Looks | None

    def excused(self, margin: float) -> float:
        """How much better a candidate must be shown to be for its baseline's faults not to matter. In two recorded
        files nothing excuses them: a baseline that passes nothing there is most often the wrong file."""
        return margin if self.mode == "model" else 1.0

    def margin(self, rule: Rule) -> float:
        """The rule's own margin, or that of all rules without one."""
        return self.margins["rule"] if rule.margin is None else rule.margin

    def own_rate(self, severity: str) -> bool:
        """Whether a rule is judged by how often the candidate breaks it."""
        return severity == "hard" and self.mode == "recorded"


def _suites(test: _Test) -> tuple[SuiteResult, ...]:
    wanted: tuple[tuple[str, Pick, float], ...] = (
        ("accuracy", lambda table: table.accuracy(), test.margins["accuracy"]),
        ("adherence", lambda table: table.pooled("hard"), test.margins["adherence"]),
        ("soft adherence", lambda table: table.pooled("soft"), test.margins["rule"]),
    )
    return tuple(_suite(test, name, pick, margin) for name, pick, margin in wanted if len(pick(test.table)))


def _suite(test: _Test, name: str, pick: Pick, margin: float) -> SuiteResult:
    pairs = pick(test.table)
    interval, deff = paired(test.table, pick, margin, test.looks)
    n, (before, after) = len(pairs), pairs.passed
    verdict, note = measured(interval.verdict, blank(before, n, margin), interval.low, test.excused(margin))
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
        pairs.flips,
        test.table.broken(name),
    )


def _rule(test: _Test, rule: Rule) -> RuleResult:
    pairs, severity = test.table.rule(rule.id), rule.severity
    if not len(pairs):
        return RuleResult(rule.id, severity, test.mode, 0, None, None, None, None, NOT_TESTED, (0, 0))
    n, margin, recorded = len(pairs), test.margin(rule), test.own_rate(severity)
    interval, _ = paired(test.table, lambda table: table.rule(rule.id), margin, test.looks)
    before, after = pairs.passed
    note = blank(before, n, margin)
    if severity == "hard" and not note:
        note = broken(pairs, VIOLATIONS if recorded else test.margins["baseline"])
    bounds, needed, own = (interval.low, interval.high), interval.needed, interval.verdict
    if recorded:
        limit = hard_limit(n - after, n, design_effect(~pairs.candidate, pairs.cluster, VIOLATIONS))
        bounds, needed, own = (1 - limit.high, 1 - limit.low), limit.needed, limit.verdict
    verdict, note = measured(own, note, interval.low, test.excused(margin))
    if recorded and verdict == FAIL:
        note = too_often(pairs, VIOLATIONS)
    return RuleResult(
        rule.id,
        severity,
        "recorded" if recorded else "model",
        n,
        before / n,
        after / n,
        *bounds,
        verdict,
        pairs.flips,
        None if recorded else margin,
        needed,
        pairs.clusters,
        note,
        (interval.estimate, interval.low, interval.high),
        test.table.broken(rule.id),
        VIOLATIONS if recorded else None,
    )


def _demands(test: _Test, book: RuleBook) -> str:
    """What is demanded of hard rules here, and what is demanded of them elsewhere; empty where there are none."""
    hard = [rule for rule in book.rules if rule.severity == "hard"]
    if not hard:
        return ""
    floor = hard_floor()
    if test.mode == "recorded":
        return (
            f"recorded replies: of each hard rule, that the candidate breaks it in at most {100 * VIOLATIONS:g} % of "
            f"its replies, whatever the baseline does ({floor} replies without a violation show that); validate asks "
            "of the model alone to be no worse than the baseline, and of what the guard lets out no violation at all"
        )
    margins = sorted({test.margin(rule) for rule in hard})
    shown = " to ".join(f"{100 * margin:g}" for margin in ([margins[0], margins[-1]] if len(margins) > 1 else margins))
    return (
        f"the model alone: of each hard rule, no worse than the baseline by {shown} points; what the rule guard lets "
        f"out: no violation at all, in at least {floor} replies. compress gate on recorded replies knows no guard, and "
        f"asks of each hard rule that the candidate breaks it in at most {100 * VIOLATIONS:g} % of its replies"
    )


def _enforced(book: RuleBook, table: Table) -> Judgement:
    """Any violation fails; without one, the number of replies must bound the rate of violating replies below 1 %."""
    replies = table.replies("hard")
    n = len(replies)
    if not n:
        idle = tuple(rule.id for rule in book.rules if rule.severity == "hard")
        return Judgement((), (), NOT_TESTED, ("no hard rule is in force in any item",), not_in_force=idle)
    wrong = n - replies.passed[1]
    interval = hard_limit(wrong, n, design_effect(~replies.candidate, replies.cluster, VIOLATIONS))
    verdict = FAIL if wrong else interval.verdict
    rules = tuple(_enforced_rule(table, rule.id, verdict) for rule in book.rules if rule.severity == "hard")
    reasons = [rule.reason() for rule in rules if rule.verdict == FAIL]
    if verdict == INCONCLUSIVE:
        found = more(verdict, interval.needed, n=n, clusters=replies.clusters)
        reasons.append(f"no violation in {n} enforced replies{found}")
    return Judgement((), rules, verdict, tuple(reasons), not_in_force=_idle(rules), cases=table.cases)


def _enforced_rule(table: Table, rule: str, verdict: str) -> RuleResult:
    pairs = table.rule(rule)
    n = len(pairs)
    if not n:
        return RuleResult(rule, "hard", "enforced", 0, None, None, None, None, NOT_TESTED, (0, 0))
    before, after = pairs.passed
    interval = hard_limit(n - after, n, design_effect(~pairs.candidate, pairs.cluster, VIOLATIONS))
    own = FAIL if after < n else PASS if verdict == FAIL else verdict
    share = before / n, after / n, 1 - interval.high, 1 - interval.low
    return RuleResult(rule, "hard", "enforced", n, *share, own, pairs.flips, broken=table.broken(rule))


def _conclude(suites: tuple[SuiteResult, ...], rules: tuple[RuleResult, ...], table: Table, demands: str) -> Judgement:
    results: tuple[SuiteResult | RuleResult, ...] = (*suites, *rules)
    n, idle = len(table.cluster), _idle(rules)
    effects = {name: dict(counts) for name, counts in table.side_effects.items()}
    verdicts = {result.verdict for result in results} - {NOT_TESTED}
    if not verdicts:
        why = "nothing was tested: no expected answer and no rule in force"
        return Judgement(suites, rules, INCONCLUSIVE, (why,), effects, idle, demands=demands, n_items=n)
    verdict = FAIL if FAIL in verdicts else INCONCLUSIVE if INCONCLUSIVE in verdicts else PASS
    reasons = [r.reason() for wanted in (FAIL, INCONCLUSIVE) for r in results if r.verdict == wanted]
    return Judgement(suites, rules, verdict, tuple(reasons), effects, idle, table.cases, demands, n)


def _idle(rules: Sequence[RuleResult]) -> tuple[str, ...]:
    return tuple(rule.id for rule in rules if rule.severity == "hard" and rule.n == 0)
