"""Stage ``data.files``: your own data, in whatever rows it has, as canonical JSONL in a fixed order.

A canonical row holds ``messages`` (or ``text``, for calibration), and perhaps ``facts``, ``labels``,
``expected``, ``cluster`` and ``prompted``. Each adapter is one function from a row to a canonical one.
"""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from compress.errors import DataError, UsageError
from compress.json_files import digest_json
from compress.rows import NUMBER, check_parts, question_of
from compress.stage import Job, Params, Stage
from finetune.data.adapters import ADAPTERS, WANTED, Row, check_messages, guess
from finetune.data.readers import read_rows
from runtime.rules import RuleBook, Turn, load_rules

log = logging.getLogger(__name__)
KEPT = ("id", "facts", "labels", "expected", "cluster", "prompted", "sources", "chosen", "rejected", "label")
NEAR = {"facts", "labels", "expected", "cluster", "prompted"}
COLUMNS = {*KEPT, *(column for columns in WANTED.values() for column in columns)}
"""Names that mean something here."""


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
    version = 2
    accepts = frozenset()
    produces = "data"
    uses = frozenset({"rules"})

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
        p, book = job.params, load_rules(job.rules) if job.rules else None
        train = load(p.train, p, "train", book) if p.train else []
        calibration = load(p.calibration, p, "calibration") if p.calibration else train
        held = load(p.eval, p, "eval", book) if p.eval else []
        held, dropped = separate(train, held, p)
        for name, rows in (("train", train), ("calibration", calibration), ("eval", held)):
            if rows:
                write_rows(job.out / f"{name}.jsonl", [row for _, row in rows])
        counts = {"train": len(train), "calibration": len(calibration), "evaluation": len(held)}
        asked = len({question_of(row["messages"], row.get("facts")) for _, row in held})
        if asked < len(held):
            log.warning("%s: %d rows ask %d different questions; one question is one cluster", p.eval, len(held), asked)
        return {**counts, "evaluation_questions": asked, "overlap_dropped": dropped}


def load(path: Path, p: FilesParams, split: str, book: RuleBook | None = None) -> list[tuple[int, Row]]:
    """``(line, canonical row)`` of a file. Raises DataError naming file and line of the first broken row."""
    loaded: list[tuple[int, Row]] = []
    seen: dict[str, int] = {}
    for line, raw in read_rows(path):
        try:
            row = canonical(raw, p, split)
            if book is not None:
                check_known(row, book)
        except ValueError as error:
            raise DataError(path, line, str(error), next="mend or remove that row") from None
        row.setdefault("id", f"{split}-{len(loaded) + 1}")
        first = seen.setdefault(str(row["id"]), line)
        if first != line:
            raise DataError(
                path, line, f"id {row['id']!r} stands on line {first} already", next="give every row its own id"
            )
        loaded.append((line, row))
    if not loaded:
        raise DataError(path, None, "has no rows", next="check the file")
    return loaded


def canonical(raw: Any, p: FilesParams, split: str) -> Row:
    """One row as the other stages read it. Raises ValueError saying what is wrong."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"must be an object with named fields, not {type(raw).__name__}")
    missing = [column for column in p.columns.values() if column not in raw]
    if missing:
        raise ValueError(f"has no column {missing[0]!r} (it has {', '.join(map(str, raw))})")
    named = {**raw, **{name: raw[column] for name, column in p.columns.items()}}
    if split != "calibration":
        check_columns(named)
    adapter = p.adapter if p.adapter != "auto" else guess(named)
    row = {key: named[key] for key in KEPT if named.get(key) is not None} | ADAPTERS[adapter](named)
    if "text" in row:
        if split != "calibration":
            raise ValueError(f"plain text is for calibration; {split} rows need messages")
        return row
    check_messages(row["messages"])
    row = finish(row, split)
    check_parts(row)
    return row


def check_columns(named: Row) -> None:
    """Raise ValueError for a column that is nearly called as one that counts: left out, it would change verdicts."""
    for column in map(str, named):
        near = difflib.get_close_matches(column, NEAR - set(named), n=1, cutoff=0.8)
        if near and column not in COLUMNS:
            raise ValueError(f"has the unknown column {column!r} (did you mean {near[0]!r}? otherwise rename it)")


def check_known(row: Row, book: RuleBook) -> None:
    """Raise ValueError for facts, labels, rules or an expected answer that the rule file does not know."""
    if "text" in row:
        return
    wrong = book.turn_problems(Turn.from_row(row))
    expected = row.get("expected") or {}
    if expected.get("match") == "json":
        wrong += [f"expected.answer: {what}" for what in book.answer_problems(expected["answer"])]
    if wrong:
        raise ValueError("; ".join(wrong) + " (see the rule file)")


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
    if "expected" not in row:
        raise ValueError("an evaluation row needs expected, or the right answer as its last message")
    return row


def expectation(answer: str) -> dict[str, Any]:
    """What a recorded answer asks for: the number behind ``####``, the fields of a JSON object, or the text itself."""
    final = answer.rpartition("####")[2]
    if final != answer and NUMBER.fullmatch(final.strip()):
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


def write_rows(path: Path, written: list[Row]) -> None:
    """JSONL: keys sorted, rows in the order of the file they came from."""
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        for row in written:
            handle.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
