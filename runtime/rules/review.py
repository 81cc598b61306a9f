"""What a loaded rule file leaves unproved: rules that can never be in force, clauses and conditions that no fixture
tries, labels that nothing sets, and contradictions that loading lets pass because a soft rule takes part in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from .book import Rule, RuleBook
from .conflicts import clash
from .fixtures import reply_of, turn_of
from .spec import FixturesSpec
from .turn import Reply, Turn
from .when import All, AnyOf, Condition, Fact, HasSources, Label, Not, Prompted, TurnIn, UserSays, atoms, can_hold

Warned = tuple[str, str]
"""A rule's id (empty: the file as a whole), and what is wrong with it."""


def review(book: RuleBook, items: Sequence[Turn] = ()) -> list[Warned]:
    """All that is to be said of a file, rule by rule, then of it as a whole; ``items`` are further turns to look at."""
    tried = {rule.id: _fixtures(book, rule) for rule in book.rules}
    turns = [turn for active, _, idle in tried.values() for turn in (*active, *idle)]
    found = [(rule.id, what) for rule in book.rules for what in _of_rule(rule, *tried[rule.id][1:])]
    return [*found, *_pairs(book, [*turns, *items]), *_labels(book, turns), *_facts(book)]


def _fixtures(book: RuleBook, rule: Rule) -> tuple[list[Turn], list[Reply], list[Turn]]:
    """Turns in which the rule is in force, the replies that break it, and turns in which it is not in force."""
    spec = FixturesSpec.model_validate(rule.source.get("fixtures") or {})
    broken = []
    for fixture in spec.fail:
        parsed = book.parse(reply_of(book, fixture))
        if not parsed.error:
            broken.append(book.reply(turn_of(fixture, rule), parsed))
    return [turn_of(f, rule) for f in (*spec.passing, *spec.fail)], broken, [turn_of(f, rule) for f in spec.inactive]


def _of_rule(rule: Rule, broken: Sequence[Reply], idle: Sequence[Turn]) -> Iterator[str]:
    if not can_hold(rule.condition):
        yield "can never be in force: its when and unless exclude each other"
    if not rule.text:
        yield "no text: it can neither be prompted nor told"
    if (rule.source.get("when") or rule.source.get("unless")) and not idle:
        yield "no inactive fixture: nothing shows where it must not be in force"
    elif idle and (lacking := _untried(rule, idle)):
        yield f"no near miss: no inactive fixture lacks only {lacking}, so that nothing shows that it counts"
    for clause in rule.clauses if len(rule.clauses) > 1 else ():
        if not any(_only(rule, clause.name, clause.side, reply) for reply in broken):
            yield f"no near miss: no fail fixture breaks {clause.side} {clause.name} alone"


def _untried(rule: Rule, idle: Sequence[Turn]) -> str:
    """The first part of the condition of which no inactive turn shows that it is needed."""
    parts = rule.condition.parts if isinstance(rule.condition, All) else ()
    for part in parts if len(parts) > 1 else ():
        others = [other for other in parts if other is not part]
        if not any(not part.holds(turn) and all(other.holds(turn) for other in others) for turn in idle):
            return shown(part)
    return ""


def _only(rule: Rule, name: str, side: str, reply: Reply) -> bool:
    wrong = [(clause.side, clause.name) for clause in rule.clauses if clause.broken(reply) is not None]
    return wrong == [(side, name)]


def _pairs(book: RuleBook, turns: Sequence[Turn]) -> Iterator[Warned]:
    """Rules that say the same; and rules that contradict in a turn that is known, where a soft one takes part (hard
    rules that may contradict are errors at load)."""
    for first, second in combinations(book.rules, 2):
        if all(first.source.get(key) == second.source.get(key) for key in _SAYS):
            yield second.id, f"says the same as {first.id}"
        elif "soft" in (first.severity, second.severity) and (why := _contradicts(first, second, book)):
            turn = next((t for t in turns if first.condition.holds(t) and second.condition.holds(t)), None)
            if turn is not None:
                yield second.id, f"contradicts {first.id}: {why}, and both are in force at {turn.user[:50]!r}"
    for rule in book.rules:
        alone = clash(rule.clauses, book) if rule.severity == "soft" else None
        if alone:
            yield rule.id, f"contradicts itself: {alone}"


_SAYS = ("when", "unless", "must", "must_not", "optional")


def _contradicts(first: Rule, second: Rule, book: RuleBook) -> str | None:
    if clash(first.clauses, book) or clash(second.clauses, book):
        return None
    return clash((*first.clauses, *second.clauses), book)


def _labels(book: RuleBook, turns: Sequence[Turn]) -> Iterator[Warned]:
    named = {atom.name for rule in book.rules for atom in atoms(rule.condition) if isinstance(atom, Label)}
    carried = {label for turn in turns for label in turn.labels}
    for label in sorted(named - carried):
        yield "", f"label {label!r} is set in no fixture, so that what hangs on it is never tried"


def _facts(book: RuleBook) -> Iterator[Warned]:
    named = {atom.name for rule in book.rules for atom in atoms(rule.condition) if isinstance(atom, Fact)}
    text = " ".join([book.system, str(book.safe or ""), *(str(rule.fallback) for rule in book.rules)])
    for fact in book.facts:
        if fact not in named and f"{{{fact}}}" not in text:
            yield "", f"fact {fact!r} is declared, but neither a when nor the prompt uses it"


def shown(condition: Condition) -> str:
    """A condition in the words of the file."""
    match condition:
        case Fact(name=name, values=values):
            return f"{name} = {' or '.join(sorted(map(str, values)))}"
        case UserSays(pattern=pattern, anywhere=anywhere):
            short = pattern if len(pattern) <= 40 else pattern[:37] + "..."
            return f"{'any_user_regex' if anywhere else 'user_regex'} {short!r}"
        case TurnIn(low=low, high=high):
            return f"turn {low}" if low == high else f"turn from {low}" if high > 1_000_000 else f"turn {low} to {high}"
        case Label(name=name):
            return f"label {name!r}"
        case HasSources():
            return "has_sources"
        case Prompted(rule=rule):
            return f"{rule} named in the prompt"
        case Not(part=part):
            return f"not ({shown(part)})"
        case All(parts=parts):
            return " and ".join(map(shown, parts)) or "always"
        case AnyOf(parts=parts):
            return shown(parts[0]) if len(parts) == 1 else "(" + " or ".join(map(shown, parts)) + ")"
    return str(condition)


def lacking(condition: Condition, turn: Turn) -> str:
    """Why a condition does not hold: the parts of it that fail."""
    if isinstance(condition, All):
        return " and ".join(lacking(part, turn) for part in condition.parts if not part.holds(turn))
    return shown(condition)
