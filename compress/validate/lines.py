"""Where the rows of a JSONL file stand, by id: a file of any size in 40 bytes a row, read by all cores."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress import rows
from compress.errors import DataError
from compress.validate.workers import spread

BLOCK = 4 << 20
"""Bytes of a file that one process scans at a time."""
DIGEST = 16
Digests = NDArray[np.bytes_]


def digest(text: str) -> bytes:
    """16 bytes that stand for a text (BLAKE2b)."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST).digest()


def digests(joined: bytes) -> Digests:
    """``[n]`` of n digests in a row."""
    return np.frombuffer(joined, f"S{DIGEST}")


class Place(NamedTuple):
    """One row: its line (from 1), where it begins and how long it is, in bytes."""

    line: int
    offset: int
    length: int


@dataclass(frozen=True)
class Rows:
    """The rows of a file, in its order. Columns of equal length: S16, then int64."""

    path: Path
    ids: Digests
    lines: NDArray[np.int64]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> Place:
        """Where row ``row`` (from 0) stands."""
        return Place(int(self.lines[row]), int(self.offsets[row]), int(self.lengths[row]))

    def doubled(self) -> tuple[int, int] | None:
        """The first row whose id stood before, and the row where it stood."""
        order = np.argsort(self.ids, kind="stable")
        again = np.flatnonzero(self.ids[order][1:] == self.ids[order][:-1])
        if not len(again):
            return None
        at = again[np.argmin(order[again + 1])]
        return int(order[at + 1]), int(order[at])

    def find(self, other: Rows) -> NDArray[np.int64]:
        """``[len(self)]``: the row of ``other`` with the same id, or -1. ``other`` holds no id twice."""
        order = np.argsort(other.ids, kind="stable")
        at = np.minimum(np.searchsorted(other.ids[order], self.ids), len(other) - 1)
        found = order[at]
        return np.where(other.ids[found] == self.ids, found, -1)


class _Scan(NamedTuple):
    lines: int
    """Lines of the block, blank ones too."""
    ids: bytes
    places: NDArray[np.int64]
    """``[rows, 3]``: line in the block from 0, offset, length."""
    strange: Place | None
    """The first row without a readable id; its line counts from 0."""


def scan(path: Path, refuse: Callable[[Place], None], processes: int) -> Rows:
    """Find all rows of ``path``. ``refuse`` is given a row without a readable id, to raise what is wrong with it.

    Raises DataError where the file cannot be read or a row has no id.
    """
    try:
        with open(path, "rb") as handle:
            if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
                raise DataError(path, None, "is a stream, which cannot be read twice", next="write it to a file first")
            blocks = _blocks(handle)
    except OSError as error:
        raise rows.unreadable(path, error) from None
    before, ids, places = 0, bytearray(), [np.zeros((0, 3), np.int64)]
    for found in spread(partial(_scan, path), blocks, processes):
        if found.strange:
            refuse(found.strange._replace(line=before + found.strange.line + 1))
            raise DataError(path, before + found.strange.line + 1, "id is missing", next="give every row an id")
        found.places[:, 0] += before + 1
        before += found.lines
        ids += found.ids
        places.append(found.places)
    lines, offsets, lengths = np.concatenate(places).T
    return Rows(path, digests(bytes(ids)), lines, offsets, lengths)


def _blocks(handle: Any) -> list[tuple[int, int]]:
    """Begin and end of blocks that end with a line."""
    size, start, found = os.fstat(handle.fileno()).st_size, 0, []
    start = len(rows.MARK) if handle.read(len(rows.MARK)) == rows.MARK else 0
    while start < size:
        handle.seek(min(start + BLOCK, size))
        handle.readline()
        found.append((start, handle.tell()))
        start = handle.tell()
    return found


def _scan(path: Path, block: tuple[int, int]) -> _Scan:
    """Ids and places only: what else may be wrong with a row is told when it is judged."""
    with open(path, "rb") as handle:
        handle.seek(block[0])
        lines = handle.read(block[1] - block[0]).split(b"\n")
    ids, places, at = bytearray(), [], block[0]
    for number, line in enumerate(lines):
        if line.strip():
            place = Place(number, at, len(line))
            name = _id(line)
            if name is None:
                return _Scan(0, b"", np.zeros((0, 3), np.int64), place)
            ids += digest(name)
            places.append(place)
        at += len(line) + 1
    return _Scan(len(lines) - 1, bytes(ids), np.array(places, np.int64).reshape(-1, 3), None)


def _id(line: bytes) -> str | None:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    name = row.get("id") if isinstance(row, dict) else None
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        return None
    return str(name)
