"""GPTQ (Frantar, Ashkboos, Hoefler, Alistarh: "GPTQ: Accurate Post-Training Quantization…", ICLR 2023) on any grid.

Notation of the paper: H the Hessian of the layer's squared error, U the upper Cholesky factor of H⁻¹
(H⁻¹ = Uᵀ U). Quantizing input i costs the error e = (wᵢ − quant(wᵢ)) / Uᵢᵢ, and the inputs not yet quantized take
it over: w_{i+1:} −= e · U_{i, i+1:}. Matrices are transposed here, W is ``[in, out]``: an input is a row.
Rows of matrices that read the same input are solved together, side by side along ``out``.

After that pass, sweeps of coordinate descent on the same error tr((Ŵ − W)ᵀ H (Ŵ − W)) choose each code again in the
light of all others (Behdin et al. 2023, "QuantEase"), and fit each group's scale to its codes by least squares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.calibrate.factor import cholesky_, inverse_factor
from compress.model.compute import exact_products
from compress.quantize.grids import Grid
from compress.quantize.problem import DEFAULT, Inputs, Order, Plan, Solution
from compress.quantize.solver import Solver, spans

if TYPE_CHECKING:
    import torch


DRIFT_RIDGE = 0.1
"""How strongly a layer that makes up for the layers before it is held to its own weights, over H's mean diagonal. From
.03 to .3, texts of the calibration's kind and others are all served better than without (benchmarks/README.md)."""


def importance_order(diagonal: torch.Tensor, group: int) -> torch.Tensor:
    """Permutation of inputs: important groups first, important inputs first within a group.

    Groups stay together, so input i keeps the scale of group i // group and no index needs shuffling.
    """
    import torch

    grouped = diagonal.view(-1, group)
    groups = torch.argsort(grouped.sum(1), descending=True, stable=True)
    within = torch.argsort(grouped, dim=1, descending=True, stable=True)
    return (within + torch.arange(grouped.shape[0], device=diagonal.device)[:, None] * group)[groups].reshape(-1)


def _order(importance: torch.Tensor, kind: Order, period: int) -> torch.Tensor:
    import torch

    if kind == "groups":
        return importance_order(importance, period)
    if kind == "inputs":
        return torch.argsort(importance, descending=True, stable=True)
    return torch.arange(len(importance), device=importance.device)


def solve(
    W: torch.Tensor,
    H: torch.Tensor,
    grid: Grid,
    plan: Plan = DEFAULT,
    *,
    drift: torch.Tensor | None = None,
    consume: bool = False,
) -> Solution:
    """Quantize W float32 ``[in, out]`` against H float32 ``[in, in]``; the grid's period divides ``in``.

    ``drift`` float32 ``[in, in]``: mean of x̂ (x − x̂)ᵀ where H is the mean of x̂ x̂ᵀ, x̂ being the inputs as the layers
    before, already quantized, produce them, and x those of the float model: the solution then aims at W x instead of
    W x̂ (Li et al. 2025, "GPTAQ"), held to W by ``DRIFT_RIDGE``.
    ``consume``: H and drift are emptied once they are read, for they are the largest things in memory.
    Inputs that never were anything but zero (dead) keep their nearest code and do not sway scales or order.
    """
    shift = None if drift is None else drift @ W
    if consume and drift is not None:
        drift.set_()
    if shift is not None:
        shift = held_back(H, shift, plan.damp)
    inputs = prepare(H, grid.period, plan)
    if consume:
        H.set_()
    return solve_prepared(W, inputs, grid, plan, shift=shift, last=True)


def held_back(H: torch.Tensor, shift: torch.Tensor, damp: float) -> torch.Tensor:
    """The shift whose solution with ``damp`` is that of ``shift`` with λ = DRIFT_RIDGE: T = (H + λ m)⁻¹ shift minimises
    ‖(W + T) x̂ − W x‖² + λ m ‖T‖², m being the mean of H's diagonal; float32 ``[in, out]``.
    """
    import torch

    m = float(H.diagonal().mean())
    with exact_products():
        factor = H.clone()
        factor.diagonal().add_(DRIFT_RIDGE * m)
        if not cholesky_(factor):
            return shift  # nothing was ever seen: the solver's own damping says what becomes of it
        moved = torch.cholesky_solve(shift, factor)
        del factor
        return (H @ moved).add_(moved, alpha=damp * m)


def prepare(H: torch.Tensor, period: int, plan: Plan = DEFAULT) -> Inputs:
    """Order and factor the inputs of layers that are solved on grids of this period. H float32 ``[in, in]``."""
    importance = H.diagonal().clamp_min(0)
    kind = "none" if isinstance(plan.sparsity, str) else plan.order
    order = _order(importance, kind, period)
    H, h = permuted(H, order), importance[order]
    dead = h <= 0
    H.diagonal()[dead] = h.mean().clamp_min(1e-12)
    upper, damp = inverse_factor(H, plan.damp)
    H.diagonal()[dead] = 0.0
    return Inputs(order, kind != "inputs", H, h, upper, damp)


def solve_prepared(
    W: torch.Tensor,
    inputs: Inputs,
    grid: Grid,
    plan: Plan = DEFAULT,
    *,
    shift: torch.Tensor | None = None,
    last: bool = False,
) -> Solution:
    """``solve`` for some outputs of a layer: W and ``shift`` (drift @ W) float32 ``[in, any]``.

    ``last``: no other outputs follow, so the factor may go once it is used.
    """
    solver = Solver(W, inputs, grid, plan)
    solver.feed_errors(shift)
    if last:
        inputs.upper = None
    for _ in range(plan.sweeps):
        solver.choose_again()
    return solver.solution()


def permuted(H: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """``H[order][:, order]`` with one copy."""
    H = H[order]
    for low, high in spans(0, len(H), 1024):
        H[low:high] = H[low:high].index_select(1, order)
    return H
