"""One self-contained HTML page per run: no script, no request, safe to mail and to print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError
from compress.extras import installed
from compress.json_files import write_text
from compress.report import plots, words
from compress.report.verdict import of_proof

Json = Mapping[str, Any]
LIBRARIES = ("holdfast-toolkit", "torch", "transformers", "llama-cpp-python", "onnxruntime-genai", "numpy", "scipy")
"""What shapes a run's bytes and figures."""


@dataclass(frozen=True)
class ProofFiles:
    """What a ``proof`` artifact holds, read back."""

    proof: Json
    measured: Json = field(default_factory=dict)
    pages: Sequence[Json] = ()
    cases: Json = field(default_factory=dict)
    """``{candidate: {"model" or "enforced": {check: [case…]}}}``"""


def write_run_report(state: Json, path: Path) -> Path:
    """Write the page of a run (the object of ``run.lock.json``) to ``path`` atomically."""
    write_text(path, render_report(state, read_proofs(state)))
    return path


def read_proofs(state: Json) -> list[ProofFiles]:
    """The proofs among a run's artifacts, in the order of its stages."""
    return [read_proof(Path(s["path"])) for s in state["stages"].values() if s["kind"] == "proof"]


def read_proof(folder: Path) -> ProofFiles:
    """A proof folder's JSON files; readings of the machine, sample replies and cases may be absent.

    Raises ArtifactError for a file that is cut short or no proof.
    """
    pages, cases = _read(folder / "before_after.json") or {"items": []}, _read(folder / "cases.json") or {}
    proof, measured = _read(folder / "proof.json") or {}, _read(folder / "measurements.json") or {}
    lacking = [key for key in ("baseline", "candidates", "n_items", "verdict") if key not in proof]
    if lacking:
        raise ArtifactError(f"{folder / 'proof.json'} is no proof: {', '.join(lacking)} missing", next=AGAIN)
    return ProofFiles(proof, measured, pages["items"], cases.get("candidates", {}))


AGAIN = "run the stage again that made it"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON ({error})", next=AGAIN) from None


def render_report(state: Json, proofs: Sequence[ProofFiles]) -> str:
    """The page as text. Every value is escaped: replies and rule names are untrusted."""
    from compress.report.verdict_page import environment

    return words.clean(
        environment()
        .get_template("report.html")
        .render(
            state={"name": "", "config": "", "verdict": None, "bundle": None, "skipped": {}, **state},
            proofs=[_view(proof) for proof in proofs],
            trainings=[found for name, stage in state["stages"].items() if (found := _training(name, stage))],
            stages=[_stage(name, stage, state["stages"]) for name, stage in state["stages"].items()],
            versions=installed(LIBRARIES),
        )
    )


def _view(files: ProofFiles) -> dict[str, Any]:
    proof = {"a_a": None, "base": None, "chosen": None, **files.proof}
    proof["candidates"] = [
        {"side_effects": None, "enforced": None, "parity": None, **candidate} for candidate in proof["candidates"]
    ]
    rows = words.rows_of(proof, files.measured)
    focus = _focus(proof)
    return {
        "proof": proof,
        "document": of_proof({"n_items": None, **proof}, files.cases),
        "rows": rows,
        "focus": focus,
        "sentences": words.verdict_sentences(proof),
        "threads": (files.measured.get("machine") or {}).get("threads"),
        "plots": _plots(proof, rows, focus),
        "pages": [{"facts": {}, "rules": [], **page} for page in files.pages],
    }


def _focus(proof: Json) -> str | None:
    """The candidate a reader wants opened: the one that blocked the release, else the one that ships."""
    if proof["verdict"] == "PASS":
        return proof["chosen"]
    return next((c["name"] for c in words.judged(proof) if c["verdict"] != "PASS"), None)


def _plots(proof: Json, rows: Sequence[Json], focus: str | None) -> list[tuple[str, Any]]:
    from markupsafe import Markup

    megabytes = [r for r in rows if r["size_bytes"]]
    found = [
        ("Accuracy against size", _accuracy(megabytes, rows[0]["accuracy"])),
        ("Speed against size", _speed(megabytes)),
        (f"Rules of {focus} against {proof['baseline']['name']}", _rules(proof, focus)),
        (
            "Drift from the baseline",
            plots.bars(
                [(r["name"], r["kl_mean"]) for r in rows if r["kl_mean"]],
                title="Mean KL divergence per token",
                unit="mean KL divergence per token (nats, logarithmic)",
            ),
        ),
    ]
    return [(title, Markup(svg)) for title, svg in found if svg]  # noqa: S704 - plots escape their labels


def _training(name: str, stage: Json) -> dict[str, Any] | None:
    """The curves of a stage that trained."""
    history = _read(Path(stage["path"]) / "training.json") if stage["kind"] == "hf" else None
    if not history or not history.get("loss"):
        return None
    from markupsafe import Markup

    facts = (_read(Path(stage["path"]) / "artifact.json") or {}).get("facts", {})
    parts = facts.get("unfrozen_at", {}).items()
    joins = [(step, f"block {part}" if part.isdecimal() else part) for part, step in parts]
    held = history.get("validation", [])
    own = [(step, None, share, n) for step, share, n, _ in history.get("replies", [])]
    drawn = [
        _lines(
            f"Loss of {name}",
            [
                ("training", list(enumerate(_smooth(history["loss"]), 1))),
                ("validation", [(entry[0], entry[1]) for entry in held]),
            ],
            y_label="loss (nats, mean of 10 steps)", marks=joins,
        ),
        _lines(
            f"Learning rate of {name}", [("rate", list(enumerate(history["learning_rate"], 1)))],
            y_label="learning rate",
        ),
        _lines(
            f"Agreement of {name} with pairs that are only measured",
            [("agrees", [(e[0], e[2]) for e in held if e[2] is not None]), *_bounds(held)],
            y_label="share of pairs", percent=True,
        ),
        _lines(
            f"Replies of {name} that pass every check",
            [("pass", [(e[0], e[2]) for e in own]), *_bounds(own)] if len(own) > 1 else [],
            y_label="share of replies", percent=True,
        ),
    ]  # fmt: skip
    study = _study(name, Path(stage["path"]))
    drawn += [_rule(rule, entries) for rule, entries in history.get("rules", {}).items()] + [study.pop("plot")]
    pictures = [(title, Markup(svg)) for title, svg in drawn if svg]  # noqa: S704 - plots escape their labels
    return {"name": name, "plots": pictures, **study, "folds": facts.get("cross_validation")}


