"""The header of a GGUF file, read with every length checked against the file before it is believed.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian)::

    "GGUF"  uint32 version  uint64 tensors  uint64 pairs
    pairs:    string key, uint32 type, value
    tensors:  string name, uint32 dimensions, uint64 each (columns first), uint32 type, uint64 offset
    padding to ``general.alignment`` (32 by default), then the tensors' data; offsets count from there

Native readers trust more than they check: a file that claims 2^60 tensors, or a key of another type than
expected, ends in an abort and not in an error. Nothing here takes more time or memory than the file is long.
"""

from __future__ import annotations

import math
import mmap
import struct
import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ArtifactError

MAX_DIMENSIONS = 4
MAX_DEPTH = 4
"""Arrays inside arrays."""
MAX_NAME = 63
"""Bytes of a tensor's name (GGML_MAX_NAME less its end)."""
ALIGNMENT = 32

TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}
"""``enum ggml_type`` -> (name, weights per block, bytes per block)."""

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
"""``enum gguf_type`` -> code of the modules array and struct; the widths are the same in both."""
VALUE_TYPES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "arr", "u64", "i64", "f64")
"""Names of ``enum gguf_type``, by number."""


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of the table: ``shape`` as GGUF writes it (columns first), ``start`` in bytes of the file."""

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True)
class GgufHeader:
    """All of a file but the tensors' data. Arrays of numbers are ``array.array``, of strings lists."""

    path: Path
    version: int
    metadata: Mapping[str, Any]
    types: Mapping[str, str]
    """Type of each key: ``u32``, ``str``, ``arr[i32]``, …"""
    tensors: Mapping[str, GgufTensor]
    data_offset: int


def read_gguf(path: Path | str) -> GgufHeader:
    """The header of ``path``. Raises ArtifactError naming the file and the place that is wrong."""
    path = Path(path)
    try:
        if not path.is_file():
            raise ArtifactError(f"{path} is not a file", next="check the path")
        with open(path, "rb") as handle:
            if handle.read(4) != b"GGUF":
                _refuse(path, "it does not begin with 'GGUF'")
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data).header()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})", next="check the file") from None


def _refuse(path: Path, what: str) -> NoReturn:
    raise ArtifactError(f"{path} is not a valid GGUF file: {what}", next="copy or export the file again")


