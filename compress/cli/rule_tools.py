"""``compress rules``: what a rule file holds, what it never tests, and what it says of one reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import runtime.rules
from compress.cli import console
from compress.errors import DataError, UsageError
from compress.rows import check_parts, numbered_rows
from runtime.cli import as_declared
from runtime.rules import Rule, RuleBook, Turn, Verdict, load_rules
from runtime.rules.review import lacking, review

SCHEMA = Path(runtime.rules.__file__).with_name("rules.schema.json")
GROUPS = ("pass", "fail", "inactive")


def check_rules(path: Path, data: Path | None, *, as_json: bool) -> None:
    """Read the file (its own errors, contradictions and fixtures among them), then list what nothing tests."""
    book = load_rules(path)
    rows = _rows(data, book) if data else None
    warned = review(book, rows or ())
    entries = [_entry(rule, rows, warned) for rule in book.rules]
    warnings = [f"{entry['id']}: {what}" for entry in entries for what in entry["warnings"]]
    warnings += [what for rule, what in warned if not rule] + _labels(book, rows)
    if as_json:
        console.emit({"rules": entries, "warnings": warnings, "items": None if rows is None else len(rows)})
        return
    _print(entries, rows)
    for warning in warnings:
        console.note(f"warning: {warning}")
    console.note(f"{len(entries)} rule{'s' * (len(entries) != 1)}, {len(warnings)} warning{'s' * (len(warnings) != 1)}")


def _rows(path: Path, book: RuleBook) -> list[Turn]:
    """The items. Raises DataError (file and line) for one that would count as something else than it says."""
    shape = 'a row is {"messages": [{"role", "content"}…]} with facts, labels, sources and prompted where it has them'
    found = []
    for number, row in numbered_rows(path, shape):
        try:
            check_parts({"messages": None, **row})
            found.append(Turn.from_row(row))
        except ValueError as error:
            raise DataError(path, number, str(error), next=shape) from None
        wrong = book.fact_problems(found[-1].facts)
        if wrong:
            raise DataError(path, number, "; ".join(wrong), next="correct the row, or declare it in the rule file")
    if not found:
        raise DataError(path, None, "the file has no rows", next=shape)
    return found


def _entry(rule: Rule, rows: Sequence[Turn] | None, warned: Sequence[tuple[str, str]]) -> dict[str, Any]:
    fixtures = rule.source.get("fixtures") or {}
    counts = {group: len(fixtures.get(group) or ()) for group in GROUPS}
    in_force = None if rows is None else sum(rule.condition.holds(turn) for turn in rows)
    warnings = [what for name, what in warned if name == rule.id]
    if in_force == 0:
        warnings.append("in force in no item")
    if in_force is not None and rows and in_force == len(rows) and rule.source.get("when"):
        warnings.append("in force in every item although it has a when")
    about = {"id": rule.id, "severity": rule.severity, "optional": rule.optional, "text": rule.text}
    return {**about, "fixtures": counts, "in_force": in_force, "warnings": warnings}


def _labels(book: RuleBook, rows: Sequence[Turn] | None) -> list[str]:
    """Labels that no item carries, so that what hangs on them is never tested, and labels of items without a rule."""
    if rows is None:
        return []
    seen = {label for turn in rows for label in turn.labels}
    unset = [f"label {label!r} stands on no item" for label in sorted(book.labels - seen)]
    return unset + [f"label {label!r} of the items is known to no rule" for label in sorted(seen - book.labels)]


def _print(entries: Sequence[Mapping[str, Any]], rows: Sequence[Turn] | None) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE)
    for name in ("rule", "severity", "fixtures: pass, fail, inactive", "in force", "text"):
        table.add_column(name)
    for entry in entries:
        fixtures = ", ".join(str(entry["fixtures"][group]) for group in GROUPS)
        share = "" if rows is None else f"{entry['in_force']} of {len(rows)}"
        severity = entry["severity"] + (", optional" if entry["optional"] else "")
        table.add_row(entry["id"], severity, fixtures, share, Text(entry["text"]))  # brackets in it are no markup
    Console().print(table)


def read_reply(given: str) -> str:
    """The reply itself, or with ``@FILE`` what stands in the file. Raises UsageError where it cannot be read."""
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--reply {given}: {error}", next="check the path; the file is text in UTF-8") from error


def explain_reply(
    path: Path,
    user: str,
    reply: str | None,
    facts: Mapping[str, Any],
    labels: Sequence[str],
    prompted: Sequence[str],
    sources: Sequence[str] = (),
) -> dict[str, Any]:
    """Which rules are in force for a message (and why others are not), what they decide, and what each says of a reply.

    ``sources`` are ``id=text``; facts that are texts are read as the rule file declares them. Raises UsageError for
    what the rule file does not know.
    """
    book = load_rules(path)
    messages = [{"role": "user", "content": user}] if user else []
    known = as_declared(facts, book.facts)
    turn = Turn(tuple(messages), known, tuple(labels), tuple(map(_source, sources)), tuple(prompted))
    problems = book.turn_problems(turn)
    if problems:
        raise UsageError("; ".join(problems), next="see facts:, labels and rules of the rule file")
    verdicts = {v.rule: v for v in book.check(turn, reply)} if reply is not None else {}
    rules = [_explained(rule, turn, verdicts.get(rule.id)) for rule in book.rules]
    safe = book.fallback(turn) if book.contract is None or isinstance(book.safe, Mapping) else None
    return {"rules": rules, "decided": book.decided(turn), "safe_reply": safe}


def _source(given: str) -> tuple[str, str]:
    name, equals, text = given.partition("=")
    if not equals or not name.strip() or not text.strip():
        raise UsageError(f"--source {given!r} is not id=text", next='e.g. --source "K7=Returns are free for 30 days."')
    return name.strip(), text


def _explained(rule: Rule, turn: Turn, verdict: Verdict | None) -> dict[str, Any]:
    in_force = rule.condition.holds(turn)
    return {
        "id": rule.id,
        "severity": rule.severity,
        "in_force": in_force,
        "lacks": None if in_force else lacking(rule.condition, turn),
        "kept": verdict.passed if verdict else None,
        "why": verdict.why if verdict else "",
        "text": rule.text,
    }


def show_explanation(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what ``explain_reply`` found."""
    if as_json:
        console.emit(found)
        return
    for rule in found["rules"]:
        if rule["in_force"]:
            verdict = {True: "kept", False: "BROKEN", None: "in force"}[rule["kept"]]
            print(f"{verdict:9}{rule['severity']:5} {rule['id']}: {rule['why'] or rule['text']}")
    for rule in found["rules"]:
        if not rule["in_force"]:
            print(f"{'idle':9}{rule['severity']:5} {rule['id']}: wants {rule['lacks']}")
    if found["decided"]:
        print("decided by the rules: " + ", ".join(f"{name} = {value}" for name, value in found["decided"].items()))
    if found["safe_reply"] is not None:
        print(f"safe reply: {found['safe_reply']}")


def schema_text() -> str:
    """The JSON Schema of rule files."""
    return SCHEMA.read_text(encoding="utf-8")
