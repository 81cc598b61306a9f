"""GPTQ (Frantar, Ashkboos, Hoefler, Alistarh: "GPTQ: Accurate Post-Training Quantization…", ICLR 2023) on tensors.

Notation of the paper: H the Hessian of the layer's squared error, U the upper Cholesky factor of H⁻¹
(H⁻¹ = Uᵀ U). Quantizing input i costs the error e = (wᵢ − quant(wᵢ)) / Uᵢᵢ, and the inputs not yet quantized take
it over: w_{i+1:} −= e · U_{i, i+1:}. Matrices are transposed here, W is ``[in, out]``: an input is a row.
Rows of matrices that read the same input are solved together, side by side along ``out``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from compress.errors import HoldfastError
from compress.quantize.grids import IntGrid, Steps

if TYPE_CHECKING:
    import torch

OUTER, INNER = 128, 32
"""Rows after which all later rows, or the later rows of the same 128, are brought up to date by one product."""
MAX_DAMP = 10.0


class Factor(NamedTuple):
    """U with H⁻¹ = Uᵀ U for the damped H, and the damping it took (a fraction of the mean diagonal)."""

    upper: torch.Tensor
    damp: float


@dataclass(frozen=True)
class Solution:
    """``codes`` uint8 ``[in, out]``; ``scales`` float32 and ``zeros`` uint8 ``[groups, out]``."""

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    damp: float
    """The damping that made H positive definite."""
    error: torch.Tensor
    """tr(D H Dᵀ) per output, float32 ``[out]``, D = W − Ŵ: the squared error of the layer's outputs."""
    energy: torch.Tensor
    """tr(W H Wᵀ) per output: the same of the outputs themselves."""

    def weights(self) -> torch.Tensor:
        """The weights that the codes stand for, float32 ``[in, out]``."""
        return decode(self.codes, self.scales, self.zeros)


def decode(codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    """(code − zero) · scale, group by group: float32 ``[in, out]``."""
    groups = scales.shape[0]
    grouped = codes.float().view(groups, -1, codes.shape[1])
    return (grouped - zeros.float()[:, None]).mul_(scales[:, None]).view(codes.shape)


def inverse_factor(H: torch.Tensor, damp: float) -> Factor:
    """U for H + damp · mean(diag H) · I, with ten times the damping until H is positive definite.

    With rows and columns reversed, H = R Rᵀ (R upper triangular), so H⁻¹ = R⁻ᵀ R⁻¹ and U = R⁻¹:
    one Cholesky factorisation and one triangular inverse.
    Raises HoldfastError if no damping up to MAX_DAMP heals it.
    """
    import torch

    n = H.shape[0]
    mean = H.diagonal().mean()
    while damp <= MAX_DAMP:
        flipped = H.flip(0, 1)
        flipped.diagonal().add_(damp * mean)
        lower, info = torch.linalg.cholesky_ex(flipped)
        if int(info) == 0 and bool(lower.isfinite().all()):
            eye = torch.eye(n, dtype=H.dtype)
            return Factor(torch.linalg.solve_triangular(lower, eye, upper=False).flip(0, 1).contiguous(), damp)
        damp = max(damp * 10, 1e-3)
    raise HoldfastError(
        "the Hessian is not positive definite under any damping", next="calibrate again on more and cleaner text"
    )


def importance_order(diagonal: torch.Tensor, group: int) -> torch.Tensor:
    """Permutation of inputs: important groups first, important inputs first within a group.

    Groups stay together, so input i keeps the scale of group i // group and no index needs shuffling.
    """
    import torch

    grouped = diagonal.view(-1, group)
    groups = torch.argsort(grouped.sum(1), descending=True, stable=True)
    within = torch.argsort(grouped, dim=1, descending=True, stable=True)
    return (within + torch.arange(grouped.shape[0])[:, None] * group)[groups].reshape(-1)


def solve(
    W: torch.Tensor, H: torch.Tensor, grid: IntGrid, group: int, *, damp: float = 0.01, act_order: bool = True
) -> Solution:
    """Quantize W float32 ``[in, out]`` against H float32 ``[in, in]``; ``group`` divides ``in``.

    Inputs that never were anything but zero (dead) keep their nearest code and do not sway scales or order.
    """
    import torch

    H = H.clone()
    dead = H.diagonal() <= 0
    importance = H.diagonal().clamp_min(0)
    H.diagonal()[dead] = importance.mean().clamp_min(1e-12)
    order = importance_order(importance, group) if act_order else torch.arange(W.shape[0])
    factor = inverse_factor(H[order][:, order], damp)
    codes, scales, zeros = _quantize(W[order], factor.upper, importance[order], grid, group)
    back = torch.argsort(order)
    first = order[::group] // group
    codes, scales, zeros = codes[back], scales[torch.argsort(first)], zeros[torch.argsort(first)]
    D = decode(codes, scales, zeros).sub_(W)
    H.diagonal()[dead] = 0.0
    return Solution(codes, scales, zeros, factor.damp, _energy(D, H), _energy(W, H))


def _energy(D: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    return (H @ D).mul_(D).sum(0).clamp_min_(0)


def _spans(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    for low in range(start, stop, step):
        yield low, min(low + step, stop)


def _quantize(
    W: torch.Tensor, U: torch.Tensor, h: torch.Tensor, grid: IntGrid, group: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The paper's Algorithm 1 with blocked updates; W (a copy) is used up."""
    import torch

    n, out = W.shape
    codes = torch.empty(n, out, dtype=torch.uint8)
    scales = torch.empty(n // group, out)
    zeros = torch.empty(n // group, out, dtype=torch.uint8)
    E = torch.empty(OUTER, out)
    steps: Steps | None = None
    for start, stop in _spans(0, n, OUTER):
        for low, high in _spans(start, stop, min(INNER, group)):
            if low % group == 0:
                # A group longer than the outer block is fitted on rows that lack the errors of this very block only.
                steps = _fit(W[low : low + group], h[low : low + group], grid)
                scales[low // group], zeros[low // group] = steps.scale, steps.zero.to(torch.uint8)
            assert steps is not None
            _quantize_rows(W, U, codes, E[low - start : high - start], (low, high), grid, steps)
            W[high:stop] -= U[low:high, high:stop].T @ E[low - start : high - start]
        W[stop:] -= U[start:stop, stop:].T @ E[: stop - start]
    return codes, scales, zeros


def _fit(W: torch.Tensor, h: torch.Tensor, grid: IntGrid) -> Steps:
    """A group's grid from its living inputs (from all if none lives)."""
    import torch

    alive = h > 0
    if not bool(alive.any()):
        return grid.fit(W, torch.ones_like(h))
    return grid.fit(W if bool(alive.all()) else torch.where(alive[:, None], W, 0.0), h)


def _quantize_rows(
    W: torch.Tensor,
    U: torch.Tensor,
    codes: torch.Tensor,
    E: torch.Tensor,
    span: tuple[int, int],
    grid: IntGrid,
    steps: Steps,
) -> None:
    low, high = span
    pivots = U.diagonal()[low:high].tolist()
    for i in range(low, high):
        w = W[i]
        code = grid.encode(w, steps)
        codes[i] = code
        e = E[i - low]
        e.copy_(w).sub_(grid.decode(code, steps)).div_(pivots[i - low])
        W[i + 1 : high].addr_(U[i, i + 1 : high], e, alpha=-1)
