"""Weights of a GGUF model under their Hugging Face names: export/gguf/tensors.py the other way round.

The tensor lists of export/gguf/names.py say what belongs where. A tensor is dequantized by ggml itself in slabs of rows
and goes into the folder before the next one is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError
from compress.model.weights import TensorSpec
from export.gguf import ggml
from export.gguf.layout import Layout
from finetune.source.gguf.keys import CHECK
from finetune.source.gguf.parts import GgufParts
from finetune.source.gguf.rope import TENSORS as ROTARY

if TYPE_CHECKING:
    import torch

SLAB = 4 * 2**20
"""Weights dequantized at a time (16 MiB as float32)."""
EXACT = frozenset({"F32", "F16"})
"""Types that bfloat16 may not hold."""
_SWITCHES = {".self_attn.": "attention_bias", ".mlp.": "mlp_bias"}


@dataclass(frozen=True)
class Origin:
    """One tensor of the folder and the one of the file that it comes from."""

    name: str
    stored: str | None
    """Name in the file; None: zeros, where a switch of config.json wants a tensor that the file does without."""
    shape: tuple[int, ...]
    """[rows, columns] or [n] in the file."""
    head_dim: int = 1
    """Rows that the file has as neighbouring pairs and the folder as halves; 1 for none."""
    turned: bool = False
    """The folder has it as [in, out]."""
    plus: float = 0.0
    """What the file's values have more."""

    def spec(self, dtype: str) -> TensorSpec:
        """As the folder stores it, in safetensors' ``dtype``."""
        return TensorSpec(self.name, dtype, self.shape[::-1] if self.turned else self.shape)


def origins(parts: GgufParts, layout: Layout) -> list[Origin]:
    """Every tensor of the folder. Raises ArtifactError for one of the file that is missing, misshapen or unknown."""
    found = [origin for line in _lines(layout) if (origin := _origin(parts, layout, *line)) is not None]
    known = {origin.stored for origin in found} | (ROTARY if layout.row.ropes else frozenset())
    strays = sorted(set(parts.tensors) - known)
    if strays:
        more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
        raise ArtifactError(f"{parts.path} holds {strays[0]}{more}, which {parts.architecture!r} does not", next=CHECK)
    return found


def _lines(layout: Layout) -> Iterator[tuple[str, str, tuple[int, ...], set[str]]]:
    """Name in the folder, name in the file, shape in the file and flags."""
    places = [(layout.row.outside, "", "")]
    stack = f"{layout.row.prefix}{layout.row.stack}"
    places += [(layout.row.block, f"{stack}.{block}.", f"blk.{block}.") for block in range(layout.layers)]
    for text, source, target in places:
        for words in (line.split() for line in text.splitlines() if line):
            flags = {word for word in words[2:] if word[0] in "@+" or word.islower()}
            shape = tuple(_size(word, layout.dims) for word in words[2:] if word not in flags)
            yield source + words[0], target + words[1], shape, flags


def _size(expression: str, dims: Mapping[str, int]) -> int:
    """The value of ``Q+2K``."""
    return sum(int(n or 1) * dims[letter] for n, letter in re.findall(r"(\d*)([A-Z])", expression))


def _origin(
    parts: GgufParts, layout: Layout, name: str, stored: str, shape: tuple[int, ...], flags: set[str]
) -> Origin | None:
    if stored not in parts.tensors:
        if "optional" not in flags:
            raise ArtifactError(f"{parts.path} lacks the tensor {stored}", next=CHECK)
        switched = any(part in name and layout.settings.get(key) for part, key in _SWITCHES.items())
        return Origin(name, None, shape) if switched else None
    if parts.shape(stored) != shape:
        what = f"{stored} has the shape {list(parts.shape(stored))}; its header says {list(shape)}"
        raise ArtifactError(f"{parts.path}: {what}", next=CHECK)
    return Origin(
        name,
        stored,
        shape,
        head_dim=layout.head_dim if layout.row.pairs and "rotary" in flags else 1,
        turned="turned" in flags,
        plus=1.0 if "+1" in flags else 0.0,
    )


def slabs(parts: GgufParts, origin: Origin, threads: int) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """(first row, float32 [rows, columns]) of the file's tensor, its ``plus`` taken off; a vector is one row.

    Raises ArtifactError for values that are not finite.
    """
    assert origin.stored is not None
    path, tensor = parts.tensors[origin.stored]
    rows = origin.shape[0] if len(origin.shape) > 1 else 1
    step = max(1, SLAB // origin.shape[-1])
    width = tensor.nbytes // rows
    for start in range(0, rows, step):
        count = min(step, rows - start)
        raw = np.fromfile(path, np.uint8, count * width, offset=tensor.start + start * width)
        values = ggml.dequantize(raw.reshape(count, width), tensor.kind, threads=threads)
        if not np.isfinite(values).all():
            raise ArtifactError(f"{parts.path}: {origin.stored} holds NaN or infinity", next=CHECK)
        yield start, values - np.float32(origin.plus) if origin.plus else values


def survives(values: npt.NDArray[np.float32]) -> bool:
    """Whether bfloat16 holds every value: the lower half of each float32 is empty."""
    return not (np.ascontiguousarray(values).view(np.uint32) & 0xFFFF).any()


def load(parts: GgufParts, origin: Origin, dtype: torch.dtype, threads: int) -> torch.Tensor:
    """The folder's tensor."""
    import torch

    whole = torch.zeros(origin.shape if len(origin.shape) > 1 else (1, *origin.shape), dtype=dtype)
    if origin.stored is not None:
        for start, values in slabs(parts, origin, threads):
            whole[start : start + len(values)] = torch.from_numpy(values)
    if origin.head_dim > 1:
        whole = _halves(whole.reshape(-1, 1 if len(origin.shape) == 1 else origin.shape[1]), origin.head_dim)
    whole = whole.reshape(origin.shape)
    return whole.T.contiguous() if origin.turned else whole


def _halves(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Per head: row order (pairs i, i + half) -> (first half, second half), for [heads * head_dim, in]."""
    return rows.reshape(-1, head_dim // 2, 2, rows.shape[1]).transpose(1, 2).contiguous()
