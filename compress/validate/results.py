"""What a comparison found: suites, rules, the verdict, and the same in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any

from compress.validate.outcomes import Case
from compress.validate.statistics import INCONCLUSIVE


@dataclass(frozen=True)
class SuiteResult:
    """A pooled share with its paired difference; bounds are one-sided 95 %."""

    name: str
    n: int
    baseline: float
    candidate: float
    difference: float
    low: float
    high: float
    margin: float
    verdict: str
    needed: int | None = None
    design_effect: float = 1.0
    clusters: int = 0
    """How many of the n are independent of each other."""
    note: str = ""
    """Why the numbers alone do not count, where the baseline itself is no measure."""
    flips: tuple[int, int] = (0, 0)
    """(to pass, to fail)"""
    broken: tuple[str, ...] = ()
    """The first items that the candidate gets wrong (accuracy only): those that the baseline got right come first."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "flips": list(self.flips), "broken": list(self.broken)}

    def reason(self) -> str:
        """The result in one line."""
        return (
            f"{self.name}: {_percent(self.baseline)} -> {_percent(self.candidate)}, difference "
            f"{_points(self.difference)} [{_points(self.low)}, {_points(self.high)}] points, margin "
            f"-{_exactly(self.margin)}, {_count(self.n, self.clusters)}: {self.verdict}"
            f"{more(self.verdict, self.needed, self.note, n=self.n, clusters=self.clusters)}"
        )


@dataclass(frozen=True)
class RuleResult:
    """One rule over the items in which it is in force.

    ``baseline`` and ``candidate`` are the shares that kept it. ``low`` and ``high`` bound the difference when
    ``margin`` is given, and otherwise the candidate's own share. None where n is 0.
    """

    id: str
    severity: str
    mode: str
    n: int
    baseline: float | None
    candidate: float | None
    low: float | None
    high: float | None
    verdict: str
    flips: tuple[int, int]
    """(to pass, to fail)"""
    margin: float | None = None
    needed: int | None = None
    clusters: int = 0
    note: str = ""
    difference: tuple[float, float, float] | None = None
    """Candidate - baseline with its bounds, whatever the verdict rests upon; None where n is 0 or only what was sent
    counts."""
    broken: tuple[str, ...] = ()
    """The first items in which the candidate breaks the rule: those that the baseline kept come first."""
    limit: float | None = None
    """The largest violation rate, where the candidate's own rate is judged."""

    def to_json(self) -> dict[str, Any]:
        lists = {"flips": list(self.flips), "broken": list(self.broken)}
        return {**asdict(self), **lists, "difference": list(self.difference) if self.difference else None}

    def reason(self) -> str:
        """The result in one line."""
        if self.n == 0:
            return f"{self.id}: in force in no item"
        bounds = "" if self.margin is None else f", margin -{_exactly(self.margin)} points"
        bounds += "" if self.limit is None else f", limit {_exactly(self.limit)} % broken"
        return (
            f"{self.id} ({self.severity}, {self.mode}): kept {_percent(self.baseline)} -> {_percent(self.candidate)}"
            f"{bounds}, {_count(self.n, self.clusters)}, {self.flips[1]} newly broken: {self.verdict}"
            f"{more(self.verdict, self.needed, self.note, n=self.n, clusters=self.clusters)}"
        )


@dataclass(frozen=True)
class Judgement:
    """All results of one comparison. ``reasons`` are the lines that kept it from passing."""

    suites: tuple[SuiteResult, ...]
    rules: tuple[RuleResult, ...]
    verdict: str
    reasons: tuple[str, ...]
    side_effects: dict[str, dict[str, int]] = field(default_factory=dict)
    """``{"false_escalations": {n, baseline, candidate}, …}``: counts among the n items in which it could happen."""
    not_in_force: tuple[str, ...] = ()
    """Hard rules that are in force in no item: nothing is shown about them."""
    cases: tuple[Case, ...] = ()
    """Items in which the systems differ or both fail, with both replies."""
    demands: str = ""
    """What is asked of hard rules here, and what elsewhere."""
    n_items: int = 0

    @property
    def worst_rule(self) -> dict[str, Any] | None:
        """``{id, difference, n, lost_at_most}`` of the rule that fell most, or None.

        With 95 % no rule lost more than ``lost_at_most``: the least of all lower bounds holds for the rule that truly
        fell most, so it needs no correction for there being many.
        """
        found = [(*rule.difference, rule) for rule in self.rules if rule.difference and rule.mode != "enforced"]
        if not found:
            return None
        estimate, _, _, rule = min(found, key=lambda row: (row[0], row[1]))
        lost = max(-min(row[1] for row in found), 0.0)
        return {"id": rule.id, "difference": estimate, "n": rule.n, "lost_at_most": lost}

    def to_json(self) -> dict[str, Any]:
        """Without the cases (``cases_json``)."""
        suites, rules = [s.to_json() for s in self.suites], [r.to_json() for r in self.rules]
        shown: dict[str, Any] = {
            "verdict": self.verdict,
            "n_items": self.n_items,
            "reasons": list(self.reasons),
            "suites": suites,
            "rules": rules,
        }
        shown |= {"side_effects": self.side_effects, "hard_rules_not_in_force": list(self.not_in_force)}
        return {**shown, "worst_rule": self.worst_rule, "demands": self.demands}

    def cases_json(self) -> dict[str, list[dict[str, Any]]]:
        """``{rule or "accuracy": [{item, asked, baseline, candidate}…]}``"""
        found: dict[str, list[dict[str, Any]]] = {}
        for case in self.cases:
            found.setdefault(case.check, []).append(case.to_json())
        return found


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _exactly(share: float) -> str:
    return f"{100 * share:.10g}"


def _count(n: int, clusters: int) -> str:
    return f"n = {n} in {clusters} cluster{'s' * (clusters != 1)}" if 0 < clusters < n else f"n = {n}"


def more(verdict: str, needed: int | None, note: str = "", *, n: int = 0, clusters: int = 0) -> str:
    """What stands in the way of a verdict, or what would decide an inconclusive one, in brackets; otherwise nothing."""
    if note:
        return f" ({note})"
    if verdict != INCONCLUSIVE:
        return ""
    if not needed:
        return " (no number of items would decide)"
    apart = f" in {ceil(needed * clusters / n)} clusters" if 0 < clusters < n else ""
    return f" (about {needed}{apart} would decide at these rates)"
