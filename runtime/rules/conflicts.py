"""Hard rules that no reply can keep together: found before anything runs.

Sound for facts, turns, ``not`` and ``unless``; two different patterns are taken to be able to match
the same message. Such a pair is parted by ``unless: [other-rule]`` on the rule that should yield.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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
    for first, second, why in _pairs(hard, book):
        alone = clash(first.clauses, book) or clash(second.clauses, book)
        if not alone and can_hold(All((first.condition, second.condition))):
            yield second.id, _describe(first, why)


def _pairs(hard: list[Rule], book: RuleBook) -> list[tuple[Rule, Rule, str]]:
    """Rules that clash, in the order of the file. Rules that ask for the same are compared once, and only with those
    that bar something of the kind that they need: thousands of rules are no burden."""
    alike: dict[str, list[int]] = {}
    for place, rule in enumerate(hard):
        asked = [rule.source.get("must"), rule.source.get("must_not")]
        alike.setdefault(json.dumps(asked, sort_keys=True, default=str), []).append(place)
    groups = list(alike.values())
    needs, bars = zip(*(_topics(hard[group[0]]) for group in groups), strict=True) if groups else ((), ())
    barring: dict[str, list[int]] = {}
    for number, topics in enumerate(bars):
        for topic in topics:
            barring.setdefault(topic, []).append(number)
    candidates = {
        (min(one, other), max(one, other))
        for one, topics in enumerate(needs)
        for topic in topics
        for other in barring.get(topic, ())
    }
    found = {}
    for one, other in candidates:
        why = clash((*hard[groups[one][0]].clauses, *hard[groups[other][0]].clauses), book)
        if why:
            found.update({(min(a, b), max(a, b)): why for a in groups[one] for b in groups[other] if a != b})
    return [(hard[first], hard[second], found[first, second]) for first, second in sorted(found)]


def _topics(rule: Rule) -> tuple[set[str], set[str]]:
    """What a rule needs and what it bars; two rules can clash only where one needs what the other bars."""
    needs, bars = set(), set()
    for clause in rule.clauses:
        if clause.is_field:
            needs.add(f"field {clause.name}")
            bars.add(f"field {clause.name}")
        elif clause.name in _LIMITS:
            bound, _, unit = clause.name.partition("_")
            (needs if bound == "min" else bars).add(unit)
        elif clause.side == "must_not" and clause.name in ("include_any", "words"):
            bars.add("phrase")
        elif clause.side == "must" and _required(clause):
            needs |= {"phrase", "words"}
    return needs, bars


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
            name = barred if isinstance(barred, str) else barred.phrase
            hit = next(
                (w for w in wanted if (name in w if isinstance(barred, str) else barred.pattern.search(w))), None
            )
            if hit:
                return f"{hit!r} is required and {name!r} is forbidden"
    return None


def _required(clause: Clause) -> list[str]:
    if clause.name == "include_all" or (clause.name == "include_any" and len(clause.argument) == 1):
        return list(clause.argument)
    if clause.name == "words":
        return [word.phrase for word in clause.argument]
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
