"""``compress gate --plan``: how many items the gate will want, before anybody is asked anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from math import ceil, isfinite
from typing import Any

from compress.errors import UsageError
from compress.validate.statistics import ALPHA, VIOLATIONS, hard_floor, in_clusters, sample_size, zero_flip_floor


@dataclass(frozen=True)
class Assumed:
    """What is expected of the candidate and the data."""

    discordance: float = 0.02
    """Share of pairs that flip, either way."""
    difference: float = 0.0
    """Candidate - baseline."""
    violations: float = 0.002
    """Share of replies in which the candidate truly breaks a hard rule."""
    power: float = 0.9
    """Probability that all tests pass together."""
    cluster_size: float = 1.0
    """Items that belong together."""
    icc: float = 1.0
    """Correlation of the flips and of the violations within a cluster; 1 counts a cluster as one item."""

    def check(self) -> None:
        """Raises UsageError naming the first value that cannot be."""
        for name, value in asdict(self).items():
            if not isfinite(value):
                raise UsageError(f"{name} is {value}", next="give a number")
        for name in ("discordance", "violations", "icc"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}", next="give a share from 0 to 1")
        if not 0 < self.power < 1:
            raise UsageError(f"power is {self.power}", next="give a probability between 0 and 1, such as 0.9")
        if abs(self.difference) > self.discordance:
            what = f"a difference of {self.difference} cannot come from {self.discordance} flips per pair"
            raise UsageError(what, next="raise discordance to the size of the difference at least")
        if self.cluster_size < 1:
            raise UsageError(f"cluster size is {self.cluster_size}", next="give 1 or more")


@dataclass(frozen=True)
class Demand:
    """One test, or as many equal ones."""

    what: str
    where: str
    """``both``, ``compress gate`` or ``validate``."""
    margin: float
    """Points that may be lost, or the limit of a rate."""
    unit: str
    tests: int
    floor: int
    """Units if nothing flips or breaks."""
    needed: int | None
    """Units of each such test, for all tests to pass with the wanted probability; None: no number would do."""
    clusters: int | None
    """Clusters that they stand in."""
    note: str = ""
    rate: bool = False
    """Whether ``margin`` is the limit of a rate."""
    rule: str = ""
    """The rule's id, where it is one and it is known how often it is in force."""


def plan_gate(
    rules: Sequence[tuple[str, str, float]], margins: Mapping[str, float], assumed: Assumed, shares: Mapping[str, float]
) -> dict[str, Any]:
    """What recorded replies (``compress gate``) and a validation need: ``{assumed, demands: [Demand…], items}``.

    ``rules``: ``(id, severity, margin)`` of every rule. ``shares``: of the items, in how many each rule is in force;
    where it is empty, rules are counted in replies in which they are in force, and equal ones stand in one row. Rules
    that are in force in none do not count in the gate, so they stand under ``not_in_force`` only.
    ``items`` are what each place needs in all, as far as the shares are known.
    """
    assumed.check()
    idle = [name for name, _, _ in rules if shares.get(name) == 0]
    rules = [rule for rule in rules if rule[0] not in idle]
    hard, soft = ([rule for rule in rules if rule[1] == kind] for kind in ("hard", "soft"))
    pooled = [("accuracy", margins["accuracy"])]
    pooled += [("hard rules pooled, the model alone", margins["adherence"])] * bool(hard)
    pooled += [("soft rules pooled", margins["rule"])] * bool(soft)
    each = assumed.power ** (1 / (len(pooled) + len(rules)))
    demands = [_compared(what, "both", margin, "items", 1, each, assumed) for what, margin in pooled]
    for kind, where in ((soft, "both"), (hard, "validate")):
        for (name, severity, margin), count in _alike(kind, shares).items():
            what = f"{severity} rule {name}" if name else f"each {severity} rule"
            demand = _compared(what, where, margin, "replies in force", count, each, assumed)
            demands.append(replace(demand, rule=name))
    for (name, _, _), count in _alike([(name, kind, 0.0) for name, kind, _ in hard], shares).items():
        what = f"hard rule {name}, its own violations" if name else "each hard rule, its own violations"
        demands.append(replace(_limited(what, count, each, assumed), rule=name))
    if hard:
        floor, what = ceil(hard_floor() * assumed.cluster_size), "hard rules, what the guard lets out"
        demands.append(Demand(what, "validate", VIOLATIONS, "items", 1, floor, floor, hard_floor(), rate=True))
    items = {place: _items(demands, place, shares) for place in ("compress gate", "validate")}
    shown = [asdict(demand) for demand in demands]
    found = {"assumed": asdict(assumed), "alpha": ALPHA, "power_of_each": each, "demands": shown, "items": items}
    return found | {"shares": dict(shares), "not_in_force": idle}


