"""Rules into training data: more positives, and negatives that each break exactly one rule.

Everything here works from the rule file alone, on rows of the training split:

- positives: rows whose answer keeps every rule in force (others are left out and counted); the rules
  named in the system prompt in random order; counterfactual toggles, in which the same user turn has an
  optional rule switched on or off and the answer changes by the sentence that the rule is about;
- negatives: one edit of a good answer after which one rule is broken and all others are kept
  (for preference training).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.rules import Rule, RuleBook, Turn

Row = dict[str, Any]
DROPPED = 0.3
"""Share of the named rules that are left out of a varied system prompt (only ones in force anyway)."""
_SENTENCE = re.compile(r"\S.*?(?:[.!?](?=\s|$)|$)", re.S)


@dataclass
class Report:
    """What became of the rows."""

    rejected: int = 0
    """Rows whose answer breaks a rule."""
    toggled: int = 0
    """Counterfactuals that were added."""
    breaks: Counter[str] = field(default_factory=Counter)
    """Rule -> rows that break it."""

    def reasons(self) -> str:
        """The rules that took rows out, the worst first."""
        return ", ".join(f"{rule} is broken by {count}" for rule, count in self.breaks.most_common(5))


def positives(book: RuleBook, rows: Iterable[Row], rng: random.Random, *, vary: bool) -> tuple[list[Row], Report]:
    """The rows that keep the rules, and with ``vary`` their counterfactuals."""
    kept: list[Row] = []
    report = Report()
    for row in rows:
        failed = broken(book, row)
        if failed:
            report.rejected += 1
            report.breaks.update(failed)
            continue
        kept.append(reprompt(book, row, named(book, row, rng)) if vary else row)
        twin = counterfactual(book, row, rng) if vary else None
        if twin is not None:
            report.toggled += 1
            kept.append(reprompt(book, twin, named(book, twin, rng)))
    return kept, report


def broken(book: RuleBook, row: Row) -> list[str]:
    """Ids of the rules that the row's answer breaks."""
    return [v.rule for v in book.check(Turn.from_row(row), row["messages"][-1]["content"]) if not v.passed]


def named(book: RuleBook, row: Row, rng: random.Random) -> list[str]:
    """The rules to name in the system prompt: the optional ones of the row always (they are in force only
    when named), required ones with a chance of 1 - DROPPED, in random order."""
    names = [name for name in row.get("prompted") or () if book.by_id[name].optional or rng.random() >= DROPPED]
    return rng.sample(names, len(names))


def reprompt(book: RuleBook, row: Row, prompted: list[str]) -> Row:
    """The row with another list of named rules. A system prompt that the rule file did not write is left alone."""
    messages = row["messages"]
    known, before = row.get("facts") or {}, row.get("prompted") or ()
    if messages[0]["role"] != "system" or messages[0]["content"] != book.system_prompt(known, before):
        return row
    system = {"role": "system", "content": book.system_prompt(known, prompted)}
    return {**row, "messages": [system, *messages[1:]], "prompted": prompted}


def counterfactual(book: RuleBook, row: Row, rng: random.Random) -> Row | None:
    """The row with one optional rule switched and the answer changed to match, or None if no edit will do."""
    for rule in rng.sample(book.optional, len(book.optional)):
        prompted = list(row.get("prompted") or ())
        on = rule.id not in prompted
        switched = [*prompted, rule.id] if on else [name for name in prompted if name != rule.id]
        twin = reprompt(book, row, switched)
        if twin is row:
            return None
        edits = _with_sentence(book, rule, row) if on else _without_sentence(book, rule, row)
        for answer in edits:
            candidate = {**twin, "messages": [*twin["messages"][:-1], {"role": "assistant", "content": answer}]}
            if not broken(book, candidate):
                return candidate
    return None


def _with_sentence(book: RuleBook, rule: Rule, row: Row) -> Iterator[str]:
    """The answer with one more sentence, taken from the rule's own passing fixtures."""
    fields, text = _parts(book, row)
    if not _keeps(book, rule, row, text, fields):
        for sentence in fixture_sentences(rule, "pass"):
            longer = f"{text} {sentence}"
            if _keeps(book, rule, row, longer, fields):
                yield _dump(book, fields, longer)


def _without_sentence(book: RuleBook, rule: Rule, row: Row) -> Iterator[str]:
    """The answer less the one sentence without which the rule would be broken."""
    fields, text = _parts(book, row)
    parts = sentences(text)
    for drop in range(len(parts)):
        shorter = " ".join(parts[:drop] + parts[drop + 1 :])
        if shorter and not _keeps(book, rule, row, shorter, fields):
            yield _dump(book, fields, shorter)


def _keeps(book: RuleBook, rule: Rule, row: Row, text: str, fields: Mapping[str, Any] | None) -> bool:
    """Whether an answer would keep ``rule`` if it were in force."""
    turn = Turn.from_row({**row, "prompted": [*(row.get("prompted") or ()), rule.id]})
    return all(v.passed for v in book.check(turn, _dump(book, fields, text)) if v.rule == rule.id)


def _parts(book: RuleBook, row: Row) -> tuple[Mapping[str, Any] | None, str]:
    parsed = book.parse(row["messages"][-1]["content"])
    return parsed.fields, parsed.text


def _dump(book: RuleBook, fields: Mapping[str, Any] | None, text: str) -> str:
    return text if book.contract is None or fields is None else book.contract.dump({**fields, "reply": text})


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with its full stop."""
    return [match[0] for match in _SENTENCE.finditer(text)]


def fixture_sentences(rule: Rule, side: str) -> list[str]:
    """Sentences of the rule's fixtures (``pass`` or ``fail``), shortest first."""
    found: set[str] = set()
    for fixture in (rule.source.get("fixtures") or {}).get(side) or ():
        reply = fixture.get("reply", "")
        found.update(sentences(str(reply.get("reply", "")) if isinstance(reply, Mapping) else str(reply)))
    return sorted(found, key=lambda sentence: (len(sentence), sentence))


def negatives(book: RuleBook, row: Row) -> dict[str, str]:
    """Rule id -> a mutation of the row's answer that breaks that rule and no other."""
    turn = Turn.from_row(row)
    found: dict[str, str] = {}
    for answer in mutations(book, row):
        failed = [v.rule for v in book.check(turn, answer) if not v.passed]
        if len(failed) == 1:
            found.setdefault(failed[0], answer)
    return found


def mutations(book: RuleBook, row: Row) -> Iterator[str]:
    """Answers one edit away: another value of a field, a sentence more, fewer, doubled or shouted."""
    fields, text = _parts(book, row)
    if fields is not None and book.contract is not None:
        for field in book.contract.fields:
            values: list[Any] = [[]] if field.kind == "list" else list(field.allowed)
            yield from (
                _dump(book, {**fields, field.name: value}, text) for value in values if value != fields[field.name]
            )
    parts = sentences(text)
    yield from (_dump(book, fields, " ".join(parts[:i] + parts[i + 1 :])) for i in range(len(parts)) if len(parts) > 1)
    for rule in book.active(Turn.from_row(row)):
        yield from (_dump(book, fields, f"{text} {extra}") for extra in fixture_sentences(rule, "fail"))
    yield _dump(book, fields, " ".join([text] * 8))
    yield _dump(book, fields, text.upper())
