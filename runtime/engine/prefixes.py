"""Prefixes that outlive the process: keys and values of system prompts, in files beside the model.

A file holds one prefix: a line with the SHA-256 of all that follows, a line of JSON (what it belongs to, its tokens),
and the engine's bytes. Only what the deployment itself wrote is kept, the beginning of the prompt up to the end of the
system message; customers' words never are. A file counts only for the very model, engine version and cache types that
made it, and its hash is checked before the engine sees a byte of it. The folder is for its owner alone: whoever could
write there could hand bytes to the engine, so one that others may write to is not used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import stat
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
MAGIC = b"holdfast-prefix-1 "
SHORTEST = 64
"""Tokens below which reading a prefix again is as fast."""
MOST = 8
"""Files in a folder; the one that was used longest ago makes room."""
AT_ONCE, PAUSE = 4, 60.0
"""So many are written as they come, then one in so many seconds: a system prompt that differs each time must not keep
the disk busy."""


@dataclass(frozen=True)
class Kept:
    """One file."""

    path: Path
    tokens: tuple[int, ...]
    start: int
    """Where the engine's bytes begin."""


class Prefixes:
    """The kept prefixes of one model. All but `finish` is the decode thread's."""

    def __init__(self, folder: Path, identity: str) -> None:
        """``identity``: all that the bytes depend upon. A folder that cannot be used is said so once, and left."""
        self._folder, self._identity = folder, identity
        self._kept: dict[tuple[int, ...], Kept] = {}
        self._written: list[float] = []
        self._writer: threading.Thread | None = None
        self.usable = self._open()

    def _open(self) -> bool:
        try:
            if not self._folder.is_symlink() and not self._folder.exists():
                return True  # made when there is something to keep
            state = self._folder.lstat()
            if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
                raise OSError("it is no folder, or not its owner's alone")
            for path in sorted(self._folder.glob("*.prefix")):
                if kept := _header(path, self._identity):
                    self._kept[kept.tokens] = kept
        except OSError as error:
            log.warning("prefixes are not kept over restarts: %s cannot be used (%s)", self._folder, error)
            return False
        return True

    def longest(self, prompt: Sequence[int]) -> tuple[int, Kept | None]:
        """The file with the longest common beginning, and its length in tokens."""
        best: tuple[int, Kept | None] = (0, None)
        for kept in list(self._kept.values()):
            length = common(kept.tokens, prompt)
            if length > best[0]:
                best = (length, kept)
        return best

    def read(self, kept: Kept) -> memoryview | None:
        """The engine's bytes, checked; None (and the file is gone) when it is not what was written."""
        try:
            with kept.path.open("rb") as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            told, rest = bytes(data[len(MAGIC) : len(MAGIC) + 64]), data[len(MAGIC) + 65 :]
            if bytes(data[: len(MAGIC)]) != MAGIC or hashlib.sha256(rest).hexdigest().encode() != told:
                raise ValueError("its hash does not agree")
            os.utime(kept.path)
        except (OSError, ValueError) as error:
            log.warning("the kept prefix %s is not used: %s", kept.path, error)
            self.drop(kept)
            return None
        return data[kept.start :]

    def drop(self, kept: Kept) -> None:
        """Forget a file and remove it."""
        self._kept.pop(kept.tokens, None)
        kept.path.unlink(missing_ok=True)

    def wants(self, head: Sequence[int]) -> bool:
        """Whether a prefix that has just been read should be kept."""
        busy = self._writer is not None and self._writer.is_alive()
        early = len(self._written) >= AT_ONCE and time.monotonic() < self._written[-1] + PAUSE
        return self.usable and len(head) >= SHORTEST and not busy and not early and tuple(head) not in self._kept

    def write(self, tokens: Sequence[int], data: Any) -> None:
        """Keep the engine's bytes of a prefix; the file is written by a thread of its own."""
        self._written.append(time.monotonic())
        self._writer = threading.Thread(target=self._write, args=(tuple(tokens), data), name="holdfast-prefix")
        self._writer.start()

    def _write(self, tokens: tuple[int, ...], data: Any) -> None:
        head = json.dumps({"identity": self._identity, "tokens": tokens, "bytes": len(data)}).encode() + b"\n"
        digest = hashlib.sha256(head)
        digest.update(data)
        first = MAGIC + digest.hexdigest().encode() + b"\n"
        path = self._folder / (hashlib.sha256(head).hexdigest()[:32] + ".prefix")
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".", delete=False) as file:  # mode 0600
                file.writelines((first, head, data))
                file.flush()
                os.fsync(file.fileno())
            os.replace(file.name, path)
            self._kept[tokens] = Kept(path, tokens, len(first) + len(head))
            self._make_room()
        except OSError as error:
            self.give_up(error)

    def _make_room(self) -> None:
        files = sorted(self._folder.glob("*.prefix"), key=lambda path: path.stat().st_mtime)
        for path in files[:-MOST]:
            path.unlink(missing_ok=True)
            for kept in [kept for kept in self._kept.values() if kept.path == path]:
                self._kept.pop(kept.tokens, None)

    def give_up(self, error: Exception) -> None:
        """Keep nothing more in this process."""
        log.warning("prefixes are not kept over restarts in %s: %s", self._folder, error)
        self.usable = False

    def finish(self) -> None:
        """Wait for the file that is being written."""
        if self._writer is not None:
            self._writer.join()


def _header(path: Path, identity: str) -> Kept | None:
    """What a file says of itself; None where it belongs to something else or is damaged."""
    try:
        with path.open("rb") as file:
            first, line = file.readline(256), file.readline(1 << 22)
        told = json.loads(line)
        whole = len(first) + len(line) + told["bytes"] == path.stat().st_size
        if not path.is_symlink() and first.startswith(MAGIC) and whole and told["identity"] == identity:
            return Kept(path, tuple(map(int, told["tokens"])), len(first) + len(line))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning."""
    limit = min(len(left), len(right))
    if tuple(left[:limit]) == tuple(right[:limit]):
        return limit
    return next(i for i in range(limit) if left[i] != right[i])
