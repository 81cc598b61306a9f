"""What two systems did in every item, rule by rule: a byte per check, so that two million checks take two megabytes.

Beside the counts stand *cases*: items in which the two differ or both break a rule, with both replies and why. Of each
rule and direction the first ``SHOWN`` are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.validate.side_effects import Replies, side_effects_of
from runtime.rules import RuleBook, Turn, Verdict

IN_FORCE, BASELINE, CANDIDATE = 1, 2, 4
"""Bits of a check: the rule is in force (an answer is known), the baseline passed, the candidate passed."""
ACCURACY = "accuracy"
SHOWN = 25
"""Cases kept of each rule and direction."""
NAMED = 3
"""Items named beside a broken rule."""
LONGEST = 4000
"""Characters of a reply or a question that a case keeps."""
Codes = NDArray[np.uint8]


class Question(Protocol):
    """An evaluation item. ``match`` is empty when no answer is known."""

    @property
    def id(self) -> str: ...
    @property
    def turn(self) -> Turn: ...
    @property
    def answer(self) -> Any: ...
    @property
    def match(self) -> str: ...
    @property
    def cluster(self) -> str: ...
    def accurate(self, book: RuleBook, reply: str) -> bool: ...


class Outcome(NamedTuple):
    """Whether baseline and candidate passed one check."""

    baseline: bool
    candidate: bool
    cluster: int


@dataclass(frozen=True)
class Pairs:
    """Outcomes of one kind of check as columns of equal length: bool, bool, int32."""

    baseline: NDArray[np.bool_]
    candidate: NDArray[np.bool_]
    cluster: NDArray[np.int32]

    @classmethod
    def of(cls, outcomes: Iterable[tuple[bool, bool, int]]) -> Pairs:
        """Columns of ``(baseline, candidate, cluster)``."""
        rows = list(outcomes)
        columns = [[row[place] for row in rows] for place in range(3)]
        return cls(np.array(columns[0], bool), np.array(columns[1], bool), np.array(columns[2], np.int32))

    def __len__(self) -> int:
        return len(self.cluster)

    def __iter__(self) -> Iterator[Outcome]:
        rows = zip(self.baseline.tolist(), self.candidate.tolist(), self.cluster.tolist(), strict=True)
        return (Outcome(*row) for row in rows)

    @property
    def passed(self) -> tuple[int, int]:
        """How many the baseline and the candidate passed."""
        return int(self.baseline.sum()), int(self.candidate.sum())

    @property
    def flips(self) -> tuple[int, int]:
        """``(to pass, to fail)``"""
        return int((self.candidate & ~self.baseline).sum()), int((self.baseline & ~self.candidate).sum())

    @property
    def clusters(self) -> int:
        """How many are independent of each other."""
        return len(np.unique(self.cluster))


class Case(NamedTuple):
    """One check of one item in which the systems differ, or both fail. ``why`` is empty where it was passed."""

    check: str
    """A rule's id, or ``accuracy``."""
    item: str
    asked: str
    replies: tuple[str, str]
    passed: tuple[bool, bool]
    why: tuple[str, str]

    def to_json(self) -> dict[str, Any]:
        """``{item, asked, baseline: {reply, passed, why}, candidate: {…}}``"""
        sides = [
            {"reply": reply, "passed": passed, "why": why}
            for reply, passed, why in zip(self.replies, self.passed, self.why, strict=True)
        ]
        return {"item": self.item, "asked": self.asked, "baseline": sides[0], "candidate": sides[1]}


@dataclass(frozen=True)
class Table:
    """Every check of every item."""

    rules: tuple[tuple[str, str], ...]
    """``(id, severity)`` of the columns of ``codes``."""
    codes: Codes
    """uint8 ``[items, rules]`` of the bits above; 0 where the rule is not in force."""
    accurate: Codes
    """uint8 ``[items]`` of the same bits; 0 where no answer is known."""
    cluster: NDArray[np.int32]
    """``[items]``"""
    cases: tuple[Case, ...] = ()
    side_effects: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, book: RuleBook, items: Sequence[Question], baseline: Replies, candidate: Replies) -> Table:
        """Check both systems' replies to ``items`` (all three in the same order)."""
        part = check_all(book, items, baseline, candidate)
        names: dict[str, int] = {}
        cluster = np.array([names.setdefault(item.cluster, len(names)) for item in items], np.int32)
        return join(book, [part], cluster)

    def first(self, count: int) -> Table:
        """The checks of the first ``count`` items."""
        return replace(self, codes=self.codes[:count], accurate=self.accurate[:count], cluster=self.cluster[:count])

    def rule(self, name: str) -> Pairs:
        """One rule over the items in which it is in force."""
        return self._pairs([place for place, (rule, _) in enumerate(self.rules) if rule == name])

    def pooled(self, severity: str) -> Pairs:
        """All rules of a severity."""
        return self._pairs([place for place, (_, kind) in enumerate(self.rules) if kind == severity])

    def accuracy(self) -> Pairs:
        """The items whose answer is known."""
        return _columns(self.accurate, self.cluster)

    def replies(self, severity: str) -> Pairs:
        """One outcome per item in which a rule of that severity is in force: whether all of them were kept."""
        codes = self.codes[:, [place for place, (_, kind) in enumerate(self.rules) if kind == severity]]
        idle = codes == 0
        kept = [((codes & bit != 0) | idle).all(axis=1) for bit in (BASELINE, CANDIDATE)]
        some = ~idle.all(axis=1)
        return Pairs(kept[0][some], kept[1][some], self.cluster[some])

    def broken(self, rule: str) -> tuple[str, ...]:
        """The first three items in which the candidate breaks ``rule``: those that the baseline kept come first."""
        found = [case for case in self.cases if case.check == rule and not case.passed[1]]
        return tuple(case.item for case in sorted(found, key=lambda case: not case.passed[0])[:NAMED])

    def _pairs(self, places: Sequence[int]) -> Pairs:
        parts = [_columns(self.codes[:, place], self.cluster) for place in places]
        return Pairs(
            *(
                np.concatenate([getattr(part, name) for part in parts] or [np.zeros(0, kind)])
                for name, kind in (("baseline", bool), ("candidate", bool), ("cluster", np.int32))
            )
        )


