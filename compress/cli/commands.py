"""What each command does, between the option parser (``app.py``) and the rooms that do the work."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress import launch
from compress.artifact import Artifact, open_artifact
from compress.cli import console
from compress.cli.single import deliver, parse_data, require_free, single_graph
from compress.config import assigned, read_config
from compress.errors import UsageError
from compress.machine import Machine, read_machine
from compress.pipeline.executors import LocalExecutor
from compress.pipeline.forecast import PlannedStage, check_resources, plan, totals
from compress.pipeline.plan import Graph, build
from compress.pipeline.run import LOCK, Run, RunState, load_run
from compress.pipeline.store import Store, publish
from compress.registry import load_stage
from compress.report import words

REPORT = "report.html"
SHOWN = ("verdict", "reasons", "suites", "rules", "drift", "worst_rule", "demands", "asked")
"""What ``compress validate --json`` prints of a candidate."""


def threads() -> int:
    """Cores this process may use: its part of them, where a launcher started several."""
    return max(1, len(os.sched_getaffinity(0)) // launch.place().neighbours)


def _store(work_dir: Path) -> Store:
    return Store(work_dir / "store")


def _executor(graph: Graph) -> LocalExecutor:
    online = any(load_stage(node.use).online for node in graph.nodes.values())
    return LocalExecutor(threads=threads(), offline=not online)


def show_plan(config: Path, overrides: Sequence[str], work_dir: Path, *, as_json: bool) -> None:
    """``compress plan``."""
    planned = plan(build(read_config(config, overrides)), _store(work_dir))
    waiting = sum(stage.artifact is None for stage in planned)
    machine = read_machine(work_dir) if waiting and not any(stage.missing for stage in planned) else None
    if as_json:
        whole = vars(totals(planned, machine)) if machine else None
        console.emit({"stages": [_plan_entry(stage, machine) for stage in planned], "totals": whole})
        return
    _print_plan(planned, machine)
    check_resources(planned, work_dir)
    untold = sum(stage.needs is None for stage in planned)
    if untold:
        console.note(f"what {untold} stages need can be told once the model is on this machine")
    console.note(f"{waiting} of {len(planned)} stages would run; next: compress pipeline {config}")


def _print_plan(planned: Sequence[PlannedStage], machine: Machine | None) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    absent = any(stage.missing for stage in planned)
    table = Table("stage", "use", "state", "disk", "memory", "time", *(["missing"] if absent else []), box=SIMPLE)
    table.columns[0].no_wrap = True
    table.columns[1].overflow, table.columns[1].no_wrap = "fold", False
    for stage in planned:
        lacking = [", ".join(stage.missing)] if absent else []
        table.add_row(stage.node.id, stage.node.use, stage.state, *_figures(stage, machine), *lacking)
    if machine is not None:
        whole = totals(planned, machine)
        table.add_section()
        figures = (words.size(whole.disk_bytes), words.size(whole.ram_bytes), words.seconds(whole.seconds))
        table.add_row("all", "", "", *figures)
    Console().print(table)


def _figures(stage: PlannedStage, machine: Machine | None) -> tuple[str, str, str]:
    """Disk, memory and time; nothing for what is cached."""
    if stage.artifact is not None:
        return "", "", ""
    if stage.needs is None:
        return "?", "?", "?"
    seconds = stage.seconds(machine) if machine else None
    time = "" if seconds is None else words.seconds(seconds)
    return words.size(stage.needs.disk_bytes), words.size(stage.needs.ram_bytes), time


def _plan_entry(stage: PlannedStage, machine: Machine | None) -> dict[str, Any]:
    needs = None
    if stage.needs is not None and stage.artifact is None:
        seconds = stage.seconds(machine) if machine else None
        needs = {"disk_bytes": stage.needs.disk_bytes, "ram_bytes": stage.needs.ram_bytes, "seconds": seconds}
    return {
        "id": stage.node.id,
        "use": stage.node.use,
        "state": stage.state,
        "needs": needs,
        "missing": list(stage.missing),
    }


def run_pipeline(config: Path, overrides: Sequence[str], work_dir: Path, *, on: str, as_json: bool) -> RunState:
    """``compress pipeline``."""
    if on != "local":
        raise UsageError(f"--on {on}: stages run with 'local' only in this version", next="leave --on out")
    loaded = read_config(config, overrides)
    graph, store = build(loaded), _store(work_dir)
    check_resources(plan(graph, store), work_dir)
    folder = work_dir / "runs" / loaded.spec.name
    state = RunState(run=str(folder), name=loaded.spec.name, config=str(config))
    _execute(graph, store, folder, state)
    if not launch.place().leads:
        return state
    if any(not stage.cached for stage in state.stages.values()) or not (folder / REPORT).is_file():
        _take_out(state, folder)
    else:
        state.report = str(folder / REPORT)
        state.bundle = str(folder / "bundle") if (folder / "bundle").is_dir() else None
    Run.save(state, folder)
    _show_result(state, as_json=as_json)
    return state


def _execute(graph: Graph, store: Store, folder: Path, state: RunState) -> RunState:
    watcher = console.observer()
    try:
        return Run(graph, store, folder, state, _executor(graph), watcher, threads=threads()).execute()
    finally:
        watcher.close()


def _take_out(state: RunState, folder: Path) -> None:
    """Put the bundle and the report where people look for them."""
    from compress.report.html import write_run_report

    bundles = [stage for stage in state.stages.values() if stage.kind == "bundle"]
    state.bundle = str(publish(open_artifact(bundles[-1].path), folder / "bundle")) if bundles else None
    state.report = str(folder / REPORT)
    write_run_report(state.to_json(), folder / REPORT)


def _show_result(state: RunState, *, as_json: bool) -> None:
    from compress.report.tables import print_run

    if as_json:
        console.emit(state.to_json())
        return
    print_run(state.to_json())
    print(_next_step(state))


def _next_step(state: RunState) -> str:
    if state.verdict in ("FAIL", "INCONCLUSIVE"):
        return f"Gate {state.verdict}: nothing was packaged. Next: open {state.report} and see which rules broke."
    if state.bundle:
        return f"Next: compress chat '{state.bundle}'   (the report: {state.report})"
    return f"Next: open {state.report}"


def run_stage(
    use: str,
    sources: Sequence[Path],
    values: Sequence[str],
    out: Path,
    data: Sequence[str],
    rules: Path | None,
    seed: int,
    work_dir: Path,
) -> Artifact:
    """``compress run`` and ``compress package``."""
    leads = launch.place().leads
    if leads:
        require_free(out)
    parameters = assigned(values)
    graph, node = single_graph(use, sources, parameters, data=parse_data(data), rules=rules, seed=seed)
    made = _run_single(graph, node, work_dir)
    return deliver(made, out) if leads else made


def _run_single(graph: Graph, node: str, work_dir: Path) -> Artifact:
    store = _store(work_dir)
    check_resources(plan(graph, store), work_dir)
    folder = work_dir / "runs" / f"single-{node}"
    state = _execute(graph, store, folder, RunState(run=str(folder), name=node, config=""))
    return open_artifact(state.stages[node].path, verify=False)


def find_run(run: Path, work_dir: Path) -> Path:
    """A run's folder from its path or its name."""
    for folder in (run, work_dir / "runs" / run):
        if (folder / LOCK).is_file():
            return folder
    known = sorted(p.parent.name for p in (work_dir / "runs").glob(f"*/{LOCK}"))
    raise UsageError(f"there is no run {str(run)!r}", next=f"known runs: {', '.join(known) or 'none yet'}")


