"""Accumulating H = Σ x xᵀ / tokens over the inputs of a linear layer (Frantar et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TILE = 2048


class HessianSum:
    """Running Σ x xᵀ, float32 ``[in, in]``."""

    def __init__(self, width: int) -> None:
        import torch

        self.total = torch.zeros(width, width)
        self.tokens = 0

    def add(self, x: torch.Tensor) -> None:
        """Add inputs ``[…, in]``."""
        x = x.reshape(-1, x.shape[-1])
        self.total.addmm_(x.T, x)
        self.tokens += x.shape[0]

    def mean(self) -> torch.Tensor:
        """The Hessian, exactly symmetric. The sum is scaled in place: call once."""
        return symmetrize_(self.total.div_(self.tokens))


def symmetrize_(matrix: torch.Tensor) -> torch.Tensor:
    """Copy the lower triangle over the upper one, tile by tile and in place."""
    n = matrix.shape[0]
    for i in range(0, n, TILE):
        rows = slice(i, min(i + TILE, n))
        diagonal = matrix[rows, rows].tril()
        matrix[rows, rows] = diagonal + diagonal.tril(-1).T
        for j in range(0, i, TILE):
            columns = slice(j, j + TILE)
            matrix[columns, rows] = matrix[rows, columns].T
    return matrix


@contextmanager
def fast_products() -> Iterator[None]:
    """float32 products may round their factors to bfloat16 (sums stay float32) where the CPU multiplies those faster.

    A factor's relative error is 2⁻⁹, independent between tokens, so it averages out of a Hessian's sums.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
