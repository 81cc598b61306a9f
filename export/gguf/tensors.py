"""A model's tensors in GGUF: names, shapes, and values as llama.cpp's graph wants them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError
from export.checkpoint import Checkpoint
from export.gguf.layout import Layout

_SAVE = "save the model again with save_pretrained"


@dataclass(frozen=True)
class Tensor:
    """One tensor to write: of the source's rows those from ``first`` on, as ``(source + plus) * factor``."""

    source: str
    name: str
    shape: tuple[int, ...]
    """[rows, columns] or [n]."""
    head_dim: int = 1
    """Rows that the rotary permutation mixes; 1 for none."""
    turned: bool = False
    """The source is stored [in, out]."""
    first: int = 0
    plus: float = 0.0
    factor: float = 1.0

    @property
    def module(self) -> str:
        """Name of the Hugging Face module."""
        return self.source.rpartition(".")[0]

    def values(self, checkpoint: Checkpoint, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows ``start``..``stop`` as float32 [stop - start, columns]; whole heads; a vector counts as one row."""
        rows = checkpoint.rows(self.source, self.first + start, self.first + stop, turned=self.turned)
        if self.plus or self.factor != 1:
            rows = (rows + np.float32(self.plus)) * np.float32(self.factor)
        return permute_rotary(rows, self.head_dim) if self.head_dim > 1 else rows


def permute_rotary(rows: npt.NDArray[Any], head_dim: int) -> npt.NDArray[Any]:
    """Per head: row order (first half, second half) -> (pairs i, i + half), for [heads * head_dim, in] or [1, n]."""
    flat = rows.reshape(-1, head_dim, rows.shape[1] if rows.shape[0] > 1 else 1)
    halves = flat.reshape(flat.shape[0], 2, head_dim // 2, flat.shape[2])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def tensors_of(layout: Layout, checkpoint: Checkpoint) -> list[Tensor]:
    """Every tensor to write, in llama.cpp's order (outside the blocks by name, then block by block).

    Raises ArtifactError for a tensor that is missing or has no place in the graph (``checkpoint`` holds only what
    config.json describes, in its sizes).
    """
    have = set(checkpoint.names())
    lines = _Lines(layout, have)
    found = [tensor for line in layout.row.outside.splitlines() for tensor in lines.tensor(line, "", "")]
    for block in range(layout.layers):
        place = f"{lines.prefix}{layout.row.stack}.{block}.", f"blk.{block}."
        found += [tensor for line in layout.row.block.splitlines() for tensor in lines.tensor(line, *place)]
    _refuse_strays({t.source for t in found}, have)
    return sorted(found, key=lambda t: (_block(t.name), t.name))


class _Lines:
    """Reads the lines of a tensor list for one folder."""

    def __init__(self, layout: Layout, have: set[str]) -> None:
        self.layout, self.have = layout, have
        embedding = next(line.split()[0] for line in layout.row.outside.splitlines() if line)
        bare = embedding.removeprefix(layout.row.prefix)
        self.prefix = "" if bare in have and embedding not in have else layout.row.prefix

    def tensor(self, line: str, source: str, target: str) -> list[Tensor]:
        """The tensor that a line stands for; none if it may be absent."""
        words = line.split()
        if not words:
            return []
        flags = {word for word in words[2:] if word[0] in "@+" or word.islower()}
        shape = tuple(self.size(word) for word in words[2:] if word not in flags)
        name = source + words[0] if source else self.outside(words[0])
        if name not in self.have:
            if "optional" in flags:
                return []
            raise ArtifactError(f"the weights hold no {name}", next=_SAVE)
        total, first = next((word[1:].split(":") for word in flags if word[0] == "@"), ("", ""))
        row = self.layout.row
        return [
            Tensor(
                name,
                target + words[1],
                shape,
                head_dim=self.layout.head_dim if row.pairs and "rotary" in flags else 1,
                turned="turned" in flags,
                first=self.size(first) if total else 0,
                plus=1.0 if "+1" in flags else 0.0,
                factor=self.layout.query_factor if "query" in flags else 1.0,
            )
        ]

    def outside(self, name: str) -> str:
        """A whole name as this folder spells it."""
        prefix = self.layout.row.prefix
        return self.prefix + name.removeprefix(prefix) if name.startswith(prefix) else name

    def size(self, expression: str) -> int:
        """The value of ``Q+2K`` or of a number."""
        parts = re.findall(r"(\d*)([A-Z]?)", expression)
        return sum(int(n or 1) * self.layout.dims.get(letter, 1) for n, letter in parts if n or letter)


def _refuse_strays(found: set[str], have: set[str]) -> None:
    strays = sorted(have - found)
    if strays:
        more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
        raise ArtifactError(
            f"the weights hold {strays[0]}{more}, which llama.cpp's graph does not compute",
            next="use another runtime, or extend the tensor list in export/gguf/names.py",
        )


def _block(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else -1
