"""Conditions: when a rule is in force. A small formula over the turn, and the test whether two can hold at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, Protocol

from .turn import Turn

NO_LIMIT = 1 << 30


class Condition(Protocol):
    """A node of the formula."""

    def holds(self, turn: Turn) -> bool: ...


@dataclass(frozen=True)
class Fact:
    """A fact has one of ``values``. ``domain`` is what was declared; None when any value may come."""

    name: str
    values: frozenset[Any]
    domain: frozenset[Any] | None = None

    def holds(self, turn: Turn) -> bool:
        return turn.facts.get(self.name) in self.values


@dataclass(frozen=True)
class UserSays:
    """The last user message (or any, with ``anywhere``) matches the pattern."""

    pattern: str
    anywhere: bool
    compiled: Any

    def holds(self, turn: Turn) -> bool:
        texts = turn.user_texts if self.anywhere else turn.user_texts[-1:]
        return any(self.compiled.search(text) is not None for text in texts)


@dataclass(frozen=True)
class TurnIn:
    """The number of user messages so far lies in [low, high]."""

    low: int
    high: int

    def holds(self, turn: Turn) -> bool:
        return self.low <= len(turn.user_texts) <= self.high


@dataclass(frozen=True)
class Label:
    name: str

    def holds(self, turn: Turn) -> bool:
        return self.name in turn.labels


@dataclass(frozen=True)
class HasSources:
    def holds(self, turn: Turn) -> bool:
        return bool(turn.documents)


@dataclass(frozen=True)
class Prompted:
    """The rule is named in the system prompt."""

    rule: str

    def holds(self, turn: Turn) -> bool:
        return self.rule in turn.prompted


@dataclass(frozen=True)
class Not:
    part: Condition

    def holds(self, turn: Turn) -> bool:
        return not self.part.holds(turn)


@dataclass(frozen=True)
class All:
    parts: tuple[Condition, ...] = ()

    def holds(self, turn: Turn) -> bool:
        return not self.parts or all(part.holds(turn) for part in self.parts)


@dataclass(frozen=True)
class AnyOf:
    parts: tuple[Condition, ...]

    def holds(self, turn: Turn) -> bool:
        return any(part.holds(turn) for part in self.parts)


def atoms(condition: Condition) -> Iterator[Condition]:
    """The parts of a condition that are not made of others."""
    if isinstance(condition, Not):
        yield from atoms(condition.part)
    elif isinstance(condition, All | AnyOf):
        for part in condition.parts:
            yield from atoms(part)
    else:
        yield condition


Literal = tuple[bool, Condition]


_CASES = 20_000


def can_hold(condition: Condition) -> bool:
    """Whether some turn may satisfy ``condition``: facts, turns and repeated atoms are reasoned about,
    two different patterns may always match together. Says True of a formula with too many cases to try."""
    return any(count > _CASES or _consistent(literals) for count, literals in enumerate(_cases(condition, True)))


def _cases(node: Condition, positive: bool) -> Iterator[tuple[Literal, ...]]:
    """Disjunctive normal form, one conjunction at a time."""
    if isinstance(node, Not):
        yield from _cases(node.part, not positive)
    elif isinstance(node, All | AnyOf):
        if isinstance(node, All) == positive:
            for combination in product(*(list(islice(_cases(part, positive), _CASES + 1)) for part in node.parts)):
                yield tuple(literal for literals in combination for literal in literals)
        else:
            for part in node.parts:
                yield from _cases(part, positive)
    else:
        yield ((positive, node),)


def _consistent(literals: tuple[Literal, ...]) -> bool:
    wanted = {atom for positive, atom in literals if positive}
    if any(not positive and atom in wanted for positive, atom in literals):
        return False
    return _facts_consistent(literals) and _turns_consistent(literals)


def _facts_consistent(literals: tuple[Literal, ...]) -> bool:
    facts = [(positive, atom) for positive, atom in literals if isinstance(atom, Fact)]
    for name in {atom.name for _, atom in facts}:
        wanted = [atom.values for positive, atom in facts if positive and atom.name == name]
        barred = frozenset().union(*(atom.values for positive, atom in facts if not positive and atom.name == name))
        # A fact may be missing from a turn, so denials alone never contradict.
        if wanted and not frozenset.intersection(*wanted) - barred:
            return False
    return True


def _turns_consistent(literals: tuple[Literal, ...]) -> bool:
    turns = [(positive, atom) for positive, atom in literals if isinstance(atom, TurnIn)]
    edges = {0, *(edge for _, atom in turns for edge in (atom.low, atom.low - 1, atom.high, atom.high + 1))}
    return any(all((atom.low <= n <= atom.high) == positive for positive, atom in turns) for n in edges if n >= 0)
