"""Writes docs/real-model.md from a finished run: python docs/make_real_model.py [work/runs/smollm2].

Run it where the run was started, in the same environment: the paths in run.lock.json are taken from the working
directory, and the versions are those installed. Every figure is read from the run's artifacts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.config import read_config
from compress.extras import installed
from compress.pipeline.run import load_run
from compress.report import words
from compress.report.html import LIBRARIES, ProofFiles, read_proof
from compress.validate.items import Item, load_items
from runtime.rules import RuleBook, load_rules

PAGE = Path(__file__).with_name("real-model.md")
SAMPLES = 6
LONGEST = 400
"""Characters of a reply that are shown."""

Json = Mapping[str, Any]


def render(state: Json) -> str:
    """The page of one run (the object of run.lock.json). Raises ValueError unless it holds exactly one proof."""
    folders = [Path(stage["path"]) for stage in state["stages"].values() if stage["kind"] == "proof"]
    if len(folders) != 1:
        raise ValueError(f"run {state['name']} holds {len(folders)} proofs, not one: finish it with compress pipeline")
    files = read_proof(folders[0])
    parts = [
        f"# A real model: the run `{state['name']}`",
        "Made by `python docs/make_real_model.py` from the artifacts of the run.",
        "\n".join(what_was_run(state, files)),
        "## Candidates\n\n" + candidates(state, files),
        "## Stages\n\n" + stages(state),
        "## Before and after\n\n" + before_after(state, files, folders[0]),
    ]
    return "\n\n".join(parts) + "\n"


def what_was_run(state: Json, files: ProofFiles) -> Iterator[str]:
    """The pipeline file, verdict, number of items, machine and versions, a list item each."""
    machine = files.measured["machine"]
    yield f"- Pipeline file: `{state['config']}`"
    yield f"- Verdict: **{files.proof['verdict']}**. {' '.join(words.verdict_sentences(files.proof))}"
    yield f"- n = {files.proof['n_items']} held-out items. {files.proof['why_n']}"
    yield f"- Machine: {machine['cpus']} CPUs, {machine['platform']}; {machine['threads']} threads"
    yield "- Versions: " + ", ".join(f"{name} {version}" for name, version in installed(LIBRARIES).items())


def facts(stage: Json) -> Json:
    """What the stage recorded of its artifact."""
    record = json.loads((Path(stage["path"]) / "artifact.json").read_text(encoding="utf-8"))
    found: Json = record["facts"]
    return found


def candidates(state: Json, files: ProofFiles) -> str:
    """The baseline and every candidate, least compressed first, and the model before tuning."""
    head = (
        "artifact", "verdict", "size", "bits per weight", "accuracy", "90 % interval of the difference, points",
        "hard rules, the model alone", "hard rules, enforced", "KL, nats", "tokens/s",
    )  # fmt: skip
    proof = files.proof
    judged = {candidate["name"]: candidate for candidate in proof["candidates"]}
    rows = [base_row(proof["base"])] if proof.get("base") else []
    for row in words.rows_of(proof, files.measured):
        candidate = judged.get(row["name"], {})
        rows.append(candidate_row(row, candidate, facts(state["stages"][row["name"]]), proof))
    note = (
        "Bits per weight are the exporting stage's own count: all weights of a GGUF file, the quantized linears of a "
        "GPTQ folder. Hard rules alone count checks (item × rule in force), enforced replies without a violation."
    )
    return table(head, rows) + "\n\n" + note


def base_row(base: Json) -> list[str]:
    """The model before tuning."""
    name = f"{base['name']}, before tuning (n = {base['n_items']})"
    measured = (words.percent(base["accuracy"]), "", words.percent(base["adherence"]))
    return [name, "", words.size(base["size_bytes"]), "", *measured, "", "", ""]


def candidate_row(row: Json, candidate: Json, recorded: Json, proof: Json) -> list[str]:
    """One line of the table from ``words.rows_of`` and what the proof and the exporting stage add."""
    first = candidate or proof["candidates"][0]
    checks = words.suite(first, "adherence").get("n")
    replies = (candidate.get("enforced") or proof["baseline"].get("enforced") or {}).get("n")
    name = f"**{row['name']}**" if row["name"] == proof["chosen"] else row["name"]
    interval = ""
    if row["accuracy_low"] is not None:
        interval = f"{words.points(row['accuracy_low'])} … {words.points(row['accuracy_high'])}"
    return [
        name + (f" ({row['note']})" if row["note"] else ""),
        row["verdict"],
        words.size(row["size_bytes"]),
        words.figure(recorded.get("bits_per_weight")),
        words.percent(row["accuracy"]),
        interval,
        f"{words.percent(row['adherence'])} of {checks}",
        f"{words.percent(row['adherence_enforced'])} of {replies}",
        words.figure(row["kl_mean"]),
        words.figure(row["tokens_per_s"], 4),
    ]


def stages(state: Json) -> str:
    """Seconds and peak memory of every stage, as measured when its artifact was made."""
    rows = [
        [name, stage["use"], words.seconds(stage["seconds"]), words.size(stage["peak_rss_bytes"])]
        for name, stage in state["stages"].items()
    ]
    total = sum(stage["seconds"] or 0 for stage in state["stages"].values())
    return table(("stage", "use", "time", "peak memory"), [*rows, ["in all", "", words.seconds(total), ""]])


def before_after(state: Json, files: ProofFiles, folder: Path) -> str:
    """One item of each kind of message (its first label, or else the expected answer), with three replies to it.

    They are those before tuning, of the tuned model and of the candidate that ships; of the smallest one if none does.
    """
    config = read_config(Path(state["config"]))
    book = load_rules(config.find(str(config.spec.rules)))
    items = {item.id: item for item in load_items(Path(state["stages"]["data"]["path"]) / "eval.jsonl", book)}
    shown: dict[str, Json] = {}
    for page in files.pages:
        kind = next(iter(items[page["id"]].turn.labels), json.dumps(page["expected"]))
        shown.setdefault(kind, page)
    chosen = files.proof["chosen"]
    said = recorded(folder, chosen) if chosen else {}
    parts = []
    for kind, page in list(shown.items())[:SAMPLES]:
        replies = list(page["replies"])
        if chosen and chosen not in [reply["name"] for reply in replies]:
            replies[-1] = judged_reply(book, items[page["id"]], chosen, said[page["id"]])
        parts.append(_sample(kind, page, replies))
    return "\n\n".join(parts)


def recorded(folder: Path, name: str) -> dict[str, Json]:
    """Item id -> the row of what model ``name`` said."""
    with open(folder / "replies" / f"{name}.jsonl", encoding="utf-8") as handle:
        return {row["id"]: row for row in map(json.loads, handle)}


def judged_reply(book: RuleBook, item: Item, name: str, row: Json) -> Json:
    """A recorded reply in the shape of those in before_after.json."""
    verdicts = book.check(item.turn, row["reply"], row["truncated"])
    broken = [verdict.rule for verdict in verdicts if not verdict.passed]
    return {"name": name, "text": row["reply"], "accurate": item.accurate(book, row["reply"]), "broken": broken}


def _sample(kind: str, page: Json, replies: Sequence[Json]) -> str:
    known = ", ".join(f"{name}: {value}" for name, value in (page.get("facts") or {}).items())
    lines = [f"> {_flat(page['prompt'])}", *([f"> ({_flat(known)})"] if known else [])]
    rows = [[reply["name"], _judged(reply), f"`{_flat(reply['text'])}`"] for reply in replies]
    return f"### {_flat(kind)}\n\n" + "\n>\n".join(lines) + "\n\n" + table(("model", "judged", "reply"), rows)


def _judged(reply: Json) -> str:
    broken = f"; breaks {', '.join(reply['broken'])}" if reply["broken"] else ""
    return ("right" if reply["accurate"] else "wrong") + broken


def _flat(text: str) -> str:
    """One line that cannot leave its cell; a long text is cut and says so."""
    line = " ".join(text.split()).replace("`", "'").replace("|", "\\|").replace("<", "&lt;")
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} … ({len(line)} characters)"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("work/runs/smollm2"), help="folder of the run")
    parser.add_argument("--page", type=Path, default=PAGE, help="file to write")
    given = parser.parse_args()
    given.page.write_text(render(load_run(given.run).to_json()), encoding="utf-8")


if __name__ == "__main__":
    main()
