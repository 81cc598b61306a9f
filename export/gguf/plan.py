"""What a GGUF file will hold: every tensor, where it comes from and how it is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError, UsageError
from export.checkpoint import Checkpoint
from export.gguf import ggml, mix
from export.gguf.layout import Layout
from export.gguf.rope import rope_tensors
from export.gguf.tensors import Tensor, tensors_of

ALIGNMENT = 32


def padded(size: int) -> int:
    """Bytes up to the next multiple of the alignment."""
    return math.ceil(size / ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Planned:
    """One tensor of the file: where it comes from and how it is stored."""

    name: str
    shape: tuple[int, ...]
    kind: str
    tensor: Tensor | None = None
    values: npt.NDArray[np.float32] | None = None
    importance: npt.NDArray[np.float32] | None = None

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return self.rows * ggml.row_bytes(self.kind, self.columns)

    @property
    def stored_bytes(self) -> int:
        """Bytes that it takes in the file."""
        return padded(self.nbytes)


def mix_model(layout: Layout, tensors: Sequence[Tensor | Planned], *, importance: bool) -> mix.Model:
    """What the mixes look at in a model of these tensors; ``importance``: an importance matrix is used."""
    return mix.Model(
        layers=layout.layers,
        heads_per_kv=layout.heads // layout.kv_heads,
        tied=all(t.name != "output.weight" for t in tensors),
        importance=importance,
        seventy=mix.is_seventy(layout.row.gguf, layout.layers, layout.heads, layout.kv_heads),
    )


def plan_tensors(
    checkpoint: Checkpoint, layout: Layout, file_type: str, importance: Mapping[str, npt.NDArray[np.float32]]
) -> list[Planned]:
    """Type and place of every tensor, in the order of the file.

    ``importance``: Hugging Face module name -> float32 [in]; empty for plain rounding.
    """
    tensors = tensors_of(layout, checkpoint)
    model = mix_model(layout, tensors, importance=bool(importance))
    planned = []
    for tensor in tensors:
        kind = mix.choose(tensor.name, tensor.shape, file_type, model)
        weights = importance.get(tensor.module) if len(tensor.shape) == 2 else None
        _require(tensor, kind, file_type, weights)
        planned.append(Planned(tensor.name, tensor.shape, kind, tensor, None, weights))
    divisors = rope_tensors(layout.rope, layout.turned) if layout.turned else {}
    return planned + [Planned(name, values.shape, "F32", values=values) for name, values in divisors.items()]


def _require(tensor: Tensor, kind: str, file_type: str, weights: npt.NDArray[np.float32] | None) -> None:
    if weights is None and mix.needs_importance(tensor.name, kind, file_type):
        raise UsageError(
            f"{file_type} stores {tensor.name} in {kind}, which is useless without an importance matrix",
            next="set imatrix: true and give calibration data, or choose Q2_K or larger",
        )
    if weights is not None and (weights.shape != (tensor.shape[-1],) or not np.isfinite(weights).all()):
        raise ArtifactError(
            f"the calibration of {tensor.source} does not fit: {weights.shape} for {tensor.shape[-1]} inputs, "
            "or values that are not finite",
            next="run the calibration again on this very model",
        )
