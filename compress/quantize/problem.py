"""What a GPTQ problem is made of and what its solution says, in the notation of ``compress.quantize.gptq_math``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from compress.quantize.grids import Grid, Steps

if TYPE_CHECKING:
    import torch

Order = Literal["groups", "inputs", "none"]


@dataclass(frozen=True)
class Plan:
    """How to solve, beside the grid."""

    damp: float = 0.01
    """Damping, as a fraction of the Hessian's mean diagonal; raised where it does not suffice."""
    order: Order = "groups"
    """``groups``: important groups first, important inputs first within them, groups kept together;
    ``inputs``: important inputs first, a group is what follows one another (desc_act); ``none``: as they stand."""
    sweeps: int = 2
    """Sweeps of coordinate descent over codes and scales; 0: GPTQ as in the paper."""
    sparsity: Literal["2:4", "4:8"] | float | None = None
    """Weights that become zero, chosen like SparseGPT's as the pass reaches them. A pattern is one of neighbouring
    inputs and wants them in their own order."""


DEFAULT = Plan()


@dataclass
class Inputs:
    """What a solution needs to know of a layer's inputs, in the order in which they are rounded."""

    order: torch.Tensor
    """int64 ``[in]``: the input at each position."""
    grouped: bool
    """Whether the inputs of a period stay together."""
    H: torch.Tensor
    """float32 ``[in, in]``."""
    h: torch.Tensor
    """float32 ``[in]``: H's diagonal, at least 0."""
    upper: torch.Tensor | None
    """U, float32 ``[in, in]``; None once it is used up."""
    damp: float


@dataclass(frozen=True)
class Solution:
    """What was chosen, inputs in their own order."""

    grid: Grid
    codes: torch.Tensor
    """uint8 ``[in, out]``."""
    steps: Steps
    """Of all periods, one below the other: float32 ``[in / inputs per sub-block, out]``."""
    index: torch.Tensor
    """int64 ``[in]``: each input's row in ``steps``."""
    damp: float
    """The damping that made H positive definite."""
    error: torch.Tensor
    """tr(D H Dᵀ) per output, float32 ``[out]``, D = W − Ŵ: the squared error of the layer's outputs."""
    energy: torch.Tensor
    """tr(W H Wᵀ) per output: the same of the outputs themselves."""

    def weights(self) -> torch.Tensor:
        """The weights that the codes stand for, float32 ``[in, out]``."""
        level = self.codes.float() if self.grid.levels is None else self.grid.levels[self.codes.long()]
        return level * self.steps.scale[self.index] + self.steps.offset[self.index]

    def split(self, sizes: Sequence[int]) -> list[Solution]:
        """The solutions of matrices that were solved side by side, by their numbers of outputs."""
        parts = []
        for low, high in _ranges(sizes):
            cut = [t[..., low:high].contiguous() for t in (self.codes, self.error, self.energy, *self.steps[:2])]
            fields = tuple(field[..., low:high].contiguous() for field in self.steps.fields)
            codes, error, energy, scale, offset = cut
            parts.append(replace(self, codes=codes, error=error, energy=energy, steps=Steps(scale, offset, fields)))
        return parts


def _ranges(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    low = 0
    for size in sizes:
        yield low, low + size
        low += size
