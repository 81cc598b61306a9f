"""Stage ``data.files``: your own data, in whatever rows it has, as canonical JSONL in a fixed order.

A canonical row holds ``messages`` (or ``text``, for calibration), and perhaps ``facts``, ``labels``,
``expected``, ``cluster`` and ``prompted``. Each adapter is one function from a row to a canonical one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from compress.artifact import digest_json
from compress.errors import DataError, UsageError
from compress.stage import Job, Params, Stage
from finetune.readers import read_rows

Row = dict[str, Any]
Adapter = Callable[[Mapping[str, Any]], Row]
KEPT = ("id", "facts", "labels", "expected", "cluster", "prompted", "sources", "chosen", "rejected", "label")
ROLES = ("system", "user", "assistant", "tool")


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


def guess(row: Mapping[str, Any]) -> str:
    """The adapter whose columns the row has."""
    for adapter, columns in WANTED.items():
        if all(column in row for column in columns):
            return adapter
    raise ValueError(
        f"no adapter fits the columns {', '.join(map(str, row))}; name one under adapter: and map columns:"
    )


def check_messages(messages: Any) -> None:
    """Raise ValueError unless ``messages`` is a conversation."""
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages must be a list that is not empty")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise ValueError(f"messages[{place}] needs a role: one of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise ValueError(f"messages[{place}] needs a content that is a text and not empty")


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


def _strings(row: Mapping[str, Any], *names: str) -> list[str]:
    for name in names:
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise ValueError(f"needs {name!r}, a text that is not empty")
    return [row[name] for name in names]


def _pair(row: Mapping[str, Any], asked: str, answered: str) -> Row:
    user, assistant = _strings(row, asked, answered)
    system = (
        [{"role": "system", "content": row["system"]}] if isinstance(row.get("system"), str) and row["system"] else []
    )
    return {"messages": [*system, {"role": "user", "content": user}, {"role": "assistant", "content": assistant}]}


def messages(row: Mapping[str, Any]) -> Row:
    """``{"messages": [{"role", "content"}, ...]}``"""
    check_messages(row.get("messages"))
    return {"messages": [{"role": m["role"], "content": m["content"]} for m in row["messages"]]}


def text(row: Mapping[str, Any]) -> Row:
    """``{"text"}``"""
    return {"text": _strings(row, "text")[0]}


def prompt_completion(row: Mapping[str, Any]) -> Row:
    """``{"prompt", "completion"}``"""
    return _pair(row, "prompt", "completion")


def question_answer(row: Mapping[str, Any]) -> Row:
    """``{"question", "answer"}``"""
    return _pair(row, "question", "answer")


def intent(row: Mapping[str, Any]) -> Row:
    """``{"text", "category"}``: the answer is the name of the intent."""
    return _pair(row, "text", "category")


_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant): ?")


def hh(row: Mapping[str, Any]) -> Row:
    """``{"chosen"}``: a dialogue as one text with ``Human:`` and ``Assistant:`` at the start of paragraphs."""
    chosen = dialogue(_strings(row, "chosen")[0])
    if not isinstance(row.get("rejected"), str):
        return {"messages": chosen}
    return {"messages": chosen, "chosen": chosen[-1]["content"], "rejected": dialogue(row["rejected"])[-1]["content"]}


def dialogue(string: str) -> list[dict[str, str]]:
    """The turns of such a text; turns without words are left out."""
    pieces = _SPEAKER.split(string)
    if len(pieces) < 3:
        raise ValueError("holds no turn: expected 'Human: ...' and 'Assistant: ...'")
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(pieces[1::2], pieces[2::2], strict=True)
    return [{"role": roles[who], "content": said.strip()} for who, said in turns if said.strip()]


ADAPTERS: dict[str, Adapter] = {
    "hh": hh,
    "intent": intent,
    "messages": messages,
    "prompt_completion": prompt_completion,
    "question_answer": question_answer,
    "text": text,
}
WANTED = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "question_answer": ("question", "answer"),
    "hh": ("chosen",),
    "intent": ("text", "category"),
    "text": ("text",),
}


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
