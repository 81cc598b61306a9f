"""The content-addressed store: ``<root>/<key>`` is one finished artifact.

A stage works in ``<root>/.partial/<key>`` (``out`` becomes the artifact, ``scratch`` holds its
checkpoints) under a lock that the kernel frees when its owner dies. Content is fsynced and then
renamed, so a valid name never stands for half-written content.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.artifact import Artifact, hash_files, list_files, open_artifact, seal, sha256_file
from compress.errors import UsageError
from compress.json_files import digest_json, sync, write_json

KEY_LENGTH = 32


@dataclass(frozen=True)
class Workplace:
    """Where one stage run writes."""

    root: Path

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"


class Store:
    """Artifacts by key, below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / ".partial").mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Where the artifact of ``key`` is, or will be."""
        return self.root / key

    def partial(self, key: str) -> Path:
        """Where the artifact of ``key`` is worked on."""
        return self.root / ".partial" / key

    def get(self, key: str, *, verify: bool = False) -> Artifact | None:
        """The finished artifact of ``key``; None when there is none.

        Raises ArtifactError when what is there is damaged.
        """
        return open_artifact(self.path(key), verify=verify) if self.path(key).is_dir() else None

    @contextmanager
    def workplace(self, key: str) -> Iterator[Workplace]:
        """The key's working folder, held by this process alone; ``out`` starts empty."""
        from filelock import FileLock

        locks = self.root / ".locks"
        locks.mkdir(exist_ok=True)
        with FileLock(locks / key):
            place = Workplace(self.partial(key))
            shutil.rmtree(place.out, ignore_errors=True)
            place.out.mkdir(parents=True)
            place.scratch.mkdir(exist_ok=True)
            yield place

    def commit(self, key: str, place: Workplace, **record: Any) -> Artifact:
        """Seal ``place.out``, make it durable and give it its name."""
        seal(place.out, **record)
        for path in [*list_files(place.out), *place.out.glob("*.json")]:
            sync(path)
            path.chmod(0o444)
        sync(place.out)
        os.rename(place.out, self.path(key))
        sync(self.root)
        shutil.rmtree(place.root, ignore_errors=True)
        return open_artifact(self.path(key), verify=False)

    def remove(self, key: str) -> None:
        """Forget a damaged artifact so that it is made again."""
        shutil.rmtree(self.path(key))


class Fingerprints:
    """Digests of the user's own files and folders, remembered by name, size and time of change."""

    def __init__(self, root: Path) -> None:
        self.path = root / ".fingerprints.json"
        try:
            self.known: dict[str, str] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self.known = {}

    def of(self, path: Path) -> str:
        """Digest of a file's bytes, or of a folder's content."""
        stamp = digest_json([str(path.resolve()), _stamps(path)])
        if stamp not in self.known:
            self.known[stamp] = sha256_file(path) if path.is_file() else digest_json(hash_files(path, links=True))
            write_json(self.path, self.known)
        return self.known[stamp]


def _stamps(path: Path) -> list[Any]:
    if not path.exists():
        raise UsageError(f"{path} does not exist", next="check the path")
    files = [path] if path.is_file() else [p for p in sorted(path.rglob("*")) if p.is_file()]
    stats = [(p.name, p.stat()) for p in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def run_key(parts: Mapping[str, Any]) -> str:
    """The name of an artifact: a digest of everything that shapes its bytes."""
    return digest_json(parts)[:KEY_LENGTH]


def publish(artifact: Artifact, target: Path) -> Path:
    """A copy of an artifact at ``target`` for people to take (hard links where the disk allows)."""
    staging = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(artifact.path, staging, copy_function=_link_or_copy)
    if target.exists():
        shutil.rmtree(target)
    os.rename(staging, target)
    return target


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
