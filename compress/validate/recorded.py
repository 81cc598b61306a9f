"""The gate on recorded replies: two JSONL files from any two systems, paired by ``id``.

A row is ``{"id", "messages", "reply": text or object, "facts"?, "labels"?, "sources"?, "prompted"?, "truncated"?,
"expected"?, "cluster"?}``; any other key is an error. Everything but ``reply`` and ``truncated`` belongs to the
question, so it must be the same in both files; ``expected`` and ``cluster`` may stand in one of them only.

The files are read twice and never held: once for where each id stands, once in pairs, which all cores judge. Of a pair
stay a byte per rule and a digest of the question.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress import rows
from compress.errors import DataError
from compress.validate.gate import Answer, judge_table
from compress.validate.items import Item, read_turn
from compress.validate.lines import Place, Rows, digest, digests, scan
from compress.validate.outcomes import Part, Table, check_all, join
from compress.validate.results import Judgement
from compress.validate.workers import cores, spread
from runtime.rules import RuleBook, Turn

SHAPE = 'a row is {"id", "messages": [{"role", "content"}…], "reply": "text" or {contract fields}}; see docs/gate.md'
KNOWN = (*rows.PARTS, "reply", "truncated")
QUESTION = ("messages", "facts", "labels", "sources", "prompted")
CHUNK = 250
"""Pairs judged at a time."""
SMALL = 2 << 20
"""Bytes of both files below which one process is quicker."""


def judge_files(baseline: Path, candidate: Path, book: RuleBook) -> Judgement:
    """Judge ``candidate`` against ``baseline`` by the rules of ``book``.

    Raises DataError (file and line) for a line that cannot be used, a doubled id, an id that only one file has, or a
    question that differs between the files.
    """
    files = _Files(Path(baseline), Path(candidate), book)
    try:
        first, second, processes = files.scan()
        pairs = _paired(files, first, second)
        return judge_table(book, _table(files, pairs, processes), mode="recorded")
    finally:
        files.close()


def _table(files: _Files, pairs: Pairs, processes: int) -> Table:
    chunks = [pairs[at : at + CHUNK] for at in range(0, len(pairs), CHUNK)]
    parts, questions, clusters = list[Part](), bytearray(), list[str | None]()
    for part, asked, named in spread(files.judge, chunks, processes):
        parts.append(part)
        questions += asked
        clusters += named
    return join(files.book, parts, _join_clusters(bytes(questions), clusters))


Pairs = NDArray[np.int64]
"""``[pairs, 6]``: line, offset and length in the baseline's file, then in the candidate's."""


def _paired(files: _Files, first: Rows, second: Rows) -> Pairs:
    """Which rows answer the same question; every id must be in both files, and once."""
    for mine in (first, second):
        twice = mine.doubled()
        if twice:
            line, name = int(mine.lines[twice[0]]), files.name(mine, twice[0])
            before = int(mine.lines[twice[1]])
            raise DataError(mine.path, line, f"id {name!r} stands on line {before} too", next=_DOUBLED)
    for mine, other in ((first, second), (second, first)):
        alone = np.flatnonzero(mine.find(other) < 0)
        if len(alone):
            more = f" ({len(alone)} such ids)" if len(alone) > 1 else ""
            what = f"id {files.name(mine, int(alone[0]))!r} is not in {other.path}{more}"
            raise DataError(mine.path, int(mine.lines[alone[0]]), what, next=_ALONE)
    at = first.find(second)
    columns = (first.lines, first.offsets, first.lengths, second.lines[at], second.offsets[at], second.lengths[at])
    return np.stack(columns, axis=1)


_DOUBLED = "give every reply an id of its own; the same question asked twice is two ids and one cluster"
_ALONE = "record both systems on the same questions; a reply that is missing is a reply too (empty text)"


class _Row(NamedTuple):
    """One line of a file."""

    line: int
    row: Mapping[str, Any]
    turn: Turn
    answer: Answer


Judged = tuple[Part, bytes, list[str | None]]


@dataclass(frozen=True)
class _Files:
    """Both files and what their rows are judged by."""

    baseline: Path
    candidate: Path
    book: RuleBook

    def scan(self) -> tuple[Rows, Rows, int]:
        """The rows of both files, and how many processes they are worth."""
        size = sum(path.stat().st_size for path in (self.baseline, self.candidate) if path.is_file())
        processes = cores() if size > SMALL else 1
        found = []
        for path in (self.baseline, self.candidate):
            found.append(scan(path, partial(self._refuse, path), processes))
            if not len(found[-1]):
                raise DataError(path, None, "the file has no rows", next=SHAPE)
        return found[0], found[1], processes

    def judge(self, pairs: Pairs) -> Judged:
        """A chunk of pairs: their checks, digests of their questions, the clusters that they name."""
        found = [self._item(Place(*pair[:3]), Place(*pair[3:])) for pair in pairs.tolist()]
        items, first, second, clusters = (list(column) for column in zip(*found, strict=True))
        questions = b"".join(digest(rows.question_of(item.messages, item.turn.facts)) for item in items)
        return check_all(self.book, items, first, second), questions, clusters

    def name(self, file: Rows, row: int) -> str:
        """The id of a row that is in order but for it; raises what else is wrong with it first."""
        place = file.place(row)
        return str(self._read(file.path, place).row["id"])

    def _refuse(self, path: Path, place: Place) -> None:
        row = rows.read_row(path, place.line, self._line(path, place), SHAPE)
        if "id" not in row:
            raise DataError(path, place.line, "id is missing", next=SHAPE)
        self._checked(path, place.line, row)

    @cached_property
    def _descriptors(self) -> dict[Path, int]:
        return {path: os.open(path, os.O_RDONLY) for path in {self.baseline, self.candidate}}

    def close(self) -> None:
        """Close the files."""
        for descriptor in self.__dict__.pop("_descriptors", {}).values():
            os.close(descriptor)

    def _line(self, path: Path, place: Place) -> bytes:
        return os.pread(self._descriptors[path], place.length, place.offset)

    def _read(self, path: Path, place: Place) -> _Row:
        return self._checked(path, place.line, rows.read_row(path, place.line, self._line(path, place), SHAPE))

    def _checked(self, path: Path, number: int, row: Mapping[str, Any]) -> _Row:
        turn = read_turn(path, number, row, self.book, KNOWN, SHAPE)
        return _Row(number, row, turn, self._answer(path, number, row))

    def _answer(self, path: Path, number: int, row: Mapping[str, Any]) -> Answer:
        truncated = row.get("truncated", False)
        if not isinstance(truncated, bool):
            raise DataError(path, number, f"truncated is {truncated!r}, not true or false", next=SHAPE)
        return Answer(_reply(path, number, row, self.book), truncated)

    def _item(self, one: Place, two: Place) -> tuple[Item, Answer, Answer, str | None]:
        """A pair of rows as an item, both answers and the cluster that is named."""
        first = self._read(self.baseline, one)
        row = rows.read_row(self.candidate, two.line, self._line(self.candidate, two), SHAPE)
        if _repeats(first.row, row):  # what was checked once need not be again
            second = _Row(two.line, row, first.turn, self._answer(self.candidate, two.line, row))
        else:
            second = self._checked(self.candidate, two.line, row)
        name = str(first.row["id"])
        for key in QUESTION:
            if (first.row.get(key) or None) != (second.row.get(key) or None):
                where = f"{self.baseline}:{first.line}"
                what = f"{key} of id {name!r} differ from {where}"
                raise DataError(self.candidate, second.line, what, next=_PAIRED)
        expected, cluster = (_either(key, name, first, second, self.candidate) for key in ("expected", "cluster"))
        match = expected.get("match", "exact") if expected else ""
        answer = expected.get("answer") if expected else None
        item = Item(name, first.turn.messages, first.turn, answer, match, "")
        return item, first.answer, second.answer, None if cluster is None else str(cluster)


def _repeats(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether all that a row says besides its reply stands in the other row too."""
    return all(key in ("reply", "truncated") or (key in first and first[key] == second[key]) for key in second)