def _lines(title: str, series: Sequence[Any], *, x_label: str = "step", **how: Any) -> tuple[str, str]:
    """A plot and its title."""
    return title, plots.lines(series, title=title, x_label=x_label, **how)


def _study(name: str, folder: Path) -> dict[str, Any]:
    """What a search tried: a row for each trial, and the value of those that came to their end."""
    study = _read(folder / "study.json") or {"trials": [], "best": None, "measure": ""}
    ended = [(i, trial["value"]) for i, trial in enumerate(study["trials"]) if trial["value"] is not None]
    plot = _lines(
        f"Trials of {name}", [("trials", ended)], x_label="trial", y_label=study["measure"],
        marks=[(study["best"], "best")] if ended else [],
    )  # fmt: skip
    columns = sorted({key for trial in study["trials"] for key in trial["values"]})
    return {
        "plot": plot,
        "trials": study["trials"],
        "columns": columns,
        "best": study["best"],
        "measure": study["measure"],
    }


def _rule(rule: str, entries: Sequence[Sequence[int]]) -> tuple[str, str]:
    """The share of a rule's pairs whose margin is positive, with its interval."""
    held = [(step, None, right / n, n) for step, right, n in entries]
    title = f"Pairs that break {rule}: positive margin (n = {entries[-1][2]})"
    series = [("margin > 0", [(e[0], e[2]) for e in held]), *_bounds(held)]
    return _lines(title, series, y_label="share of pairs", percent=True)


def _smooth(values: Sequence[float], width: int = 10) -> list[float]:
    """The mean of each value and those before it, ``width`` in all."""
    return [sum(part) / len(part) for part in (values[max(0, i + 1 - width) : i + 1] for i in range(len(values)))]


def _bounds(held: Sequence[Sequence[Any]]) -> list[tuple[str, list[tuple[float, float]]]]:
    """The 95 % interval of the agreement (Wilson 1927) as two lines."""
    from scipy.stats import binomtest

    known = [
        (e[0], binomtest(round(e[2] * e[3]), e[3]).proportion_ci(method="wilson")) for e in held if e[2] is not None
    ]
    return [("low", [(s, float(i.low)) for s, i in known]), ("high", [(s, float(i.high)) for s, i in known])]


def _accuracy(rows: Sequence[Json], baseline: float | None) -> str:
    points = []
    for row in rows:
        if row["accuracy"] is not None:
            known = row["accuracy_low"] is not None and baseline is not None
            low, high = (baseline + row["accuracy_low"], baseline + row["accuracy_high"]) if known else (None, None)
            points.append(plots.Point(row["name"], row["size_bytes"] / 1e6, row["accuracy"], row["verdict"], low, high))
    return plots.scatter(
        points, title="Accuracy against size on disk", x_label="size on disk (MB)", y_label="accuracy", percent=True
    )


def _speed(rows: Sequence[Json]) -> str:
    points = [
        plots.Point(r["name"], r["size_bytes"] / 1e6, r["tokens_per_s"], r["verdict"])
        for r in rows
        if r["tokens_per_s"]
    ]
    return plots.scatter(
        points, title="Decode speed against size on disk", x_label="size on disk (MB)", y_label="tokens per second"
    )


def _rules(proof: Json, focus: str | None) -> str:
    candidate = next((c for c in proof["candidates"] if c["name"] == focus), None)
    rules = [r for r in (candidate or {}).get("rules", ()) if r["mode"] == "model" and r["low"] is not None]
    spans = [
        plots.Span(
            rule["id"],
            rule["candidate"] - rule["baseline"],
            rule["low"],
            rule["high"],
            rule.get("margin") or proof["margins"].get("rule", 0.05),
            rule["verdict"],
        )
        for rule in rules
    ]
    return plots.forest(
        spans, title=f"Change per rule, {focus}", x_label="change in points with its 90 % interval; dashed: the margin"
    )


def _stage(name: str, stage: Json, every: Json) -> dict[str, Any]:
    """One row of the stage table, with the lineage that the artifact itself recorded."""
    record = _read(Path(stage["path"]) / "artifact.json") or {}
    by_digest = {other["digest"]: other_name for other_name, other in every.items()}
    parents = [by_digest.get(digest, f"{role} {digest[:12]}") for role, digest in record.get("inputs", {}).items()]
    facts, params = record.get("facts", {}), record.get("params", {})
    told = json.dumps({"params": params, "facts": facts}, indent=1, sort_keys=True, ensure_ascii=False)
    blank = {"size_bytes": None, "peak_rss_bytes": None}
    return {**blank, **stage, "id": name, "parents": parents, "facts": facts, "params": params, "told": told}
