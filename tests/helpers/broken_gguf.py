"""Damage to a valid .gguf file, in place, that leaves it loadable."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runtime.engine.gguf_file import read_gguf


def copy(path: Path, place: Path) -> Path:
    """A copy to damage."""
    place.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(path, place / "model.gguf"))


def tensor(path: Path, name: str, change: Callable[[np.ndarray], np.ndarray], kind: Any = np.uint8) -> Path:
    """Replace a tensor's stored rows ``[rows, bytes]`` (or values of ``kind``) by ``change(rows)``."""
    entry = read_gguf(path).tensors[name]
    data = np.memmap(path, np.uint8, "r+", entry.start, (entry.nbytes,))
    rows = data.view(kind).reshape(*entry.shape[:0:-1], -1)
    rows[...] = change(rows.copy())
    data.flush()
    return path


def swap_tensors(path: Path, one: str, other: str) -> Path:
    """Exchange the bytes of two tensors of one type and shape."""
    kept: list[np.ndarray] = []
    tensor(path, one, lambda rows: (kept.append(rows), rows)[1])
    tensor(path, other, lambda rows: (kept.append(rows), kept[0])[1])
    return tensor(path, one, lambda rows: kept[1])


def setting(path: Path, key: str, code: str, value: Any) -> Path:
    """Overwrite a number or flag of the header (``code`` as in struct)."""
    raw = bytearray(path.read_bytes())
    at = raw.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key) + 4
    struct.pack_into(f"<{code}", raw, at, value)
    path.write_bytes(raw)
    return path


def text(path: Path, old: bytes, new: bytes) -> Path:
    """Replace a text of the header by one of the same length, where it stands first."""
    raw = path.read_bytes()
    assert len(old) == len(new)
    assert old in raw
    path.write_bytes(raw.replace(old, new, 1))
    return path
