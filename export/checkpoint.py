"""Weights of a Hugging Face or GPTQ folder, row by row, without torch.

A safetensors header is read and checked by hand (sizes, offsets, types), so a truncated or mangled
file is an ArtifactError before anything is written; then rows come straight from the file.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError

MAX_HEADER = 100_000_000
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_WIDTH = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_AGAIN = "copy or download the model again"


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


class Checkpoint:
    """The tensors of a folder by their Hugging Face names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_config(folder)
        self.entries: dict[str, Entry] = {}
        for path in _shards(folder):
            for name, entry in read_header(path).items():
                if name in self.entries:
                    raise ArtifactError(f"{path} and {self.entries[name].path} both hold {name}", next=_AGAIN)
                self.entries[name] = entry

    def names(self) -> list[str]:
        """Names of the float tensors, sorted; the weights of GPTQ linears under their plain names."""
        return sorted(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """[out, in] of a matrix, [n] of a vector."""
        return self.entries[name].shape

    def rows(self, name: str, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows ``start``..``stop`` as float32 [stop - start, in]; a vector counts as one row."""
        entry = self.entries[name]
        if entry.dtype not in _FLOATS:
            raise ArtifactError(f"{name} in {entry.path} has type {entry.dtype}; weights must be {', '.join(_FLOATS)}")
        columns = entry.shape[-1]
        raw = self.raw(name, start * columns, (stop - start) * columns)
        return as_float32(raw, entry.dtype).reshape(stop - start, columns)

    def raw(self, name: str, first: int, count: int) -> npt.NDArray[Any]:
        """``count`` stored values of a tensor from flat index ``first`` (bfloat16 as uint16)."""
        entry = self.entries[name]
        kind = np.dtype(_FLOATS.get(entry.dtype) or {"I64": "<i8", "I32": "<i4", "I16": "<i2"}.get(entry.dtype, "u1"))
        with open(entry.path, "rb") as handle:
            handle.seek(entry.start + first * kind.itemsize)
            values = np.fromfile(handle, dtype=kind, count=count)
        if values.size != count:
            raise ArtifactError(f"{entry.path} ended while {name} was read", next=_AGAIN)
        return values


def as_float32(raw: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    """Stored values -> float32; bfloat16 is the upper half of a float32."""
    if dtype == "BF16":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.astype(np.float32, copy=False)


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` as a dictionary."""
    return read_json(folder / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or ArtifactError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist", next="give a complete Hugging Face folder") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not JSON ({error})", next=_AGAIN) from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} holds no JSON object", next=_AGAIN)
    return value


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        mapping = read_json(index).get("weight_map")
        if not isinstance(mapping, dict) or not all(isinstance(v, str) and Path(v).name == v for v in mapping.values()):
            raise ArtifactError(f"{index} has no valid weight_map", next=_AGAIN)
        paths = [folder / name for name in sorted(set(mapping.values()))]
    else:
        paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ArtifactError(f"{folder} holds no *.safetensors file", next="save the model with safe_serialization=True")
    for path in paths:
        if not path.is_file():
            raise ArtifactError(f"{path} is missing: {index.name} names it", next=_AGAIN)
    return paths


def read_header(path: Path) -> dict[str, Entry]:
    """Tensor entries of a safetensors file: 8 bytes length, JSON, data; every offset is checked against the file."""
    size = os.path.getsize(path)
    with open(path, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise ArtifactError(f"{path} is truncated or not a safetensors file", next=_AGAIN)
        try:
            header = json.loads(handle.read(length))
            entries = {
                name: _entry(path, value, 8 + length) for name, value in header.items() if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactError(f"the header of {path} is corrupt ({error})", next=_AGAIN) from None
    for name, entry in entries.items():
        end = entry.start + math.prod(entry.shape) * _WIDTH[entry.dtype]
        if end > size:
            raise ArtifactError(f"{path} is truncated: {name} ends at byte {end}, the file at {size}", next=_AGAIN)
    return entries


def _entry(path: Path, value: dict[str, Any], base: int) -> Entry:
    dtype, shape, (start, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
    if dtype not in _WIDTH:
        raise ArtifactError(f"{path} holds type {dtype}, which is not read here", next="save the model in bfloat16")
    whole = all(isinstance(n, int) and n >= 0 for n in (*shape, start, end))
    if not whole or end - start != math.prod(shape) * _WIDTH[dtype]:
        raise ValueError(f"shape {list(shape)} does not fit its bytes {start}..{end}")
    return Entry(path, dtype, shape, base + start)
