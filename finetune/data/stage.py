"""Stage ``data.files``: your own data, in whatever rows it has, as canonical JSONL in a fixed order.

A canonical row holds ``messages`` (or ``text``, for calibration), and perhaps ``facts``, ``labels``,
``expected``, ``cluster`` and ``prompted``. Each adapter is one function from a row to a canonical one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from compress.errors import DataError, UsageError
from compress.json_files import digest_json
from compress.stage import Job, Params, Stage
from finetune.data.adapters import ADAPTERS, Row, check_messages, guess
from finetune.data.readers import read_rows

KEPT = ("id", "facts", "labels", "expected", "cluster", "prompted", "sources", "chosen", "rejected", "label")


class FilesParams(Params):
    train: Path | None = None
    """Training rows."""
    calibration: Path | None = None
    """Text for the calibration pass; by default the training rows serve."""
    eval: Path | None = None
    """Evaluation rows: none of them may be in training."""
    adapter: Literal["auto", "messages", "text", "prompt_completion", "question_answer", "hh", "intent"] = "auto"
    """How a row becomes a conversation; ``auto`` goes by the names of the columns."""
    columns: Mapping[str, str] = Field(default_factory=dict)
    """Where the file names its columns otherwise: ``{text: utterance, category: intent}``."""
    overlap: Literal["error", "drop"] = "error"
    """What to do with an evaluation row that is in training too."""


class FilesData(Stage[FilesParams]):
    """Reads, checks and rewrites the splits."""

    Params = FilesParams
    accepts = frozenset()
    produces = "data"

    def check(self, job: Job[FilesParams]) -> None:
        given = [path for path in (job.params.train, job.params.calibration, job.params.eval) if path]
        if not given:
            raise UsageError("data names no file", next="give train:, calibration: or eval: under data:")
        for path in given:
            if not path.is_file():
                raise DataError(
                    path, None, "there is no such file", next="check the path under data: in the pipeline file"
                )

    def run(self, job: Job[FilesParams]) -> Mapping[str, Any]:
        p = job.params
        train = load(p.train, p, "train") if p.train else []
        calibration = load(p.calibration, p, "calibration") if p.calibration else train
        held = load(p.eval, p, "eval") if p.eval else []
        held, dropped = separate(train, held, p)
        for name, rows in (("train", train), ("calibration", calibration), ("eval", held)):
            if rows:
                write_rows(job.out / f"{name}.jsonl", [row for _, row in rows])
        counts = {"train": len(train), "calibration": len(calibration), "evaluation": len(held)}
        return {**counts, "overlap_dropped": dropped}


def load(path: Path, p: FilesParams, split: str) -> list[tuple[int, Row]]:
    """``(line, canonical row)`` of a file. Raises DataError naming file and line of the first broken row."""
    rows: list[tuple[int, Row]] = []
    seen: dict[str, int] = {}
    for line, raw in read_rows(path):
        try:
            row = canonical(raw, p, split)
        except ValueError as error:
            raise DataError(path, line, str(error), next="mend or remove that row") from None
        row.setdefault("id", f"{split}-{len(rows) + 1}")
        first = seen.setdefault(str(row["id"]), line)
        if first != line:
            raise DataError(
                path, line, f"id {row['id']!r} stands on line {first} already", next="give every row its own id"
            )
        rows.append((line, row))
    if not rows:
        raise DataError(path, None, "has no rows", next="check the file")
    return rows


def canonical(raw: Any, p: FilesParams, split: str) -> Row:
    """One row as the other stages read it. Raises ValueError saying what is wrong."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"must be an object with named fields, not {type(raw).__name__}")
    missing = [column for column in p.columns.values() if column not in raw]
    if missing:
        raise ValueError(f"has no column {missing[0]!r} (it has {', '.join(map(str, raw))})")
    named = {**raw, **{name: raw[column] for name, column in p.columns.items()}}
    adapter = p.adapter if p.adapter != "auto" else guess(named)
    row = {key: named[key] for key in KEPT if named.get(key) is not None} | ADAPTERS[adapter](named)
    if "text" in row:
        if split != "calibration":
            raise ValueError(f"plain text is for calibration; {split} rows need messages")
        return row
    check_messages(row["messages"])
    return finish(row, split)


def finish(row: Row, split: str) -> Row:
    """A training row must end with the answer, an evaluation row with the question and what is expected."""
    last = row["messages"][-1]
    if split == "train" and last["role"] != "assistant":
        raise ValueError("a training row must end with an assistant message")
    if split != "eval":
        return row
    if last["role"] == "assistant":
        row.setdefault("expected", expectation(last["content"]))
        row["messages"] = row["messages"][:-1]
    if not row["messages"] or row["messages"][-1]["role"] != "user":
        raise ValueError("an evaluation row must end with a user message")
    return row


def expectation(answer: str) -> dict[str, Any]:
    """What a recorded answer asks for: the number behind ``####``, the fields of a JSON object, or the text itself."""
    _, mark, final = answer.rpartition("####")
    if mark:
        return {"answer": final.strip(), "match": "numeric"}
    try:
        value = json.loads(answer)
    except ValueError:
        value = None
    return (
        {"answer": value, "match": "json"} if isinstance(value, dict) else {"answer": answer.strip(), "match": "exact"}
    )


def fingerprint(row: Row) -> str:
    """Digest of a row's question: what was said before the last answer, letters and digits only."""
    said = [m["content"] for m in row["messages"] if m["role"] in ("system", "user")]
    return digest_json([" ".join(re.findall(r"\w+", content.casefold())) for content in said])


def separate(
    train: list[tuple[int, Row]], held: list[tuple[int, Row]], p: FilesParams
) -> tuple[list[tuple[int, Row]], int]:
    """(evaluation rows whose question is not in training, how many were dropped)."""
    known = {fingerprint(row): line for line, row in train}
    both = [(line, known[fingerprint(row)]) for line, row in held if fingerprint(row) in known]
    if both and p.overlap == "error":
        line, twin = both[0]
        more = f", and {len(both) - 1} more such rows" if len(both) > 1 else ""
        raise DataError(p.eval, line, f"is in training too ({p.train}:{twin}){more}",
                        next="remove it from one of them, or set overlap: drop")  # fmt: skip
    return [(line, row) for line, row in held if fingerprint(row) not in known], len(both)


def write_rows(path: Path, rows: list[Row]) -> None:
    """JSONL: keys sorted, rows in the order of the file they came from."""
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        for row in rows:
            handle.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
