"""Hard rules that no reply can keep together: found before anything runs.

Sound for facts, turns, ``not`` and ``unless``; two different patterns are taken to be able to match
the same message. Such a pair is parted by ``unless: [other-rule]`` on the rule that should yield.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from .book import Clause, Rule, RuleBook
from .text import words
from .when import All, can_hold


def find(book: RuleBook) -> Iterator[tuple[str, str]]:
    """``(rule id, what contradicts)`` for hard rules that contradict themselves or each other."""
    hard = [rule for rule in book.rules if rule.severity == "hard"]
    for rule in hard:
        why = clash(rule.clauses, book)
        if why:
            yield rule.id, f"contradicts itself: {why}"
    for first, second in combinations(hard, 2):
        why = clash((*first.clauses, *second.clauses), book)
        alone = why and (clash(first.clauses, book) or clash(second.clauses, book))
        if why and not alone and can_hold(All((first.condition, second.condition))):
            yield second.id, _describe(first, why)


def _describe(first: Rule, why: str) -> str:
    return (
        f"contradicts rule {first.id!r}: {why}, and both can be in force at once "
        f"(narrow one when:, or add unless: [{first.id}])"
    )


def clash(clauses: tuple[Clause, ...], book: RuleBook) -> str | None:
    """What keeps a reply from keeping all of these clauses, or None."""
    return _field_clash(clauses, book) or _phrase_clash(clauses) or _length_clash(clauses)


def _field_clash(clauses: tuple[Clause, ...], book: RuleBook) -> str | None:
    for name in dict.fromkeys(clause.name for clause in clauses if clause.is_field):
        mine = [clause for clause in clauses if clause.is_field and clause.name == name]
        field = book.contract[name] if book.contract else None
        if field is None:
            continue
        if field.kind == "list":
            wanted, barred = (_values(mine, side) for side in ("must", "must_not"))
            if set(wanted) & set(barred):
                return f"{name} must and must not have {sorted(set(wanted) & set(barred))[0]!r}"
        elif field.kind in ("enum", "bool"):
            left = set(field.allowed or (True, False))
            for clause in mine:
                left = {v for v in left if (v in clause.argument[1]) == (clause.side == "must")}
            if not left:
                return f"no value of {name} is left ({'; '.join(_shown(clause) for clause in mine)})"
        elif _bounds_clash(mine):
            return f"the bounds of {name} leave no value"
    return None


def _values(clauses: list[Clause], side: str) -> list[Any]:
    return [value for clause in clauses if clause.side == side for value in clause.argument[1]]


def _shown(clause: Clause) -> str:
    return f"{clause.side} be {' or '.join(map(str, clause.argument[1]))}".replace("must_not", "must not")


def _bounds_clash(clauses: list[Clause]) -> bool:
    low, high = float("-inf"), float("inf")
    for clause in clauses:
        wanted = clause.argument[1]
        if clause.side == "must" and wanted[-1] == "bounds":
            low, high = max(low, wanted[0]), min(high, wanted[1])
    return low > high


def _phrase_clash(clauses: tuple[Clause, ...]) -> str | None:
    wanted = [phrase for clause in clauses if clause.side == "must" for phrase in _required(clause)]
    for clause in clauses:
        if clause.side != "must_not" or clause.name not in ("include_any", "words"):
            continue
        for barred in clause.argument:
            name = barred if isinstance(barred, str) else barred[0]
            hit = next((w for w in wanted if (name in w if isinstance(barred, str) else barred[1].search(w))), None)
            if hit:
                return f"{hit!r} is required and {name!r} is forbidden"
    return None


def _required(clause: Clause) -> list[str]:
    if clause.name == "include_all" or (clause.name == "include_any" and len(clause.argument) == 1):
        return list(clause.argument)
    if clause.name == "words":
        return [phrase for phrase, _ in clause.argument]
    return list(clause.argument) if clause.name in ("starts_with", "ends_with") and len(clause.argument) == 1 else []


_LIMITS = ("max_sentences", "max_words", "min_sentences", "min_words")


def _length_clash(clauses: tuple[Clause, ...]) -> str | None:
    limits = [(c.name, c.argument) for c in clauses if c.name in _LIMITS and not c.is_field]
    for unit in ("words", "sentences"):
        low = max((n for name, n in limits if name == f"min_{unit}"), default=0)
        high = min((n for name, n in limits if name == f"max_{unit}"), default=None)
        if high is not None and low > high:
            return f"min_{unit} {low} is above max_{unit} {high}"
    needed = [p for clause in clauses if clause.side == "must" for p in _required(clause)]
    longest = max((len(words(p)) for p in needed), default=0)
    cap = min((n for name, n in limits if name == "max_words"), default=None)
    return (
        f"a required phrase has {longest} words and max_words is {cap}" if cap is not None and longest > cap else None
    )