def _reply(path: Path, number: int, row: Mapping[str, Any], book: RuleBook) -> str:
    reply = row.get("reply")
    if isinstance(reply, str):
        return reply
    if not isinstance(reply, dict):
        what = rows.kind(reply) if "reply" in row else "missing"
        raise DataError(path, number, f"reply is {what}, not a text or an object", next=SHAPE)
    if book.contract is None:
        raise DataError(
            path, number, "reply is an object, but the rule file has no contract", next="add contract: to the rule file"
        )
    return json.dumps(reply, ensure_ascii=False)


_PAIRED = "a paired comparison needs the same question on both sides"


def _either(key: str, name: str, first: _Row, second: _Row, candidate: Path) -> Any:
    mine, other = first.row.get(key), second.row.get(key)
    if mine is not None and other is not None and mine != other:
        raise DataError(candidate, second.line, f"{key} of id {name!r} differs between the files", next=_PAIRED)
    return mine if mine is not None else other


def _join_clusters(questions: bytes, named: Sequence[str | None]) -> NDArray[np.int32]:
    """``[items]``: one number for all items that ask the same question or share a cluster's name, transitively."""
    _, asked = np.unique(digests(questions), return_inverse=True)
    leader = list(range(int(asked.max()) + 1))

    def root(number: int) -> int:
        while leader[number] != number:
            leader[number] = number = leader[leader[number]]
        return number

    first: dict[str, int] = {}
    for question, name in zip(asked.tolist(), named, strict=True):
        if name is not None:
            leader[root(question)] = root(first.setdefault(name, question))
    return np.array([root(number) for number in range(len(leader))], np.int32)[asked]
