"""What a validation keeps on disk: finished segments of a killed one, and what later ones may use again.

Items are asked in segments, each from an empty cache and in batches of its own, so that a reply does not depend on
whether the segments before it were asked just now or by a process that was killed since.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from compress.extras import versions_of
from compress.json_files import digest_json

Value = TypeVar("Value")
SEGMENT = 256
"""Items asked between two writes."""
CACHE_BYTES = 4 << 30
"""Bytes of a cache above which what was not used for longest is deleted."""


def ends(count: int) -> list[int]:
    """Where the segments of ``count`` items end."""
    return [min(at + SEGMENT, count) for at in range(0, count, SEGMENT)]


class Kept:
    """Values in a file of JSON lines, one after the other; a line that a kill cut off is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: list[Any] = []
        whole = 0
        for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
            if not line.endswith(b"\n"):
                break
            self.values.append(json.loads(line))
            whole += len(line)
        with open(path, "ab") as handle:
            handle.truncate(whole)

    def get(self, number: int, make: Callable[[], Any]) -> Any:
        """Value ``number``: what is kept, or ``make()``, written before it is returned. Numbers come in order."""
        if number == len(self.values):
            value = make()
            with open(self.path, "ab") as handle:
                handle.write(json.dumps(value).encode() + b"\n")
                handle.flush()
                os.fsync(handle.fileno())
            self.values.append(value)
        return self.values[number]


def by_segment(
    kept: Kept, count: int, make: Callable[[int, int], list[Any]], stops: Iterable[int] | None = None
) -> Iterator[Any]:
    """``make(begin, end)`` of every segment of ``count`` items (or of those that end at ``stops``), one list after the
    other."""
    begin = 0
    for number, end in enumerate(ends(count) if stops is None else stops):
        yield from kept.get(number, lambda begin=begin, end=end: make(begin, end))  # type: ignore[misc]
        begin = end


@dataclass(frozen=True)
class Cache:
    """Folders below ``root`` by the digest of everything that shaped what is in them. It may be deleted at any time."""

    root: Path

    @contextmanager
    def folder(self, parts: Mapping[str, Any], libraries: Sequence[str]) -> Iterator[Path]:
        """The folder for ``parts`` made by these versions of ``libraries``, held by this process alone."""
        from filelock import FileLock

        name = digest_json({**parts, "libraries": versions_of(libraries), "gpu": _gpu()})[:32]
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / f".{name}.lock"):
            folder = self.root / name
            folder.mkdir(exist_ok=True)
            os.utime(folder)
            yield folder
        self._shrink(keep=name)

    def _shrink(self, keep: str) -> None:
        """Delete what was not used for longest until the rest takes at most ``CACHE_BYTES``."""
        from filelock import FileLock, Timeout

        folders = sorted((p for p in self.root.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
        taken = 0
        for folder in folders:
            taken += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            if taken > CACHE_BYTES and folder.name != keep:
                try:
                    with FileLock(self.root / f".{folder.name}.lock", timeout=0):
                        shutil.rmtree(folder, ignore_errors=True)
                except Timeout:
                    continue


def _gpu() -> list[Any]:
    """What decides where torch runs, without loading it."""
    return [Path("/dev/nvidiactl").exists(), os.environ.get("CUDA_VISIBLE_DEVICES")]


def take(source: Path, target: Path) -> None:
    """``source`` under the name ``target`` too; it stays when the other is deleted."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
