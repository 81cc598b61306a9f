"""Stage ``data.files``: your own data, in whatever rows it has, as canonical JSONL in a fixed order.

A canonical row holds ``messages`` (or ``text``, for calibration), and perhaps ``facts``, ``labels``,
``expected``, ``cluster`` and ``prompted``. Each adapter is one function from a row to a canonical one.
"""

from __future__ import annotations

import difflib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from compress.costs import WORKER, Work
from compress.errors import DataError, UsageError
from compress.numbers import read_number
from compress.outline import SAMPLE, Outline, Split
from compress.rows import check_parts, kind
from compress.stage import Job, JobOutline, Needs, Params, Stage
from finetune.data.adapters import ADAPTERS, WANTED, ColumnsError, Row, check_messages, guess
from finetune.data.fingerprint import digest
from finetune.data.overlap import Apart
from finetune.data.readers import PARTS, place_of, read_rows, shards_of
from runtime.rules import RuleBook, Turn, load_rules
from runtime.rules.instructions import expected_problems

log = logging.getLogger(__name__)
ROW_S = 0.00015
"""Seconds of the interpreter for a row."""
KEPT = ("id", "facts", "labels", "expected", "cluster", "prompted", "sources", "chosen", "rejected", "label")
NEAR = {"facts", "labels", "expected", "cluster", "prompted"}
SHOWN = 3
"""Of the rows that cannot be used, those whose faults are told."""
COLUMNS = {*KEPT, *(column for columns in WANTED.values() for column in columns)}
"""Names that mean something here."""


class FilesParams(Params):
    train: Path | None = None
    """Training rows."""
    calibration: Path | None = None
    """Text for the calibration pass, in a file or as a folder of documents; by default the training rows serve."""
    eval: Path | None = None
    """Evaluation rows: none of them may be in training."""
    adapter: Literal[
        "auto", "messages", "sharegpt", "prompt_completion", "prompt_response", "question_answer", "alpaca",
        "input_output", "preference", "openai_preference", "hh", "ifeval", "intent", "sgd", "abcd", "tagged", "text",
    ] = "auto"  # fmt: skip
    """How a row becomes a conversation; ``auto`` goes by the names of the columns."""
    columns: Mapping[str, str] = Field(default_factory=dict)
    """Where the file names its columns otherwise: ``{text: utterance, category: intent}``."""

    @field_validator("columns")
    @classmethod
    def _names_are_known(cls, columns: Mapping[str, str]) -> Mapping[str, str]:
        for name in columns:
            near = difflib.get_close_matches(name, COLUMNS, n=1, cutoff=0.8)
            if near and name not in COLUMNS:
                raise ValueError(f"no adapter has a column {name!r} (did you mean {near[0]!r}?)")
        return columns

    overlap: Literal["error", "drop", "keep"] = "error"
    """What to do with an evaluation row whose question is in training too."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """What to do with a row that cannot be used; ``skip`` leaves it out and says how many were."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Rows that are another one's equal in all but ``id`` and ``cluster``."""


class FilesData(Stage[FilesParams]):
    """Reads, checks and rewrites the splits, a row at a time."""

    Params = FilesParams
    version = 7
    accepts = frozenset()
    produces = "data"
    uses = frozenset({"rules"})

    def check(self, job: Job[FilesParams]) -> None:
        p = job.params
        named = (("train", p.train), ("calibration", p.calibration), ("eval", p.eval))
        given = [(split, path) for split, path in named if path]
        if not given:
            raise UsageError("data names no file", next="give train:, calibration: or eval: under data:")
        for split, path in given:
            read = path.is_dir() and (path == p.calibration or shards_of(path, split))
            if not path.is_file() and not read:
                raise _no_rows(path, split)

    def outline(self, job: JobOutline[FilesParams]) -> Outline:
        """The first rows of each file stand for all. A broken one is found when the stage runs."""
        p = job.params
        given = {"train": p.train, "calibration": p.calibration or p.train, "eval": p.eval}
        splits = {name: outlined(path, p, name) for name, path in given.items() if path is not None}
        return Outline("data", sum(split.disk_bytes for split in splits.values()), splits=splits)

    def needs(self, job: JobOutline[FilesParams]) -> Needs:
        """Each row is checked. In memory stay the evaluation's questions, the ids that rows bring, and for
        ``duplicates: drop`` a digest of each row."""
        found, kept = self.outline(job), 0
        for name, split in found.splits.items():
            remembered = name == "eval" or job.params.duplicates == "drop" or any("id" in row for row in split.sample)
            kept += split.rows if remembered else 0
        rows = sum(split.rows for split in found.splits.values())
        return Needs(found.disk_bytes, WORKER + 200 * kept, Work(python=rows * ROW_S))

    def run(self, job: Job[FilesParams]) -> Mapping[str, Any]:
        p, book = job.params, load_rules(job.rules) if job.rules else None
        counts: dict[str, Any] = {"train": 0, "calibration": 0, "evaluation": 0, "evaluation_questions": 0}
        held = Rows(p.eval, p, "eval", book).rows() if p.train and p.eval else ()
        apart, read = Apart(p.overlap, p.train, p.eval, held), list[Rows]()
        if p.train:
            read.append(Rows(p.train, p, "train", book))
            counts["train"] = counts["calibration"] = read[-1].write(job, apart.taught)
            if not p.calibration:
                shutil.copyfile(job.out / "train.jsonl", job.out / "calibration.jsonl")
        if p.calibration:
            read.append(Rows(p.calibration, p, "calibration"))
            counts["calibration"] = read[-1].write(job)
        if p.eval:
            read.append(Rows(p.eval, p, "eval", book))
            try:
                counts["evaluation"] = read[-1].write(job, apart)
            finally:
                apart.finish()
            counts |= {"evaluation_questions": len(apart.asked), "overlap": apart.both}
            if len(apart.asked) < counts["evaluation"]:
                said = "%s: %d rows ask %d different questions; one question is one cluster"
                log.warning(said, p.eval, counts["evaluation"], len(apart.asked))
        left_out = {rows.split: found for rows in read if (found := rows.left_out())}
        return counts | ({"left_out": left_out} if left_out else {})


