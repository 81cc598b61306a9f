"""Evaluation rows whose question is in training too."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from compress.errors import DataError
from compress.rows import question_of
from finetune.data.fingerprint import Row, answered, digest, fingerprint
from finetune.data.readers import place_of

log = logging.getLogger(__name__)


class Apart:
    """Says of each evaluation row whether it may stay: its question is none that a training row answers. Remembers the
    questions of the evaluation alone, so that the training file may be of any size."""

    def __init__(
        self, overlap: str, train: Path | None, held_out: Path | None, held: Iterable[tuple[int, Row]]
    ) -> None:
        """``held``: lines and rows of the evaluation, where there is a training file as well."""
        self.overlap, self.train, self.held_out = overlap, train, held_out
        self.known: dict[bytes, int | None] = {fingerprint(row): None for _, row in held}
        self.asked: set[bytes] = set()
        self.both = 0
        self.first: tuple[int, int] | None = None

    def taught(self, line: int, row: Row) -> bool:
        """Note a training row, which may stay."""
        for question in answered(row) if self.known else ():
            if question in self.known and self.known[question] is None:
                self.known[question] = line
        return True

    def __call__(self, line: int, row: Row) -> bool:
        """Whether the evaluation row on ``line`` may stay."""
        twin = self.known.get(fingerprint(row))
        if twin is not None:
            self.both += 1
            self.first = self.first or (line, twin)
            if self.overlap != "keep":
                return False
        self.asked.add(digest(question_of(row["messages"], row.get("facts"))))
        return True

    def finish(self) -> None:
        """Raise DataError for rows that are in training too, unless they may be."""
        if self.first is None:
            return
        assert self.train is not None
        assert self.held_out is not None
        path, line = place_of(self.held_out, "eval", self.first[0])
        twin = ":".join(map(str, place_of(self.train, "train", self.first[1])))
        more = f", and {self.both - 1} more such rows" if self.both > 1 else ""
        if self.overlap == "error":
            hint = "remove it from one of them, or set overlap: drop"
            raise DataError(path, line, f"is in training too ({twin}){more}", next=hint)
        done = "left out" if self.overlap == "drop" else "kept: their results show what was learnt by heart"
        log.warning("%s:%d is in training too (%s)%s: %s", path, line, twin, more, done)
