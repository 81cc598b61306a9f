"""Small random problems for the solver, and its answers written out slowly."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compress.quantize.grids import Steps, decode, encode

OUTER = 256
"""The solver brings later inputs up to date after so many."""


@dataclass(frozen=True)
class Codebook:
    """Levels that are not evenly spaced, scaled by the largest magnitude of a period."""

    levels: torch.Tensor
    period: int

    @property
    def top(self):
        return len(self.levels) - 1

    def fit(self, w, h):
        del h
        scale = w.abs().amax(0, keepdim=True).clamp_min(1e-6)
        return Steps(scale, torch.zeros_like(scale))


def codebook(period, size=16):
    """Dense around zero, which is a level, as NF4 is."""
    x = torch.linspace(-1, 1, size)
    levels = x.abs().pow(1.5) * x.sign()
    levels[size // 2] = 0.0
    return Codebook(levels, period)


def problem(n=96, out=24, tokens=400, seed=0):
    """Correlated inputs: W float32 [in, out], H float32 [in, in]."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, n, generator=g) @ torch.randn(n, n, generator=g) / n**0.5
    return torch.randn(n, out, generator=g) * 0.05, x.T @ x / tokens


def error(W, Q, H):
    """tr((Q − W)ᵀ H (Q − W)) in float64."""
    D = (Q - W).double()
    return float((D * (H.double() @ D)).sum())


def nearest(W, grid):
    """W rounded period by period, each input counting alike."""
    parts = [(w, grid.fit(w.contiguous(), torch.ones(grid.period))) for w in W.split(grid.period)]
    return torch.cat([decode(grid, encode(grid, w, steps), steps) for w, steps in parts])


def slow_order(h, kind, period):
    """Positions -> inputs, by sorting with Python."""
    inputs = list(range(len(h)))
    if kind == "none":
        return inputs
    if kind == "inputs":
        return sorted(inputs, key=lambda i: -h[i])
    groups = [inputs[low : low + period] for low in range(0, len(h), period)]
    groups.sort(key=lambda group: -sum(h[i] for i in group))
    return [i for group in groups for i in sorted(group, key=lambda i: -h[i])]


def slow_gptq(W, H, grid, damp, kind="none"):
    """Algorithm 1 of the paper in float64, one input at a time and with the explicit inverse.

    A group is fitted when its first input is reached. Where groups are longer than OUTER, that sees the inputs behind
    the current OUTER as they were at its start.
    """
    n = W.shape[0]
    order = torch.tensor(slow_order(H.diagonal().tolist(), kind, grid.period))
    W, H = W.double()[order], H.double()[order][:, order]
    h = H.diagonal().clone()
    U = torch.linalg.cholesky(torch.linalg.inv(damped(H, damp)), upper=True)
    Q, before = torch.empty_like(W), W.clone()
    for i in range(n):
        if i % OUTER == 0:
            before = W.clone()
        if i % grid.period == 0:
            seen = (i // OUTER + 1) * OUTER if grid.period > OUTER else n
            w = torch.cat([W[:seen], before[seen:]])[i : i + grid.period].float()
            natural = torch.arange(grid.period) if kind == "inputs" else order[i : i + grid.period].argsort()
            steps = grid.fit(w[natural], h[i : i + grid.period].float()[natural])
        Q[i] = decode(grid, encode(grid, W[i : i + 1].float(), steps), steps).double()
        W[i:] -= torch.outer(U[i, i:], (W[i] - Q[i]) / U[i, i])
    return Q[order.argsort()]


def damped(H, damp):
    """H + damp · mean(diag H) · I."""
    return H + damp * H.diagonal().mean() * torch.eye(len(H), dtype=H.dtype)


def alike(a, b, least=0.99):
    """Nearly all values agree: a rare tie may round the other way in float32, and moves a few after it."""
    return float(((a.double() - b.double()).abs() < 1e-5).double().mean()) >= least
