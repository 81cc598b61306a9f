"""A rule proves itself at load: its fixtures must behave, and the safe reply must keep the hard rules."""

from __future__ import annotations

from typing import Any

from ..errors import HoldfastError
from .book import Rule, RuleBook
from .spec import FixtureSpec, Problems, RuleSpec
from .turn import Turn
from .yaml import Place


def turn_of(spec: FixtureSpec, rule: Rule) -> Turn:
    """The fixture's turn; an optional rule is taken as named in the prompt."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": spec.system}] if spec.system else []
    messages += spec.messages or [{"role": "user", "content": spec.user}]
    prompted = (*spec.prompted, rule.id) if rule.optional else tuple(spec.prompted)
    sources = tuple((source.id, source.text) for source in spec.sources)
    return Turn(tuple(messages), spec.facts, tuple(spec.labels or ()), sources, prompted)


def reply_of(book: RuleBook, spec: FixtureSpec) -> str:
    """The fixture's reply as the model would write it; contract fields it leaves out are neutral ones."""
    if spec.raw is not None:
        return spec.raw
    if book.contract is None:
        return str(spec.reply)
    given = spec.reply if isinstance(spec.reply, dict) else {"reply": spec.reply}
    neutral = {**_first_values(book), **(book.safe if isinstance(book.safe, dict) else {})}
    extra = {name: value for name, value in given.items() if name not in book.contract}
    if extra:
        raise ValueError(f"{sorted(extra)[0]!r} is not a field of the contract")
    return book.contract.dump({**neutral, **given})


def _first_values(book: RuleBook) -> dict[str, Any]:
    assert book.contract is not None
    blanks: dict[str, Any] = {"bool": False, "list": [], "text": "Thank you."}
    values = {}
    for field in book.contract.fields:
        values[field.name] = field.allowed[0] if field.kind == "enum" else blanks.get(field.kind, field.low or 0)
    return values


def try_rule(book: RuleBook, rule: Rule, spec: RuleSpec, path: Place, problems: Problems) -> None:
    """Run the rule's fixtures and note each that does not behave."""
    groups = (("pass", spec.fixtures.passing), ("fail", spec.fixtures.fail), ("inactive", spec.fixtures.inactive))
    for group, fixtures in groups:
        if not fixtures and group != "inactive":
            problems.add((*path, "fixtures"), f"has no {group} fixture; give at least one", f"rule {rule.id!r}")
        for index, fixture in enumerate(fixtures):
            why = _misbehaves(book, rule, fixture, group)
            if why:
                where: Place = (*path, "fixtures", group, index)
                problems.add(where, why, f"rule {rule.id!r}, {group} fixture {index + 1}")


def _misbehaves(book: RuleBook, rule: Rule, fixture: FixtureSpec, group: str) -> str | None:
    wrong_facts = book.fact_problems(fixture.facts)
    if wrong_facts:
        return "; ".join(wrong_facts)
    turn = turn_of(fixture, rule)
    in_force = rule.condition.holds(turn)
    if group == "inactive":
        return "the rule is in force here" if in_force else None
    if not in_force:
        return "the rule is not in force here: its when does not hold"
    if fixture.reply is None and fixture.raw is None:
        return "has no reply"
    return _replies_badly(book, rule, fixture, turn, group)


def _replies_badly(book: RuleBook, rule: Rule, fixture: FixtureSpec, turn: Turn, group: str) -> str | None:
    try:
        parsed = book.parse(reply_of(book, fixture))
    except ValueError as error:
        return str(error)
    if parsed.error:
        meant = group == "fail" and fixture.raw is not None
        return None if meant else f"the reply itself is not valid: {parsed.error}"
    verdict = rule.judge(book.reply(turn, parsed))
    if verdict.passed == (group == "pass"):
        return None
    return (
        "the reply keeps the rule, and should break it"
        if verdict.passed
        else f"the reply breaks the rule: {verdict.why}"
    )


def try_fallback(book: RuleBook, specs: list[tuple[Place, RuleSpec]], problems: Problems) -> None:
    """The safe reply must itself keep every hard rule in the turns of that rule's fixtures."""
    for path, spec in specs:
        rule = book.by_id[spec.id]
        if rule.severity != "hard" or (book.safe is None and not rule.fallback):
            continue
        for fixture in (*spec.fixtures.passing, *spec.fixtures.fail):
            turn = turn_of(fixture, rule)
            why = _fallback_fault(book, turn)
            if why:
                problems.add(path, f"in a fixture's turn the safe reply fails: {why}", f"rule {rule.id!r}")
                break


def _fallback_fault(book: RuleBook, turn: Turn) -> str | None:
    try:
        safe = book.fallback(turn)
    except HoldfastError as error:
        return error.what
    broken = [v for v in book.check(turn, safe) if v.severity == "hard" and not v.passed]
    if not broken:
        return None
    return f"{broken[0].rule}: {broken[0].why} (change prompt.fallback, or give that rule a fallback: of its own)"