def _columns(codes: Codes, cluster: NDArray[np.int32]) -> Pairs:
    known = codes != 0
    codes = codes[known]
    return Pairs(codes & BASELINE != 0, codes & CANDIDATE != 0, cluster[known])


class Part(NamedTuple):
    """The checks of some items: what a ``Table`` is put together from."""

    codes: bytes
    accurate: bytes
    cases: tuple[Case, ...]
    side_effects: Mapping[str, Mapping[str, int]]


def join(book: RuleBook, parts: Iterable[Part], cluster: NDArray[np.int32]) -> Table:
    """The table of the items of all ``parts``, in that order."""
    codes, accurate, cases = bytearray(), bytearray(), list[Case]()
    effects: dict[str, dict[str, int]] = {}
    for part in parts:
        codes += part.codes
        accurate += part.accurate
        cases = first_cases([*cases, *part.cases])
        for name, counts in part.side_effects.items():
            mine = effects.setdefault(name, dict.fromkeys(counts, 0))
            mine |= {key: mine[key] + count for key, count in counts.items()}
    rules = tuple((rule.id, rule.severity) for rule in book.rules)
    table = np.frombuffer(codes, np.uint8).reshape(len(cluster), len(rules))
    effects = dict(sorted(effects.items()))
    return Table(rules, table, np.frombuffer(accurate, np.uint8), cluster, tuple(cases), effects)


def check_all(book: RuleBook, items: Sequence[Question], baseline: Replies, candidate: Replies) -> Part:
    """Check both replies to every item."""
    codes, accurate, cases = bytearray(), bytearray(), list[Case]()
    columns = {rule.id: place for place, rule in enumerate(book.rules)}
    for item, first, second in zip(items, baseline, candidate, strict=True):
        checks = _rules(book, item, first, second)
        right = _accuracy(book, item, first, second)
        row = bytearray(len(columns))
        for name, before, after in checks:
            row[columns[name]] = _code(before.passed, after.passed)
        codes += row
        accurate.append(_code(*right) if right else 0)
        cases += _cases(item, first, second, checks, right)
    effects = side_effects_of(book, items, baseline, candidate)
    return Part(bytes(codes), bytes(accurate), tuple(first_cases(cases)), effects)


def _code(before: bool, after: bool) -> int:
    return IN_FORCE | BASELINE * before | CANDIDATE * after


Check = tuple[str, Verdict, Verdict]
Reply = tuple[str, bool]


def _rules(book: RuleBook, item: Question, first: Reply, second: Reply) -> list[Check]:
    active = book.active(item.turn)
    before = book.check(item.turn, *first, active)
    after = before if first == second else book.check(item.turn, *second, active)
    return [(b.rule, b, a) for b, a in zip(before, after, strict=True)]


def _accuracy(book: RuleBook, item: Question, first: Reply, second: Reply) -> tuple[bool, bool] | None:
    """Whether both are right; a reply that the limit cut is not. None where no answer is known."""
    if not item.match:
        return None
    before = not first[1] and item.accurate(book, first[0])
    return before, before if first == second else not second[1] and item.accurate(book, second[0])


def _cases(
    item: Question, first: Reply, second: Reply, checks: Sequence[Check], right: tuple[bool, bool] | None
) -> Iterator[Case]:
    """What is worth a look in one item."""
    told = [(name, (b.passed, a.passed), (b.why, a.why)) for name, b, a in checks if not (b.passed and a.passed)]
    if right and not all(right):
        wanted = f"the answer is {item.answer!r} ({item.match})"
        told.append((ACCURACY, right, ("" if right[0] else wanted, "" if right[1] else wanted)))
    if not told:
        return
    asked = _short(next((str(m.get("content")) for m in reversed(item.turn.messages) if m.get("role") == "user"), ""))
    said = _short(first[0] + CUT * first[1]), _short(second[0] + CUT * second[1])
    for name, passed, why in told:
        yield Case(name, _short(item.id), asked, said, passed, (_short(why[0]), _short(why[1])))


CUT = " \u2026[cut off at the token limit]"


def _short(text: str) -> str:
    """A text of bounded length that can be written: half characters become ``?``."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} \u2026[{len(text) - LONGEST} characters more]"


def first_cases(cases: Iterable[Case]) -> list[Case]:
    """The first ``SHOWN`` of each check and direction, in their order."""
    seen: dict[tuple[str, tuple[bool, bool]], int] = {}
    kept = []
    for case in cases:
        kind = (case.check, case.passed)
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= SHOWN:
            kept.append(case)
    return kept
