"""Tables for the terminal. Each is built by a function of plain data, then printed on stdout by a ``print_`` one.

On a narrow terminal the least telling columns are left out rather than wrapped into confetti; the page and
``--json`` always have all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.report import words
from compress.report.html import ProofFiles, read_proofs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

Json = Mapping[str, Any]
COLOUR = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow", "BASELINE": "blue"}


@dataclass(frozen=True)
class Column:
    """One column: its header, how a row's cell reads, its rank (1 stays longest) and its usual width."""

    header: str
    cell: Callable[[Json], str | Text]
    rank: int
    width: int


CANDIDATE_COLUMNS = (
    Column("artifact", lambda r: r["name"], 1, 15),
    Column("verdict", lambda r: _paint(r["verdict"]), 1, 12),
    Column("size", lambda r: words.size(r["size_bytes"]), 2, 8),
    Column("smaller", lambda r: f"{r['ratio']}×" if r["ratio"] else words.BLANK, 5, 7),
    Column("TTFT", lambda r: words.milliseconds(r["ttft_ms"]), 4, 8),
    Column("tok/s", lambda r: words.figure(r["tokens_per_s"], 4), 4, 6),
    Column("memory", lambda r: words.size(r["peak_rss_bytes"]), 5, 8),
    Column("accuracy", lambda r: words.percent(r["accuracy"]), 2, 8),
    Column("rules", lambda r: words.percent(r["adherence"]), 3, 8),
    Column("enforced", lambda r: words.percent(r["adherence_enforced"]), 6, 8),
    Column("KL", lambda r: words.figure(r["kl_mean"]), 6, 8),
    Column("top-1", lambda r: words.percent(r["top1"]), 7, 7),
)


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that fit into ``width`` characters, dropping the highest ranks first."""
    kept = list(columns)
    while len(kept) > 1 and sum(c.width + 3 for c in kept) + 1 > width:
        worst = max(c.rank for c in kept)
        if worst == 1:
            break
        kept = [c for c in kept if c.rank != worst]
    return kept


def proof_table(proof: Json, measured: Json, width: int = 120) -> Table:
    """The baseline and every candidate."""
    title = f"Against {proof['baseline']['name']}, n = {proof['n_items']}"
    return _table(CANDIDATE_COLUMNS, words.rows_of(proof, measured), width, title)


def _table(columns: Sequence[Column], rows: Sequence[Json], width: int, title: str | None = None) -> Table:
    """Cells and title are text as it stands: a name with brackets is no markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = fitting(columns, width)
    table = Table(title=Text(title) if title else None, box=box.SIMPLE_HEAD, title_justify="left")
    for column in shown:
        table.add_column(column.header, justify="left" if column.rank == 1 else "right", overflow="fold")
    for row in rows:
        cells = (column.cell(row) for column in shown)
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
    return table


def _paint(verdict: str) -> Text:
    from rich.text import Text

    return Text(verdict if verdict in COLOUR else verdict.lower(), COLOUR.get(verdict, ""))


def rules_table(rules: Sequence[Json], width: int = 120) -> Table:
    """Rules with their shares, flips and verdicts; 80 columns hold the count and the flips. What the guard sent is told
    apart at any width."""
    return _table(
        (
            Column("rule", lambda r: r["id"] + ", sent" * (r.get("mode") == "enforced"), 1, 17),
            Column("verdict", lambda r: _paint(r["verdict"]), 1, 12),
            Column("severity", lambda r: r["severity"], 4, 8),
            Column("mode", lambda r: r.get("mode", ""), 5, 8),
            Column("n", lambda r: str(r["n"]), 2, 6),
            Column("kept", _change, 2, 17),
            Column("flips + / −", _flips, 2, 11),
            Column("difference", _difference, 4, 20),
        ),
        rules,
        width,
    )


def suites_table(suites: Sequence[Json], width: int = 120) -> Table:
    """Suites with difference, interval and margin in points; 80 columns hold the count and the flips."""
    return _table(
        (
            Column("suite", lambda s: s["name"], 1, 17),
            Column("verdict", lambda s: _paint(s["verdict"]), 1, 12),
            Column("n", lambda s: str(s["n"]), 2, 6),
            Column("passed", _change, 2, 17),
            Column("flips + / −", _flips, 2, 11),
            Column("difference", _difference, 4, 20),
            Column("margin", lambda s: words.margin(s["margin"]), 5, 6),
        ),
        suites,
        width,
    )


def _change(row: Json) -> str:
    """Shares of the baseline and of the candidate; one where only one is known."""
    shares = [words.percent(row[side]) for side in ("baseline", "candidate") if row[side] is not None]
    return " → ".join(shares) or words.BLANK


def _flips(row: Json) -> str:
    return "{} / {}".format(*row["flips"]) if row.get("flips") else words.BLANK