def show_status(run: Path, work_dir: Path, *, as_json: bool) -> None:
    """``compress status``."""
    from compress.report.tables import print_status

    state = load_run(find_run(run, work_dir)).to_json()
    console.emit(state) if as_json else print_status(state)


def write_report(run: Path, work_dir: Path) -> Path:
    """``compress report``."""
    from compress.report.html import write_run_report

    folder = find_run(run, work_dir)
    write_run_report(load_run(folder).to_json(), folder / REPORT)
    return folder / REPORT


def write_verdict(run: Path, work_dir: Path, to: Sequence[Path]) -> Sequence[Path]:
    """``compress report --to``: the verdict of the run's only proof, or of a proof folder."""
    from compress.report.html import read_proof
    from compress.report.verdict import of_proof

    check_formats(to)
    files = read_proof(_find_proof(run, work_dir))
    write_documents(of_proof(files.proof, files.cases), to)
    return to


def _find_proof(run: Path, work_dir: Path) -> Path:
    if (run / "proof.json").is_file():
        return run
    state = load_run(find_run(run, work_dir))
    found = [Path(stage.path) for stage in state.stages.values() if stage.kind == "proof"]
    if len(found) != 1:
        folders = f"give one of their folders: {', '.join(map(str, found))}" if found else "run its validate stage"
        raise UsageError(f"run {state.name} has {len(found) or 'no'} proofs", next=folders)
    return found[0]


