"""Importance matrices in llama.cpp's own files: ``export.imatrix`` writes one, ``export.gguf`` reads any.

The format is that of tools/imatrix/imatrix.cpp and common/imatrix-loader.cpp in llama.cpp: a GGUF file with
``general.type`` "imatrix", the names of the texts, chunks and their length, and for every tensor of the model
``<name>.in_sum2`` float32 [experts, in], the sum of squared inputs per column, and ``<name>.counts`` float32
[experts, 1], the rows that were summed. The older binary format (``.dat``) is read, too.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError
from export.gguf.tensors import Tensor
from runtime.engine.gguf_file import GgufHeader, GgufTensor, read_gguf

if TYPE_CHECKING:
    from compress.calibrate.reading import Calibration

FILE = "imatrix.gguf"
Floats = npt.NDArray[np.float32]
_AGAIN = "write the matrix again with llama-imatrix or export.imatrix"


@dataclass(frozen=True)
class Entry:
    """Sums float32 [experts, in] over ``counts`` float32 [experts] rows."""

    sums: Floats
    counts: Floats

    def mean(self) -> Floats:
        """Mean squared input float32 [experts * in], 1 for an expert that was never asked, as llama-quantize has it."""
        asked = self.counts[:, None] > 0
        means = np.divide(self.sums, self.counts[:, None], out=np.ones_like(self.sums), where=asked)
        return means.reshape(-1)


@dataclass(frozen=True)
class Matrix:
    """The content of a file, by GGUF tensor name."""

    entries: Mapping[str, Entry]
    datasets: Sequence[str]
    chunks: int
    length: int
    """Tokens of a chunk; 0 where the file does not say."""


def read_matrix(path: Path) -> Matrix:
    """Read either format; ``path`` may be the folder that ``export.imatrix`` made.

    Raises ArtifactError naming the file and the entry that is damaged, negative or not finite.
    """
    path = path / FILE if path.is_dir() else path
    try:
        with open(path, "rb") as handle:
            gguf = handle.read(4) == b"GGUF"
        matrix = _read_gguf(path) if gguf else _read_legacy(path)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})", next="check the path") from None
    if not matrix.entries:
        raise ArtifactError(f"{path} holds no importance of any tensor", next=_AGAIN)
    for name, entry in matrix.entries.items():
        if not (_valid(entry.sums) and _valid(entry.counts)):
            raise ArtifactError(f"{path}: the values of {name} are negative or not finite", next=_AGAIN)
    return matrix


def _valid(values: Floats) -> bool:
    return bool(np.isfinite(values).all() and (values >= 0).all())


def _read_gguf(path: Path) -> Matrix:
    header = read_gguf(path)
    kind = header.metadata.get("general.type", "model")
    if kind != "imatrix":
        raise ArtifactError(f"{path} holds a {kind}, not an importance matrix", next="give the file of llama-imatrix")
    names = [name.removesuffix(".in_sum2") for name in header.tensors if name.endswith(".in_sum2")]
    named = header.metadata.get("imatrix.datasets", [])
    return Matrix(
        {name: _entry(header, name) for name in names},
        list(named) if header.types.get("imatrix.datasets") == "arr[str]" else [],
        *(_count(header, f"imatrix.{key}") for key in ("chunk_count", "chunk_size")),
    )


def _count(header: GgufHeader, key: str) -> int:
    return int(header.metadata[key]) if header.types.get(key) in ("u32", "i32", "u64") else 0


def _entry(header: GgufHeader, name: str) -> Entry:
    sums, counts = header.tensors[f"{name}.in_sum2"], header.tensors.get(f"{name}.counts")
    if counts is None or (sums.kind, counts.kind) != ("F32", "F32"):
        raise ArtifactError(f"{header.path}: {name} lacks its counts, or is not stored in F32", next=_AGAIN)
    experts = math.prod(counts.shape)
    if not experts or math.prod(sums.shape) % experts:
        raise ArtifactError(f"{header.path}: {name} has {sums.shape} sums for {experts} counts", next=_AGAIN)
    whole = np.rint(_values(header.path, counts))
    return Entry(_values(header.path, sums).reshape(experts, -1), whole)


def _values(path: Path, tensor: GgufTensor) -> Floats:
    return np.fromfile(path, dtype="<f4", count=tensor.nbytes // 4, offset=tensor.start)


def _read_legacy(path: Path) -> Matrix:
    """int32 entries; each: int32 length, name, int32 calls, int32 values, float32 values; then int32 chunks and the
    text's name. A value is the mean times the calls."""
    data, at, entries = memoryview(path.read_bytes()), 4, {}
    try:
        (count,) = struct.unpack_from("<i", data, 0)
        for _ in range(count):
            name, at = _text(data, at)
            calls, size = struct.unpack_from("<2i", data, at)
            values = np.frombuffer(data, "<f4", size if size > 0 else len(data), at + 8)
            entries[name] = Entry(values.reshape(1, -1), np.array([max(calls, 1)], np.float32))
            at += 8 + values.nbytes
        chunks = struct.unpack_from("<i", data, at)[0] if at + 4 <= len(data) else 0
        datasets = [_text(data, at + 4)[0]] if at + 8 < len(data) else []
    except (struct.error, ValueError) as error:
        raise ArtifactError(f"{path} is no importance matrix of llama.cpp ({error})", next=_AGAIN) from None
    return Matrix(entries, datasets, chunks, 0)