class _Reader:
    """A place in the file that only moves forward."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.size, self.at = path, data, len(data), 4

    def fail(self, what: str) -> NoReturn:
        _refuse(self.path, f"{what} (at byte {self.at} of {self.size})")

    def header(self) -> GgufHeader:
        version = self.number("I")
        if version not in (2, 3):
            self.fail(f"version {version}, and only 2 and 3 are known" + (" (big-endian?)" if version >= 2**16 else ""))
        tensors, pairs = self.number("Q"), self.number("Q")
        self.claim(pairs * 14 + tensors * 25, f"{pairs} keys and {tensors} tensors")
        metadata, types = self.pairs(pairs)
        alignment = self.alignment(metadata, types)
        table = [self.tensor() for _ in range(tensors)]
        start = -(-self.at // alignment) * alignment
        return GgufHeader(self.path, version, metadata, types, self.placed(table, start, alignment), start)

    def claim(self, count: int, what: str) -> None:
        """Fail unless ``count`` bytes are left: asked before anything of that size is made or walked through."""
        if count > self.size - self.at:
            self.fail(f"the file is too short for {what}")

    def number(self, code: str) -> Any:
        size = struct.calcsize(f"<{code}")
        self.claim(size, "the number that belongs here")
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += size
        return value

    def text(self, what: str) -> str:
        length = self.number("Q")
        self.claim(length, f"{what} of {length} bytes")
        raw = self.data[self.at : self.at + length]
        self.at += length
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            self.fail(f"{what} is not UTF-8 ({error.reason})")

    def name(self, what: str, known: Mapping[str, Any] | set[str]) -> str:
        name = self.text(f"the name of a {what}")
        if not name or "\0" in name or name in known:
            self.fail(f"{what} {name!r} is {'there twice' if name in known else 'no valid name'}")
        return name

    def pairs(self, count: int) -> tuple[dict[str, Any], dict[str, str]]:
        metadata: dict[str, Any] = {}
        types: dict[str, str] = {}
        for _ in range(count):
            key = self.name("key", metadata)
            kind = self.kind(key)
            if kind == _ARRAY:
                element, metadata[key] = self.elements(key, 1)
                types[key] = f"arr[{VALUE_TYPES[element]}]"
            else:
                metadata[key], types[key] = self.scalar(key, kind), VALUE_TYPES[kind]
        return metadata, types

    def kind(self, key: str) -> int:
        kind: int = self.number("I")
        if kind >= len(VALUE_TYPES):
            self.fail(f"{key} has the unknown type {kind}")
        return kind

    def scalar(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            return self.text(key)
        value = self.number(_SCALARS[kind])
        if kind == _BOOL and value > 1:
            self.fail(f"{key} is neither true nor false but {value}")
        return bool(value) if kind == _BOOL else value

    def elements(self, key: str, depth: int) -> tuple[int, Any]:
        kind, count = self.kind(key), self.number("Q")
        if depth > MAX_DEPTH:
            self.fail(f"{key} nests arrays deeper than {MAX_DEPTH}")
        if kind == _ARRAY:
            self.claim(count * 12, f"{key}: {count} arrays")
            return kind, [self.elements(key, depth + 1)[1] for _ in range(count)]
        if kind == _STRING:
            self.claim(count * 8, f"{key}: {count} strings")
            return kind, self.texts(key, count)
        return kind, self.numbers(key, kind, count)

    def texts(self, key: str, count: int) -> list[str]:
        """As `text`, in one loop: a vocabulary has some 10^5 of them."""
        unpack, data, size, at, found = struct.Struct("<Q").unpack_from, self.data, self.size, self.at, []
        for number in range(count):
            end = at + 8 + unpack(data, at)[0] if at + 8 <= size else size + 1
            self.at = at
            if end > size:
                self.fail(f"the file is too short for string {number} of {key}")
            try:
                found.append(data[at + 8 : end].decode())
            except UnicodeDecodeError as error:
                self.fail(f"string {number} of {key} is not UTF-8 ({error.reason})")
            at = end
        self.at = at
        return found

    def numbers(self, key: str, kind: int, count: int) -> array[Any]:
        values = array(_SCALARS[kind])
        self.claim(count * values.itemsize, f"{key}: {count} numbers")
        values.frombytes(self.data[self.at : self.at + count * values.itemsize])
        self.at += count * values.itemsize
        if sys.byteorder == "big":
            values.byteswap()
        if kind == _BOOL and count and max(values) > 1:
            self.fail(f"{key} holds values that are neither true nor false")
        return values

    def alignment(self, metadata: Mapping[str, Any], types: Mapping[str, str]) -> int:
        key = "general.alignment"
        value = metadata.get(key, ALIGNMENT)
        if types.get(key, "u32") != "u32" or not 8 <= value <= 2**20 or value & (value - 1):
            self.fail(f"{key} is {value!r}, not a power of two from 8 to 2^20 stored as u32")
        return int(value)

    def tensor(self) -> tuple[str, str, tuple[int, ...], int, int]:
        """Name, type, shape, offset and bytes of the next row of the table."""
        name = self.text("the name of a tensor")
        if not name or "\0" in name or len(name.encode()) > MAX_NAME:
            self.fail(f"tensor name {name[:MAX_NAME]!r} is empty, too long or holds a zero byte")
        rank = self.number("I")
        if rank > MAX_DIMENSIONS:
            self.fail(f"{name} has {rank} dimensions, and at most {MAX_DIMENSIONS} are known")
        shape = tuple(self.number("Q") for _ in range(rank))
        number, offset = self.number("I"), self.number("Q")
        if number not in TENSOR_TYPES:
            self.fail(f"{name} has the unknown type {number}")
        kind, block, width = TENSOR_TYPES[number]
        columns = shape[0] if shape else 1
        if columns % block:
            self.fail(f"{name} is {kind} with rows of {columns}, no multiple of {block}")
        return name, kind, shape, offset, math.prod(shape) // block * width

    def placed(
        self, table: list[tuple[str, str, tuple[int, ...], int, int]], start: int, alignment: int
    ) -> dict[str, GgufTensor]:
        """The table by name, once no two tensors overlap and all lie inside the file."""
        found: dict[str, GgufTensor] = {}
        for name, kind, shape, offset, nbytes in table:
            if name in found:
                self.fail(f"tensor {name} is there twice")
            tensor = found[name] = GgufTensor(name, kind, shape, start + offset, nbytes)
            if offset % alignment:
                self.fail(f"{name} does not begin at a multiple of {alignment}")
            if nbytes and tensor.start + nbytes > self.size:
                self.fail(f"{name} ends at byte {tensor.start + nbytes}: the file is truncated")
        end, last = start, ""
        for tensor in sorted((t for t in found.values() if t.nbytes), key=lambda t: t.start):
            if tensor.start < end:
                self.fail(f"{tensor.name} overlaps {last}")
            end, last = tensor.start + tensor.nbytes, tensor.name
        return found
