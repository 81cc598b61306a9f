"""``compress gate``: recorded replies, and how many it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from compress.cli import console
from compress.cli.commands import check_formats, write_documents
from compress.config import parse_assignment
from compress.errors import UsageError

JUDGING = ("baseline", "candidate", "to")
PLANNING = ("data", "hard", "soft", "margin", "discordance", "difference", "violations", "power", "cluster_size", "icc")


def check_gate_options(given: Sequence[str], *, plan: bool) -> None:
    """Raise UsageError for an option of ``compress gate`` that was given and would be ignored."""
    idle = ", ".join(f"--{name.replace('_', '-')}" for name in (JUDGING if plan else PLANNING) if name in given)
    if idle and plan:
        raise UsageError(f"{idle}: not read with --plan, which judges nothing", next="leave it out")
    if idle:
        hint = "add --plan, or leave it out; a rule's margin stands in the rule file (margin:)"
        raise UsageError(f"{idle}: read with --plan only", next=hint)
    if plan and "rules" in given and {"hard", "soft"} & set(given):
        raise UsageError("--hard and --soft count rules without a rule file", next="leave them or --rules out")


def gate_replies(
    baseline: Path | None, candidate: Path | None, rules: Path | None, *, to: Sequence[Path], as_json: bool
) -> str:
    """``compress gate``: the verdict."""
    if baseline is None or candidate is None or rules is None:
        given = {"--baseline": baseline, "--candidate": candidate, "--rules": rules}
        lacking = ", ".join(name for name, value in given.items() if value is None)
        raise UsageError(f"{lacking}: missing", next="name both files and the rules, or give --plan to judge nothing")
    from compress.report.tables import print_gate
    from compress.report.verdict import of_gate
    from compress.validate.recorded import judge_files
    from runtime.rules import load_rules

    check_formats(to, (baseline, candidate, rules))
    judged = judge_files(baseline, candidate, load_rules(rules))
    result = judged.to_json()
    if baseline.samefile(candidate):
        console.note("note: --baseline and --candidate are one file, which is so compared with itself")
    console.emit(result) if as_json else print_gate(result)
    if to:
        same = baseline.name == candidate.name
        names = (str(baseline), str(candidate)) if same else (baseline.name, candidate.name)
        write_documents(of_gate(result, judged.cases_json(), *names), to)
    return judged.verdict


def plan_replies(
    rules: Path | None,
    data: Path | None,
    hard: int,
    soft: int,
    margins: Sequence[str],
    assumed: Mapping[str, float],
    *,
    as_json: bool,
) -> None:
    """``compress gate --plan``."""
    from compress.report.tables import print_gate_plan
    from compress.validate.gate import MARGINS
    from compress.validate.items import load_items
    from compress.validate.planning import Assumed, plan_gate
    from runtime.rules import load_rules

    wide = {name: MARGINS[name] for name in ("accuracy", "adherence", "rule")} | _margins(margins)
    shares: dict[str, float] = {}
    if rules is None:
        if data is not None or not hard + soft:
            raise UsageError("--plan needs to know the rules", next="give --rules FILE, or --hard N and --soft N")
        known = [(f"{kind}-{n + 1}", kind, wide["rule"]) for kind, n in _counted(hard, soft)]
    else:
        book = load_rules(rules)
        known = [(r.id, r.severity, wide["rule"] if r.margin is None else r.margin) for r in book.rules]
        if data is not None:
            active = [{rule.id for rule in book.active(item.turn)} for item in load_items(data, book)]
            shares = {rule.id: sum(rule.id in here for here in active) / len(active) for rule in book.rules}
    found = plan_gate(known, wide, Assumed(**assumed), shares)
    console.emit(found) if as_json else print_gate_plan(found)


def _counted(hard: int, soft: int) -> list[tuple[str, int]]:
    return [(kind, n) for kind, count in (("hard", hard), ("soft", soft)) for n in range(count)]


def _margins(given: Sequence[str]) -> dict[str, float]:
    """``accuracy=0.01`` by name."""
    found = {}
    for text in given:
        name, value = parse_assignment(text)
        if name not in ("accuracy", "adherence", "rule") or not isinstance(value, float) or not 0 < value < 1:
            raise UsageError(f"--margin {text}", next="give accuracy=, adherence= or rule= and a share such as 0.02")
        found[name] = value
    return found