def _text(data: memoryview, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<i", data, at)
    end = at + 4 + length
    if not 0 <= length <= len(data) - at - 4:
        raise ValueError(f"a name of {length} bytes")
    return bytes(data[at + 4 : end]).decode(), end


def write_matrix(path: Path, matrix: Matrix) -> None:
    """Write the GGUF format; the same matrix gives the same bytes."""
    import gguf

    class Writer(gguf.GGUFWriter):  # type: ignore[misc]
        def add_architecture(self) -> None:
            """The file belongs to no architecture."""

    writer = Writer(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", list(matrix.datasets))
    writer.add_uint32("imatrix.chunk_count", matrix.chunks)
    writer.add_uint32("imatrix.chunk_size", matrix.length)
    for name, entry in sorted(matrix.entries.items()):
        writer.add_tensor(f"{name}.in_sum2", np.ascontiguousarray(entry.sums, np.float32))
        writer.add_tensor(f"{name}.counts", entry.counts.astype(np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def matrix_of(calibration: Calibration, tensors: Sequence[Tensor], datasets: Sequence[str]) -> Matrix:
    """A calibration pass as a matrix: every tensor that is multiplied with inputs that the pass has seen."""
    means, tokens = calibration.diagonals(), np.float32(calibration.tokens)
    entries = {
        t.name: Entry((means[t.module] * tokens)[None], np.array([tokens]))
        for t in tensors
        if len(t.shape) == 2 and t.module in means
    }
    return Matrix(entries, list(datasets), calibration.index["windows"], calibration.index["length"])


def by_module(path: Path, matrix: Matrix, tensors: Sequence[Tensor]) -> dict[str, Floats]:
    """Mean squared inputs float32 [in] by Hugging Face module name.

    Raises ArtifactError when the matrix is of another model: a block's tensor that it lacks or knows too much, or
    another width. Matrices of embedding and head may be absent, or there for nothing.
    """
    wanted = {t.name: t for t in tensors if len(t.shape) == 2}
    blocks = {name for name in wanted if name.startswith("blk.")}
    given = {name for name in matrix.entries if name.startswith("blk.")}
    for names, what in ((blocks - given, "lacks"), (given - blocks, "holds, and the model does not,")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ArtifactError(f"{path} {what} {min(names)}{more}", next="give the matrix of this very model")
    found = {}
    for name in sorted(wanted.keys() & matrix.entries.keys()):
        values, columns = matrix.entries[name].mean(), wanted[name].shape[1]
        if values.shape != (columns,):
            raise ArtifactError(
                f"{path}: {name} has {values.size} values for {columns} inputs",
                next="give the matrix of this very model",
            )
        found[wanted[name].module] = awake(values)
    return found


RUN, SLIGHT, NONE = 16, 1e-3, 1e-10
"""Columns of the smallest stretch that shares a scale in any format; the importance (over the mean) of a stretch that
has none, so slight that only its own codes depend on it; and how little is none."""


def awake(values: Floats) -> Floats:
    """Importance float32 [in] >= 0 with equal weights over every ``RUN`` columns that have none at all.

    ggml stores zeros (or anything) where all importances are 0: a column that the calibration text never reached is
    not one that no text reaches.
    """
    runs = np.zeros(-(-values.size // RUN) * RUN, np.float32)
    runs[: values.size] = values
    mean = float(values.mean(dtype=np.float64))
    asleep = runs.reshape(-1, RUN).max(1) <= NONE * mean
    if not asleep.any():
        return values
    equal = np.float32(SLIGHT * mean if mean else 1)
    return np.where(asleep.repeat(RUN)[: values.size], equal, values)