def _no_rows(path: Path, split: str) -> DataError:
    """What is wrong with a path that is no file and no folder with rows of the split."""
    hint = "check the path under data: in the pipeline file"
    if not path.is_dir():
        return DataError(path, None, "is no plain file" if path.exists() else "there is no such file", next=hint)
    others = next((found for other in PARTS if (found := shards_of(path, other))), None)
    if others:
        what = f"holds files of another split ({others[0].relative_to(path)}) and none of {split}"
        return DataError(path, None, what, next=f"if those are meant, give {others[0]}, or a folder with such files")
    return DataError(path, None, "is a folder, and not one of datasets or of files with rows", next=hint)


class Rows:
    """One file on its way to canonical JSONL."""

    def __init__(self, path: Path, p: FilesParams, split: str, book: RuleBook | None = None) -> None:
        self.path, self.p, self.split, self.book = path, p, split, book
        self.ids: dict[str, int] = {}
        self.unnamed = bytearray()
        self.bad: list[DataError] = []
        self.seen: set[bytes] = set()
        self.broken = self.twins = 0

    def rows(self) -> Iterator[tuple[int, Row]]:
        """``(line, canonical row)``; raises DataError with file and line of the first broken row, or leaves it out."""
        for line, raw in read_rows(self.path, self.split):
            try:
                row = self._row(line, raw)
                if self._twin(row):
                    continue
                self._name(line, row)
            except DataError as error:
                if self.p.on_bad_row == "fail":
                    raise
                self.broken += 1
                self.bad = [*self.bad, error][:SHOWN]
                continue
            yield line, row

    def _row(self, line: int, raw: Any) -> Row:
        if isinstance(raw, DataError):
            raise raw
        try:
            row = canonical(raw, self.p, self.split)
            if self.book is not None:
                check_known(row, self.book)
            written(row)
        except (ValueError, RecursionError) as error:
            hint = "mend or remove that row"
            raise self._wrong(line, str(error), getattr(error, "next", hint)) from None
        return row

    def _name(self, line: int, row: Row) -> None:
        """Name a row without an id by its place. Raises DataError for an id that an earlier row has. A row that is
        named by its place takes one bit of memory."""
        place = self.path.name.encode(errors="replace").decode() + ":"
        if "id" not in row:
            row["id"] = f"{place}{line}"
            first = self.ids.get(row["id"], line)
            self.unnamed.extend(bytes(max(0, line // 8 + 1 - len(self.unnamed))))
            self.unnamed[line // 8] |= 1 << line % 8
        else:
            name = str(row["id"])
            first = self.ids.setdefault(name, line)
            number = name.removeprefix(place)
            if number != name and number.isdecimal() and self._unnamed(int(number)):
                first = int(number)
        if first != line:
            file, at = place_of(self.path, self.split, first)
            where = f"on line {at}" if file == self.path else f"in {file}:{at}"
            raise self._wrong(line, f"id {row['id']!r} stands {where} already", "give every row its own id")

    def _wrong(self, line: int, what: str, hint: str) -> DataError:
        path, line = place_of(self.path, self.split, line) if self.broken < SHOWN else (self.path, line)
        return DataError(path, line, what, next=hint)

    def _unnamed(self, line: int) -> bool:
        """Whether the row on ``line`` came before and is named by its place."""
        return line // 8 < len(self.unnamed) and bool(self.unnamed[line // 8] >> line % 8 & 1)

    def write(self, job: Job[FilesParams], keep: Callable[[int, Row], bool] = lambda line, row: True) -> int:
        """Write the rows that ``keep`` says yes to, in the order of the file, keys sorted; their number."""
        count = 0
        with open(job.out / f"{self.split}.jsonl", "w", encoding="utf-8", newline="\n") as handle:
            for line, row in self.rows():
                if not keep(line, row):
                    continue
                handle.write(written(row) + "\n")
                count += 1
                if count % 10_000 == 0:
                    job.progress(0, 1, f"{self.path.name}: {count} rows")
        self._tell()
        if not count:
            what = "has no rows that can be used" if self.broken or self.ids or self.unnamed else "has no rows"
            raise DataError(self.path, None, what, next="check the file")
        return count

    def _twin(self, row: Row) -> bool:
        """Whether an equal row came before and is not wanted again."""
        if self.p.duplicates == "keep":
            return False
        said = digest({name: value for name, value in row.items() if name not in ("id", "cluster")})
        if said in self.seen:
            self.twins += 1
            return True
        self.seen.add(said)
        return False

    def _tell(self) -> None:
        if self.broken:
            shown = "; ".join(error.what for error in self.bad)
            log.warning("%s: %d rows cannot be used and are left out (%s)", self.path, self.broken, shown)
        if self.twins:
            log.warning("%s: %d rows stand there already and are left out", self.path, self.twins)

    def left_out(self) -> dict[str, int]:
        """How many rows could not be used, and how many stood there already."""
        return {name: n for name, n in (("broken", self.broken), ("duplicates", self.twins)) if n}


def outlined(path: Path, p: FilesParams, split: str) -> Split:
    """The split that a file will be; it is read once as long as it does not change."""
    return _outlined(path, path.stat().st_mtime_ns, p.model_dump_json(include={"adapter", "columns"}), split)


@lru_cache(maxsize=16)
def _outlined(path: Path, changed: int, given: str, split: str) -> Split:
    del changed
    p = FilesParams.model_validate_json(given)
    count, sample = 0, list[Row]()
    for _, raw in read_rows(path, split):
        count += 1
        if len(sample) < SAMPLE and not isinstance(raw, DataError):
            with suppress(ValueError):
                sample.append(canonical(raw, p, split))
    files = path.rglob("*") if path.is_dir() else [path]
    return Split(count, sum(file.stat().st_size for file in files), sample)


def canonical(raw: Any, p: FilesParams, split: str) -> Row:
    """One row as the other stages read it. Raises ValueError saying what is wrong."""
    if isinstance(raw, list) and len(raw) == 2 and p.adapter in ("auto", "intent"):
        raw = dict(zip(WANTED["intent"], raw, strict=True))
    if not isinstance(raw, Mapping):
        raise ValueError(f"must be an object with named fields, not {type(raw).__name__}")
    missing = [column for column in p.columns.values() if column not in raw]
    if missing:
        raise ColumnsError(f"has no column {missing[0]!r} (it has {', '.join(map(str, raw))})")
    named = {**raw, **{name: raw[column] for name, column in p.columns.items()}}
    if split != "calibration":
        check_columns(named)
    adapter = p.adapter if p.adapter != "auto" else guess(named)
    adapted = {key: value for key, value in ADAPTERS[adapter](named).items() if value is not None}
    row = adapted | {key: named[key] for key in KEPT if named.get(key) not in (None, "") and key not in adapted}
    if "text" in row:
        if split != "calibration":
            raise ValueError(f"plain text is for calibration; {split} rows need messages")
        return row
    check_messages(row["messages"])
    check_preferences(row)
    row = finish(row, split)
    check_parts(row)
    return row


def check_preferences(row: Row) -> None:
    """Raise ValueError for a reply beside the conversation that is none. A label that a table holds as text becomes
    what it says; other texts stay, for only some methods read labels, and refuse them."""
    for name in ("chosen", "rejected"):
        if name in row and (not isinstance(row[name], str) or not row[name].strip()):
            raise ValueError(f"{name} is {kind(row[name])}, not a reply with something in it")
    if isinstance(row.get("label"), str):
        with suppress(ValueError):
            row["label"] = json.loads(row["label"].strip().lower())


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
    wrong += expected_problems(book, row.get("expected") or {})
    if wrong:
        raise ValueError("; ".join(wrong) + " (see the rule file)")


def finish(row: Row, split: str) -> Row:
    """A training row must end with the answer, an evaluation row with the question and what is expected."""
    last = row["messages"][-1]
    if split == "train":
        if last["role"] != "assistant":
            raise ValueError("a training row must end with an assistant message")
        if not any(m.get("weight", 1) for m in row["messages"] if m["role"] == "assistant"):
            raise ValueError("every assistant message has weight 0: there is nothing to learn")
    if split != "eval":
        return row
    row.pop("tools", None)
    if last["role"] == "assistant":
        if "expected" not in row and row.get("label") is False:  # 0 may be the number of a class
            raise ValueError("its label is false: the reply is not wanted, and no other is expected")
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
    if final != answer and read_number(final) is not None:
        return {"answer": final.strip(), "match": "numeric"}
    try:
        value = json.loads(answer)
    except ValueError:
        value = None
    return (
        {"answer": value, "match": "json"} if isinstance(value, dict) else {"answer": answer.strip(), "match": "exact"}
    )


def written(row: Row) -> str:
    """A row as a line. Raises ValueError for what JSON in UTF-8 cannot hold."""
    try:
        line = json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False)
        line.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds half a character ({error.object[error.start]!a})") from None
    except TypeError as error:
        raise ValueError(f"holds what JSON has no form for: {error}") from None
    except ValueError as error:
        if "JSON compliant" not in str(error):
            raise
        raise ValueError("holds NaN or Infinity, for which JSON has no form") from None
    return line
