"""Accumulating H = Σ x xᵀ / tokens over the inputs of a linear layer (Frantar et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.errors import ArtifactError

if TYPE_CHECKING:
    import torch

TILE = 2048


class HessianSum:
    """Running Σ x xᵀ, float32 ``[in, in]``; only tiles on and below the diagonal are summed."""

    def __init__(self, width: int, device: torch.device | None = None) -> None:
        import torch

        self.total = torch.zeros(width, width, device=device)
        self.tokens = 0

    def add(self, x: torch.Tensor) -> None:
        """Add inputs ``[…, in]``."""
        x = x.reshape(-1, x.shape[-1]).float()
        n = x.shape[1]
        tile = n if n < 512 else min(512, n // 2)  # narrower products cost more than the half they save
        for low in range(0, n, tile):
            high = min(low + tile, n)
            self.total[low:high, :high].addmm_(x[:, low:high].T, x[:, :high])
        self.tokens += x.shape[0]

    def mean(self, name: str) -> torch.Tensor:
        """The Hessian, exactly symmetric. The sum is scaled in place: call once.

        ArtifactError naming the linear ``name`` if its inputs were not finite.
        """
        require_finite(self.total.diagonal(), name)
        return symmetrize_(self.total.div_(self.tokens))


class DriftSum:
    """Running Σ x̂ (x − x̂)ᵀ, float32 ``[in, in]``: how inputs behind quantized layers differ from the float model's."""

    def __init__(self, width: int, device: torch.device | None = None) -> None:
        import torch

        self.total = torch.zeros(width, width, device=device)
        self.tokens = 0

    def add(self, quantized: torch.Tensor, wanted: torch.Tensor) -> None:
        """Add pairs of inputs ``[…, in]``."""
        a = quantized.reshape(-1, quantized.shape[-1]).float()
        self.total.addmm_(a.T, wanted.reshape(a.shape).float() - a)
        self.tokens += a.shape[0]

    def mean(self, name: str) -> torch.Tensor:
        """The mean; the sum is scaled in place. ArtifactError as ``HessianSum.mean``."""
        require_finite(self.total, name)
        return self.total.div_(self.tokens)


def require_finite(moments: torch.Tensor, name: str) -> None:
    """ArtifactError naming the linear whose inputs gave ``moments`` that hold NaN or Inf."""
    if not bool(moments.isfinite().all()):
        raise ArtifactError(
            f"the inputs of {name} become NaN or Inf on the calibration text",
            next="check the model in float32; its activations overflow",
        )


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