def check_formats(to: Sequence[Path], read: Sequence[Path] = ()) -> None:
    """Raise UsageError for a file whose suffix names no format of a verdict, that is one of those ``read``, or whose
    place cannot be written: a verdict takes long, and would be lost."""
    from compress.report.verdict_files import FORMATS

    for path in to:
        if path.suffix.lower() not in FORMATS:
            raise UsageError(
                f"--to {path}: no format has the suffix {path.suffix!r}", next=f"use one of {', '.join(FORMATS)}"
            )
        if path.resolve() in [each.resolve() for each in read]:
            raise UsageError(f"--to {path}: would overwrite what is judged", next="give another name")
        home = next(place for place in path.absolute().parents if place.exists())
        if path.is_dir() or not home.is_dir() or not os.access(home, os.W_OK):
            raise UsageError(f"--to {path}: cannot be written there", next="name a file in a folder of yours")


def write_documents(document: dict[str, Any], to: Sequence[Path]) -> None:
    """Write a verdict to every file."""
    from compress.report.verdict_files import write

    for path in to:
        write(document, path)


def compare_runs(runs: Sequence[Path], work_dir: Path, *, as_json: bool) -> None:
    """``compress compare``."""
    from compress.report.tables import compare_rows, print_comparison

    rows = compare_rows([load_run(find_run(run, work_dir)).to_json() for run in runs])
    console.emit({"candidates": rows}) if as_json else print_comparison(rows)


def validate_artifact(
    artifact: Path,
    baseline: Path,
    rules: Path,
    data: Sequence[str],
    values: Sequence[str],
    work_dir: Path,
    *,
    to: Sequence[Path],
    as_json: bool,
) -> str:
    """``compress validate``: the verdict."""
    from compress.report.tables import print_proof

    check_formats(to)
    parameters = assigned(values) | {"baseline": str(baseline)}
    graph, node = single_graph("validate", [artifact], parameters, data=parse_data(data), rules=rules)
    made = _run_single(graph, node, work_dir)
    proof = json.loads((made.path / "proof.json").read_text())
    (candidate,) = proof["candidates"]
    if as_json:
        shown = {key: candidate[key] for key in SHOWN}
        idle = proof["hard_rules_not_in_force"]
        console.emit(shown | {"hard_rules_not_in_force": idle, "proof": str(made.path)})
    else:
        print_proof(proof, made.measurements())
    if to:
        write_verdict(made.path, work_dir, to)
    verdict: str = proof["verdict"]
    return verdict


def bench_artifact(artifact: Path, *, as_json: bool) -> None:
    """``compress bench``."""
    from compress.validate.bench import bench

    result = bench(artifact)
    if as_json:
        console.emit(result)
        return
    for name, text in words.readings(result).items():
        print(f"{name:30}{text}")