def _difference(row: Json) -> str:
    """The difference in points with its interval, where there is one."""
    estimate, low, high = row.get("difference"), row.get("low"), row.get("high")
    if isinstance(estimate, Sequence):
        estimate, low, high = estimate
    return words.BLANK if estimate is None else f"{words.points(estimate)} [{words.points(low)}, {words.points(high)}]"


def status_table(state: Json, width: int = 120) -> Table:
    """The stages of a run."""
    rows = [{"id": name, **stage} for name, stage in state["stages"].items()]
    rows += [{"id": name, "use": why, "skipped": True} for name, why in (state.get("skipped") or {}).items()]
    columns = (
        Column("stage", lambda r: r["id"], 1, 14),
        Column("use", lambda r: r["use"], 1, 16),
        Column("state", lambda r: "not run" if r.get("skipped") else "cached" if r["cached"] else "made", 2, 7),
        Column("time", lambda r: words.seconds(r.get("seconds")), 3, 11),
        Column("peak memory", lambda r: words.size(r.get("peak_rss_bytes")), 4, 11),
        Column("size", lambda r: words.size(r.get("size_bytes")), 4, 8),
        Column("digest", lambda r: r.get("digest", "")[:12], 5, 12),
    )
    return _table(columns, rows, width)


def compare_rows(states: Sequence[Json]) -> list[dict[str, Any]]:
    """Every candidate of every run (the objects of ``run.lock.json``) in one list, with its run's name."""
    return [
        {"run": state["name"], "chosen": row["name"] == files.proof["chosen"], **row}
        for state in states
        for files in read_proofs(state)
        for row in words.rows_of(files.proof, files.measured)
    ]


def comparison_table(rows: Sequence[Json], width: int = 120) -> Table:
    """``compare_rows`` as a table."""
    return _table((Column("run", lambda r: r["run"], 1, 14), *CANDIDATE_COLUMNS), rows, width)


def print_comparison(rows: Sequence[Json]) -> None:
    """``compress compare``."""
    console = _console()
    console.print(comparison_table(rows, console.width) if rows else "These runs hold no proof to compare.")


def print_status(state: Json) -> None:
    """``compress status``."""
    console = _console()
    console.print(status_table(state, console.width))
    if state.get("verdict"):
        console.print("gate:", _paint(state["verdict"]))


def print_run(state: Json) -> None:
    """The end of ``compress pipeline``: what was made, how it compares, the verdict."""
    console = _console()
    console.print(status_table(state, console.width))
    for files in read_proofs(state):
        _print_proof(console, files)


def print_proof(proof: Json, measured: Json) -> None:
    """``compress validate``."""
    console = _console()
    _print_proof(console, ProofFiles(proof, measured))
    for candidate in proof["candidates"]:
        _print_checks(console, candidate)


def _print_proof(console: Console, files: ProofFiles) -> None:
    console.print(proof_table(files.proof, files.measured, console.width))
    console.print(_paint(files.proof["verdict"]))
    for line in (*words.verdict_sentences(files.proof), *words.wording_sentences(files.proof)):
        console.print(line, markup=False)


def print_gate(result: Json) -> None:
    """``compress gate``: suites, rules and the verdict of two recorded files."""
    console = _console()
    _print_checks(console, result)
    console.print("gate:", _paint(result["verdict"]))
    for line in (*result.get("reasons", ()), words.idle_sentence(result)):
        if line:
            console.print(f"  {line}", markup=False)


def print_gate_plan(plan: Json) -> None:
    """``compress gate --plan``."""
    console, assumed = _console(), plan["assumed"]
    for line in words.plan_sentences(plan):
        console.print(line, markup=False)
    clustered = assumed["cluster_size"] > 1
    columns = [
        Column("test", lambda d: d["what"] + (f" ×{d['tests']}" if d["tests"] > 1 else ""), 1, 33),
        Column("asked by", lambda d: d["where"], 2, 13),
        Column("allowed", lambda d: f"{100 * d['margin']:g} {'%' if d['rate'] else 'points'}", 3, 8),
        Column("at least", lambda d: str(d["floor"]), 4, 8),
        Column(
            "needed", lambda d: words.BLANK if d["needed"] is None else f"{d['needed']} {d['unit'].split()[0]}", 1, 12
        ),
    ]
    if clustered:
        columns.append(Column("clusters", lambda d: str(d["clusters"] or words.BLANK), 2, 8))
    console.print(_table(columns, plan["demands"], console.width))
    for demand in plan["demands"]:
        if demand["note"]:
            console.print(f"{demand['what']}: {demand['note']}", markup=False)


def _print_checks(console: Console, result: Json) -> None:
    """Suites, rules, and three items of everything that did not pass."""
    if result["suites"]:
        console.print(suites_table(result["suites"], console.width))
    console.print(rules_table(result["rules"], console.width))
    for line in (*words.named_items(result), *words.protection(result)):
        console.print(f"  {line}", markup=False)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)
