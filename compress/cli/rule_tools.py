"""``compress rules``: what a rule file holds, what it never tests, and what it says of one reply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.cli import console
from compress.errors import UsageError
from compress.rows import numbered_rows
from runtime.rules import Rule, RuleBook, Turn, load_rules

GROUPS = ("pass", "fail", "inactive")


def check_rules(path: Path, data: Path | None, *, as_json: bool) -> None:
    """Read the file (its own errors, contradictions and fixtures among them), then list what nothing tests."""
    book = load_rules(path)
    rows = _rows(data) if data else None
    entries = [_entry(rule, rows, book) for rule in book.rules]
    warnings = [f"{entry['id']}: {what}" for entry in entries for what in entry["warnings"]]
    warnings += _labels(book, rows)
    if as_json:
        console.emit({"rules": entries, "warnings": warnings, "items": None if rows is None else len(rows)})
        return
    _print(entries, rows)
    for warning in warnings:
        console.note(f"warning: {warning}")
    console.note(f"{len(entries)} rules, {len(warnings)} warnings")


def _rows(path: Path) -> list[Turn]:
    shape = 'a row is {"messages": [{"role", "content"}…]} with facts, labels, sources and prompted where it has them'
    return [Turn.from_row(row) for _, row in numbered_rows(path, shape)]


def _entry(rule: Rule, rows: Sequence[Turn] | None, book: RuleBook) -> dict[str, Any]:
    fixtures = rule.source.get("fixtures") or {}
    counts = {group: len(fixtures.get(group) or ()) for group in GROUPS}
    in_force = None if rows is None else sum(rule.condition.holds(turn) for turn in rows)
    warnings = []
    if (rule.source.get("when") or rule.source.get("unless")) and not counts["inactive"]:
        warnings.append("no inactive fixture: nothing shows where it must not be in force")
    if in_force == 0:
        warnings.append("in force in no item")
    if in_force is not None and rows and in_force == len(rows) and rule.source.get("when"):
        warnings.append("in force in every item although it has a when")
    if not rule.text:
        warnings.append("no text: it can neither be prompted nor told")
    about = {"id": rule.id, "severity": rule.severity, "optional": rule.optional, "text": rule.text}
    return {**about, "fixtures": counts, "in_force": in_force, "warnings": warnings}


def _labels(book: RuleBook, rows: Sequence[Turn] | None) -> list[str]:
    """Labels that no item carries, so that what hangs on them is never tested."""
    if rows is None:
        return []
    seen = {label for turn in rows for label in turn.labels}
    return [f"label {label!r} stands on no item" for label in sorted(book.labels - seen)]


def _print(entries: Sequence[Mapping[str, Any]], rows: Sequence[Turn] | None) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE)
    for name in ("rule", "severity", "fixtures: pass, fail, inactive", "in force", "text"):
        table.add_column(name)
    for entry in entries:
        fixtures = ", ".join(str(entry["fixtures"][group]) for group in GROUPS)
        share = "" if rows is None else f"{entry['in_force']} of {len(rows)}"
        severity = entry["severity"] + (", optional" if entry["optional"] else "")
        table.add_row(entry["id"], severity, fixtures, share, entry["text"])
    Console().print(table)


def explain_reply(
    path: Path, user: str, reply: str | None, facts: Mapping[str, Any], labels: Sequence[str], prompted: Sequence[str]
) -> dict[str, Any]:
    """Which rules are in force for a message, what they decide, and what each says of a reply."""
    book = load_rules(path)
    messages = [{"role": "user", "content": user}]
    turn = Turn(tuple(messages), dict(facts), tuple(labels), (), tuple(prompted))
    problems = book.turn_problems(turn)
    if problems:
        raise UsageError("; ".join(problems), next="see facts:, labels and rules of the rule file")
    verdicts = {v.rule: v for v in book.check(turn, reply)} if reply is not None else {}
    rules = [
        {
            "id": rule.id,
            "severity": rule.severity,
            "in_force": rule.condition.holds(turn),
            "kept": verdicts[rule.id].passed if rule.id in verdicts else None,
            "why": verdicts[rule.id].why if rule.id in verdicts else "",
            "text": rule.text,
        }
        for rule in book.rules
    ]
    safe = book.fallback(turn) if book.contract is None or isinstance(book.safe, Mapping) else None
    return {"rules": rules, "decided": book.decided(turn), "safe_reply": safe}


def show_explanation(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what ``explain_reply`` found."""
    if as_json:
        console.emit(found)
        return
    for rule in found["rules"]:
        if rule["in_force"]:
            verdict = {True: "kept", False: "BROKEN", None: "in force"}[rule["kept"]]
            print(f"{verdict:9}{rule['severity']:5} {rule['id']}: {rule['why'] or rule['text']}")
    counts = Counter(rule["in_force"] for rule in found["rules"])
    print(f"{counts[False]} other rules are not in force")
    if found["decided"]:
        print("decided by the rules: " + ", ".join(f"{name} = {value}" for name, value in found["decided"].items()))
    if found["safe_reply"] is not None:
        print(f"safe reply: {found['safe_reply']}")