def _alike(rules: Sequence[tuple[str, str, float]], shares: Mapping[str, float]) -> dict[tuple[str, str, float], int]:
    """Rules one by one where it is known how often they are in force, and otherwise the equal ones counted."""
    found: dict[tuple[str, str, float], int] = {}
    for name, severity, margin in rules:
        key = (name if shares else "", severity, margin)
        found[key] = found.get(key, 0) + 1
    return found


def _compared(what: str, where: str, margin: float, unit: str, tests: int, power: float, assumed: Assumed) -> Demand:
    n = sample_size(
        margin, assumed.discordance, assumed.difference, power, cluster_size=assumed.cluster_size, icc=assumed.icc
    )
    floor = ceil(zero_flip_floor(margin) * assumed.cluster_size)
    note = "" if n else f"a difference of {100 * assumed.difference:+g} points is no better than the margin"
    return Demand(what, where, margin, unit, tests, floor, n, _clusters(n, assumed), note)


def _limited(what: str, tests: int, power: float, assumed: Assumed) -> Demand:
    found = hard_size(assumed.violations, power)
    n, note = None, f"{100 * assumed.violations:g} % of violations are too many to be shown below the limit"
    if found:
        alone, (fewer, chance, most) = found
        n, note = _violating(alone, assumed), "no violation may be among them"
        if fewer:
            note = f"{_violating(fewer, assumed)} replies would do with {100 * chance**tests:.0f} %"
            note = note if assumed.cluster_size > 1 else f"up to {most + 1} violations pass; {note}"
    unit = "replies in force"
    floor = ceil(hard_floor() * assumed.cluster_size)
    return Demand(what, "compress gate", VIOLATIONS, unit, tests, floor, n, _clusters(n, assumed), note, rate=True)


def _violating(alone: int, assumed: Assumed) -> int | None:
    share = assumed.violations
    return in_clusters(alone, share * (1 - share), VIOLATIONS, assumed.cluster_size, assumed.icc)


def _clusters(n: int | None, assumed: Assumed) -> int | None:
    return None if n is None else ceil(n / assumed.cluster_size - 1e-9)


Step = tuple[int, float, int]
"""Replies, probability to pass, violations among them that still pass."""


@lru_cache(maxsize=256)
def hard_size(violations: float, power: float, limit: float = VIOLATIONS) -> tuple[int, Step] | None:
    """Replies that a rule which is truly broken in a share ``violations`` needs to be shown below ``limit`` with
    probability ``power``, and the step below it; None where it is broken too often."""
    from scipy.special import bdtr

    if violations >= limit:
        return None
    before: Step = (0, 0.0, -1)
    for most in range(2000):
        n = _fewest(most, limit)
        chance = float(bdtr(most, n, violations))
        if chance >= power:
            return n, before
        before = (n, chance, most)
    return None


def _fewest(violations: int, limit: float) -> int:
    """The fewest replies in which so many violations still show a rate of at most ``limit``."""
    from scipy.special import bdtr

    low, high = violations, 2 * violations + ceil(4 / limit)
    while bdtr(violations, high, limit) > ALPHA:
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bdtr(violations, middle, limit) > ALPHA else (low, middle)
    return high


def _items(demands: Sequence[Demand], place: str, shares: Mapping[str, float]) -> int | None:
    """Items that satisfy every demand of a place; None where one cannot be satisfied."""
    most = 0
    for demand in demands:
        if demand.where not in (place, "both"):
            continue
        share = shares[demand.rule] if demand.rule else 1.0
        if demand.needed is None:
            return None
        most = max(most, ceil(demand.needed / share - 1e-9))
    return most
