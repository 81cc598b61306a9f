"""The header of a safetensors file, checked by hand before anything is believed or written.

Format (https://github.com/huggingface/safetensors#format): 8 bytes little-endian header length, a JSON header
``{name: {dtype, shape, data_offsets}}``, then the tensors without gaps, to the end of the file.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from compress.errors import ArtifactError
from compress.json_files import AGAIN

MAX_HEADER = 100_000_000
"""Bytes, as in the format's own library."""
_BITS = {
    **dict.fromkeys(("BOOL", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "F8_E8M0", "I8", "U8"), 8),
    **dict.fromkeys(("BF16", "F16", "I16", "U16"), 16),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: ``start`` in bytes of the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return math.prod(self.shape) * _BITS[self.dtype] // 8


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def read_header(path: Path) -> dict[str, Entry]:
    """Tensor entries of one file. Raises ArtifactError that names the file and what is wrong in it."""
    try:
        with open(path, "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            first = handle.read(8)
            if first == b"version ":
                raise ArtifactError(f"{path} is a Git LFS pointer, not the file itself", next="run git lfs pull")
            length = int.from_bytes(first, "little")
            if size < 8 or length > min(MAX_HEADER, size - 8):
                raise ArtifactError(f"{path} is truncated or not a safetensors file", next=AGAIN)
            header = json.loads(handle.read(length).decode(), object_pairs_hook=_each_once)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})", next="check the file") from None
    except (ValueError, RecursionError) as error:
        _refuse(path, str(error))
    if not isinstance(header, dict):
        _refuse(path, "it is no JSON object")
    _check_metadata(path, header.pop("__metadata__", {}))
    spans = {name: _span(path, name, value) for name, value in header.items()}
    _check_spans(path, {name: (start, end) for name, (_, _, start, end) in spans.items()}, size - 8 - length)
    return {name: Entry(path, dtype, shape, 8 + length + start) for name, (dtype, shape, start, _) in spans.items()}


def _refuse(path: Path, what: str) -> NoReturn:
    raise ArtifactError(f"the header of {path} is corrupt: {what}", next=AGAIN)


def _check_metadata(path: Path, value: Any) -> None:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        _refuse(path, "__metadata__ is not a mapping of texts")


def _span(path: Path, name: str, value: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape and first and last byte of the data, once they agree."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"{name!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ArtifactError(
            f"tensor {name!r} of {path} has the type {dtype!r}, which is not known here",
            next="save the model in bfloat16",
        )
    if not (_whole(shape) and _whole(offsets) and len(offsets) == 2):
        _refuse(path, f"shape or offsets of {name!r} are not whole numbers from 0 to 2^63")
    start, end = offsets
    if (end - start) * 8 != math.prod(shape) * _BITS[dtype]:
        _refuse(path, f"{name!r} is {dtype} {shape}, which does not fit its bytes {start}..{end}")
    return dtype, tuple(shape), start, end


def _whole(values: Any) -> bool:
    return isinstance(values, list) and len(values) <= 16 and all(type(n) is int and 0 <= n < 2**63 for n in values)


def _check_spans(path: Path, spans: dict[str, tuple[int, int]], size: int) -> None:
    """The tensors follow one another without gap or overlap, and end where the file does."""
    at, last = 0, "the header"
    for name, (start, end) in sorted(spans.items(), key=lambda item: item[1]):
        if start != at:
            _refuse(path, f"{name!r} {'overlaps' if start < at else 'leaves a gap behind'} {last}")
        at, last = end, repr(name)
    if at > size:
        raise ArtifactError(
            f"{path} is truncated: {last} ends at byte {at} of the data, the file at {size}", next=AGAIN
        )
    if at < size:
        _refuse(path, f"{size - at} bytes behind the last tensor belong to none")
