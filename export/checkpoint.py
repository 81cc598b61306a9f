"""Weights of a Hugging Face or GPTQ folder, row by row, without torch.

Headers are checked first (``compress/model/safetensors_header.py``), so a truncated or mangled file is an
ArtifactError before anything is written; then rows come straight from the file.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError
from compress.model.coded import require_groups
from compress.model.config import read_config
from compress.model.tensors import FLOATS, as_float32, held, read_floats, read_stored


class Checkpoint:
    """The tensors of a folder by their Hugging Face names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        model = held(folder)
        self.config, self.entries = model.config, model.entries

    def names(self) -> list[str]:
        """Names of the float tensors, sorted; the weights of GPTQ linears under their plain names."""
        return sorted(self.entries)

    def shape(self, name: str, *, turned: bool = False) -> tuple[int, ...]:
        """[out, in] of a matrix, [n] of a vector. ``turned``: the model stores it as [in, out] (GPT-2's Conv1D)."""
        shape = self.entries[name].shape
        return shape[::-1] if turned else shape

    def rows(self, name: str, start: int, stop: int, *, turned: bool = False) -> npt.NDArray[np.float32]:
        """Rows ``start``..``stop`` as float32 [stop - start, in]; a vector counts as one row."""
        self.require_float(name)
        entry = self.entries[name]
        columns = entry.shape[-1]
        if turned:
            whole = read_floats(entry, 0, math.prod(entry.shape)).reshape(entry.shape)
            return np.ascontiguousarray(finite(name, whole)[:, start:stop].T)
        values = read_floats(entry, start * columns, (stop - start) * columns)
        return finite(name, values).reshape(stop - start, columns)

    def require_float(self, name: str) -> None:
        """Raise ArtifactError unless ``name`` is stored in (or stands for) floating point."""
        entry = self.entries[name]
        if entry.dtype not in FLOATS:
            raise ArtifactError(
                f"{name} in {entry.path} has type {entry.dtype}; weights must be {', '.join(FLOATS)}",
                next="save the model in bfloat16",
            )

    def raw(self, name: str, first: int, count: int) -> npt.NDArray[Any]:
        """``count`` stored values of a tensor from flat index ``first`` (bfloat16 as uint16)."""
        entry = self.entries[name]
        kind = FLOATS.get(entry.dtype) or {"I64": "<i8", "I32": "<i4", "I16": "<i2"}.get(entry.dtype, "u1")
        return read_stored(entry, kind, first, count)


class GptqCheckpoint(Checkpoint):
    """A GPTQ folder: linears stored as qweight, qzeros, scales and g_idx are read as the weights they stand for.

    AutoGPTQ's layout: qweight int32 [in * bits / 32, out], qzeros int32 [groups, out * bits / 32] holding z - 1
    (z with ``checkpoint_format: gptq_v2``), scales [groups, out], g_idx int32 [in]; weight[o, i] =
    scales[g_idx[i], o] * (q[i, o] - z[g_idx[i], o]), which is exact in float32.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        settings = self.config.get("quantization_config") or {}
        self._zero_shift = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
        self._packed = sorted(n.removesuffix("qweight") for n in self.entries if n.endswith(".qweight"))
        self._rows = lru_cache(maxsize=1)(self._dequantized)

    def names(self) -> list[str]:
        """Names of the weights, sorted."""
        parts = {module + part for module in self._packed for part in ("qweight", "qzeros", "scales", "g_idx")}
        return sorted((set(self.entries) - parts) | {f"{module}weight" for module in self._packed})

    def shape(self, name: str, *, turned: bool = False) -> tuple[int, ...]:
        """[out, in] of a matrix, [n] of a vector; codes are stored [in, out] for every kind of linear."""
        module = name.removesuffix("weight")
        if module not in self._packed:
            return super().shape(name, turned=turned)
        return self.entries[f"{module}qweight"].shape[1], self.entries[f"{module}g_idx"].shape[0]

    def rows(self, name: str, start: int, stop: int, *, turned: bool = False) -> npt.NDArray[np.float32]:
        """Rows as float32, dequantized where the folder holds codes."""
        if name.removesuffix("weight") not in self._packed:
            return super().rows(name, start, stop, turned=turned)
        return self._rows(name.removesuffix("weight"))[start:stop]

    def require_float(self, name: str) -> None:
        """Raise ArtifactError unless ``name`` is stored in (or stands for) floating point."""
        if name.removesuffix("weight") not in self._packed:
            super().require_float(name)

    def parts(self, module: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16], npt.NDArray[Any]]:
        """Codes uint8 [out, in], zero points int16 and scales [out, groups] of ``module`` (ends in ``.``)."""
        out, columns = self.shape(f"{module}weight")
        packed, zeros = self._all(f"{module}qweight"), self._all(f"{module}qzeros")
        bits = packed.shape[0] * 32 // columns
        codes = unpack(np.ascontiguousarray(packed.T), bits)
        stored = unpack(zeros, bits)[:, :out].T.astype(np.int16)
        scales = finite(f"{module}scales", self._all(f"{module}scales"))
        return codes, (stored + self._zero_shift) & (2**bits - 1), scales.T

    def groups(self, module: str) -> npt.NDArray[np.int32]:
        """g_idx int32 [in]: the group of each input."""
        index: npt.NDArray[np.int32] = self._all(f"{module}g_idx")
        require_groups(module[:-1], int(index.min()), int(index.max()), self.entries[f"{module}scales"].shape[0])
        return index

    def _all(self, name: str) -> npt.NDArray[Any]:
        entry = self.entries[name]
        values = self.raw(name, 0, math.prod(entry.shape))
        return (as_float32(values, entry.dtype) if entry.dtype == "BF16" else values).reshape(entry.shape)

    def _dequantized(self, module: str) -> npt.NDArray[np.float32]:
        codes, zeros, scales = self.parts(module)
        group = self.groups(module)
        return (codes - zeros[:, group]).astype(np.float32) * scales.astype(np.float32)[:, group]


def open_checkpoint(folder: Path) -> Checkpoint:
    """The folder's weights, dequantized when it is a GPTQ folder."""
    settings = read_config(folder).get("quantization_config")
    method = (settings or {}).get("quant_method")
    if settings and method != "gptq":
        raise ArtifactError(f"{folder} is quantized by {method!r}", next="export the full-precision or the GPTQ folder")
    return GptqCheckpoint(folder) if method else Checkpoint(folder)


def unpack(words: npt.NDArray[np.int32], bits: int) -> npt.NDArray[np.uint8]:
    """int32 [n, words] -> uint8 [n, words * 32 / bits]: a row is one stream of bits, lowest first."""
    parts = np.ascontiguousarray(words).view(np.uint8)
    if bits != 3:
        split = [(parts >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
        return np.stack(split, axis=-1).reshape(words.shape[0], -1).astype(np.uint8, copy=False)
    stream = np.unpackbits(parts, axis=1, bitorder="little")
    grouped = stream.reshape(words.shape[0], -1, bits)
    return (grouped << np.arange(bits, dtype=np.uint8)).sum(2, dtype=np.uint8)


def finite(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``values`` of the tensor ``name``; ArtifactError if one is NaN or infinite."""
    if not np.isfinite(values).all():
        raise ArtifactError(f"{name} holds NaN or infinity", next="train or merge the model again")
    return values
