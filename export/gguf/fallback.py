"""What becomes of a named type on rows that are no multiple of its block, and which named type serves such rows better.

K-quants and most IQ types store 256 weights a block. Rows of another length get one of llama.cpp's types of 32 a block
(``export.gguf.mix``), so a file can be far larger than its name says. Which type serves better is judged by shapes and
formats alone: a type's error is what ggml's rounding leaves of normally distributed weights, a file's is the mean over
all weights of its matrices. KL divergence grows in proportion to squared errors while they are small. Some tensors
weigh more than others, and the mixes give those more bits: so a type serves better only if it errs more on no tensor.
(SmolLM2-135M: Q5_0 has .85 of the mean error of Q4_K_M, and 1.4 times its KL.)
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from export.gguf import ggml, mix
from export.gguf.plan import Planned
from runtime.engine.gguf_file import TENSOR_TYPES

MOSTLY = 0.5
"""Share of the weights from which on a file counts as mostly fallback."""
_SAMPLE = (64, 1024)
"""Rows and columns of the weights that a type is judged on."""


class Better(NamedTuple):
    """A named type that serves the same shapes better; of two the lesser is the better one."""

    error: float
    """Its expected squared error as a part of the file's."""
    nbytes: int
    """Of all tensors."""
    name: str


@dataclass(frozen=True)
class Fallback:
    """What fell back in one file."""

    share: float
    """Of the weights of matrices, 0 to 1."""
    became: Mapping[str, float]
    """``"Q4_K > Q5_0"`` -> share of those weights, largest first."""
    nbytes: int
    """Of all tensors."""
    bits: float
    """Bits per weight of all tensors."""
    meant: float
    """The same if every row took the type that the mix names."""
    better: Better | None
    """Looked for where most weights fell back; None where nothing is clearly better."""

    def facts(self) -> dict[str, Any]:
        """For the artifact."""
        facts: dict[str, Any] = {
            "share": round(self.share, 4),
            "types": {change: round(share, 4) for change, share in self.became.items()},
            "bits_per_weight_meant": round(self.meant, 3),
        }
        if self.better:
            facts["better"] = {"type": self.better.name, "error": round(self.better.error, 2)}
        return facts

    def warning(self, file_type: str) -> str:
        """One line for the terminal."""
        changes = ", ".join(f"{change.replace(' > ', ' to ')} {share:.1%}" for change, share in self.became.items())
        line = (
            f"{self.share:.0%} of the weights stand in rows whose length {file_type} has no blocks for and fell back "
            f"({changes}): {self.bits:.2f} bits per weight instead of {self.meant:.2f}, {self.nbytes / 1e6:.1f} MB"
        )
        if self.better is None:
            return f"{line}; no other named type promises less error in that size"
        error, nbytes, name = self.better
        return f"{line}; type: {name} takes {nbytes / 1e6:.1f} MB and promises {error:.2f} of the error"


def fallback_of(plan: Sequence[Planned], file_type: str, model: mix.Model) -> Fallback | None:
    """What fell back in ``plan``, the named mix of ``file_type``; None if nothing did."""
    matrices = [p for p in plan if p.tensor and p.kind != "F32"]
    changes = _changes(matrices, file_type, model)
    if not changes:
        return None
    total, nbytes = sum(map(_weights, plan)), sum(p.nbytes for p in plan)
    share = _share(changes, matrices)
    saved = sum(count * (_bits(kind) - _bits(wanted)) for (wanted, kind), count in changes.items())
    weights = sum(map(_weights, matrices))
    became = {f"{wanted} > {kind}": count / weights for (wanted, kind), count in changes.most_common()}
    better = _better(matrices, model, nbytes) if share >= MOSTLY else None
    return Fallback(share, became, nbytes, 8 * nbytes / total, (8 * nbytes - saved) / total, better)


def _changes(matrices: Sequence[Planned], file_type: str, model: mix.Model) -> collections.Counter[tuple[str, str]]:
    """``(type that the mix names, type that the rows got)`` -> weights, where the two differ."""
    changes = collections.Counter[tuple[str, str]]()
    for p in matrices:
        wanted = mix.wanted(p.name, p.shape, file_type, model)
        if wanted != p.kind:
            changes[wanted, p.kind] += _weights(p)
    return changes


def _share(changes: collections.Counter[tuple[str, str]], matrices: Sequence[Planned]) -> float:
    return sum(changes.values()) / sum(map(_weights, matrices))


def _better(matrices: Sequence[Planned], model: mix.Model, nbytes: int) -> Better | None:
    """The best named type, itself not mostly fallback, of less expected error on some and more on none of ``matrices``,
    in no more bytes than they take, which are all but a few of ``nbytes``."""
    here, own, found = _error(matrices), sum(p.nbytes for p in matrices), []
    for name, (_, base) in mix.FILE_TYPES.items():
        other = [replace(p, kind=mix.choose(p.name, p.shape, name, model)) for p in matrices]
        size = sum(p.nbytes for p in other)
        usable = base not in ggml.PLAIN and size <= own and not any(_refused(p, name) for p in other)
        worse = any(rounding_error(o.kind) > rounding_error(p.kind) for o, p in zip(other, matrices, strict=True))
        if usable and not worse and _share(_changes(other, name, model), other) < MOSTLY:
            found.append(Better(_error(other) / here, nbytes - own + size, name))
    return min((better for better in found if better.error < 1), default=None)


def _refused(planned: Planned, file_type: str) -> bool:
    return planned.importance is None and mix.needs_importance(planned.name, planned.kind, file_type)


def _error(matrices: Sequence[Planned]) -> float:
    return sum(_weights(p) * rounding_error(p.kind) for p in matrices)


def _weights(planned: Planned) -> int:
    return planned.rows * planned.columns


def _bits(kind: str) -> float:
    _, block, size = TENSOR_TYPES[ggml.TYPE_IDS[kind]]
    return size * 8 / block


@cache
def rounding_error(kind: str) -> float:
    """Squared error of ggml's rounding to ``kind`` over the weights' squares, on normally distributed weights."""
    rows = np.random.default_rng(0).standard_normal(_SAMPLE, dtype=np.float32)
    blocks = ggml.quantize(rows, kind, np.ones(_SAMPLE[1], dtype=np.float32))
    return float(np.square(ggml.dequantize(blocks, kind) - rows).sum(dtype=np.float64) / np.square(rows).sum())
