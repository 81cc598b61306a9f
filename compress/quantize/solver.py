"""One GPTQ problem being solved: the pass that feeds errors on, then sweeps over codes and scales.

The notation is that of ``compress.quantize.gptq_math``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from compress.model.compute import dtype
from compress.prune.sparse_math import PATTERNS, choose_mask, obs_scores
from compress.quantize import loops
from compress.quantize.grids import Grid, IntGrid, Steps
from compress.quantize.loops import Rounding
from compress.quantize.problem import Solution

if TYPE_CHECKING:
    import torch

    from compress.quantize.problem import Inputs, Plan

OUTER = 256
"""Inputs after which all later ones are brought up to date by one product; the kernels' largest block."""
INNER = 128
"""Inputs that a group longer than OUTER is rounded by."""
RIDGE = 5e-4
"""Share of the mean diagonal added to H where codes are chosen again: the calibration text is a sample."""


class Solver:
    """One problem with its inputs in the order in which they are rounded."""

    def __init__(self, W: torch.Tensor, inputs: Inputs, grid: Grid, plan: Plan) -> None:
        import torch

        self.inputs, self.grid, self.plan = inputs, grid, plan
        self.order, self.grouped, self.H, self.h = inputs.order, inputs.grouped, inputs.H, inputs.h
        self.levels = None if grid.levels is None else grid.levels.to(W.device)
        self.W = W[self.order]
        self.ridge = RIDGE * max(float(self.h.mean()), 1e-12)
        n, out = W.shape
        self.target = PATTERNS[plan.sparsity] if isinstance(plan.sparsity, str) else plan.sparsity
        self.keep = None if plan.sparsity is None else torch.ones(n, out, dtype=torch.bool, device=W.device)
        self.codes = torch.empty(n, out, dtype=torch.uint8, device=W.device)
        self.values = torch.empty_like(self.W)
        self.periods: dict[int, Steps] = {}
        self.scale = self.offset = self.W[:0]
        self.sub = self.order.to(torch.int32)

    def _place(self, low: int) -> int:
        """Number of the period that the input at position ``low`` belongs to."""
        return (int(self.order[low]) if self.grouped else low) // self.grid.period

    def _fit(self, low: int) -> None:
        """Fit the period that begins at position ``low``, on inputs in their own order."""
        import torch

        part = slice(low, low + self.grid.period)
        w, h = self.W[part], self.h[part]
        if self.keep is not None:
            w = torch.where(self.keep[part], w, 0.0)
        natural = torch.argsort(self.order[part]) if self.grouped else slice(None)
        steps = self.grid.fit(w[natural], h[natural])
        if not self.periods:
            self._allot(steps.scale.shape[0])
        self._set(self._place(low), steps)

    def _set(self, place: int, steps: Steps) -> None:
        subs = steps.scale.shape[0]
        self.periods[place] = steps
        self.scale[place * subs : (place + 1) * subs] = steps.scale
        self.offset[place * subs : (place + 1) * subs] = steps.offset

    def _allot(self, subs: int) -> None:
        """Room for all periods, and each input's row in it."""
        import torch

        n, out = self.W.shape
        width = self.grid.period // subs
        self.scale, self.offset = (self.W.new_zeros(n // width, out) for _ in range(2))
        place = self.order if self.grouped else torch.arange(n, device=self.W.device)
        self.sub = (place // width).to(torch.int32)

    def _thin(self, start: int, stop: int, pivots: torch.Tensor) -> None:
        """Choose the zeros among the inputs ``start:stop`` by what removing them costs now."""
        if self.target is not None and self.keep is not None:
            scores = obs_scores(self.W[start:stop], pivots)
            self.keep[start:stop] = ~choose_mask(scores, self.target, per_output=False)

    def _rounding(self, low: int, high: int) -> Rounding:
        keep = None if self.keep is None else self.keep[low:high]
        return Rounding(self.sub[low:high], self.scale, self.offset, self.grid.top, self.levels, keep)

    def feed_errors(self, shift: torch.Tensor | None) -> None:
        """The paper's Algorithm 1 with blocked updates."""
        U = self.inputs.upper
        assert U is not None
        if shift is not None:
            self.W += U.T @ (U @ shift[self.order])
        target, self.W = self.W, self.W.clone()
        n, out = self.W.shape
        step = self.grid.period if self.grid.period <= OUTER else INNER
        E = self.W.new_empty(OUTER, out)
        for start, stop in spans(0, n, max(step, OUTER // step * step)):
            self._thin(start, stop, U.diagonal()[start:stop])
            for low, high in spans(start, stop, step):
                if low % self.grid.period == 0:
                    # A group longer than the outer block is fitted on rows that lack only this very block's errors.
                    self._fit(low)
                e = E[low - start : high - start]
                loops.feed(self.W[low:high], U[low:high, low:high], self._rounding(low, high), self.codes[low:high], e)
                self.W[high:stop] -= U[low:high, high:stop].T @ e
            self.W[stop:] -= U[start:stop, stop:].T @ E[: stop - start]
        self.W = target
        self._decode()

    def _decode(self) -> None:
        index = self.sub.long()
        level = self.codes.float() if self.levels is None else self.levels[self.codes.long()]
        self.values = level.mul_(self.scale[index]).add_(self.offset[index])

    def choose_again(self) -> None:
        """One sweep over all inputs: codes by coordinate descent, and behind each group its scale by least squares."""
        H, D = self.H.to(dtype()), (self.values - self.W).to(dtype())  # G is needed to a hundredth of a step
        step = min(self.grid.period, INNER)
        for start, stop in spans(0, len(self.W), INNER):
            G = (H[start:stop] @ D).float().add_(D[start:stop], alpha=self.ridge)
            square = self.H[start:stop, start:stop].clone()
            square.diagonal().add_(self.ridge)
            for low, high in spans(start, stop, step):
                part, later = slice(low - start, high - start), slice(high - start, None)
                before = self.values[low:high].clone()
                codes, how = self.codes[low:high], self._rounding(low, high)
                loops.descend(self.values[low:high], G[part].clone(), square[part, part], how, codes)
                if step == self.grid.period:
                    self._refit(
                        low, G[part] + square[part, part] @ (self.values[low:high] - before), square[part, part]
                    )
                G[later] += square[later, part] @ (self.values[low:high] - before)
            D[start:stop] = self.values[start:stop] - self.W[start:stop]
        if step < self.grid.period:  # groups longer than a block of the sweep
            for low, high in spans(0, len(self.W), self.grid.period):
                G = (H[low:high] @ D).float().add_(D[low:high], alpha=self.ridge)
                self._refit(low, G, self.H[low:high, low:high])

    def _refit(self, low: int, G: torch.Tensor, H: torch.Tensor) -> None:
        """Least-squares scale of the group at position ``low``, all else as it is; for grids with free scales.

        ``G`` = H (Ŵ − W) of its inputs ``[period, out]``, ``H`` ``[period, period]`` among them. With Ŵ = C s the error
        changes by 2 δ Σ C∘G + δ² Σ C∘(H C) when s grows by δ.
        """
        import torch

        if not isinstance(self.grid, IntGrid):
            return
        place, part = self._place(low), slice(low, low + self.grid.period)
        steps = self.periods[place]
        C = self.codes[part] - steps.fields[0]
        curvature = (H @ C).mul_(C).sum(0)
        change = torch.where(curvature > 0, G.mul_(C).sum(0) / curvature, 0.0)
        steps = self.grid.rescale(steps, steps.scale - change)
        self._set(place, steps)
        self.values[part] = C * steps.scale

    def solution(self) -> Solution:
        """Everything back in the inputs' own order."""
        import torch

        back = torch.argsort(self.order)
        D = self.values - self.W
        periods = [self.periods[place] for place in range(len(self.periods))]
        fields = tuple(torch.cat(parts) for parts in zip(*(steps.fields for steps in periods), strict=True))
        steps = Steps(self.scale, self.offset, fields)
        error, energy = quadratic(D, self.H), quadratic(self.W, self.H)
        return Solution(self.grid, self.codes[back], steps, self.sub.long()[back], self.inputs.damp, error, energy)


def quadratic(D: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    """diag(Dᵀ H D), float32 ``[out]``, to the precision of a report."""
    return (H.to(dtype()) @ D.to(dtype())).float().mul_(D).sum(0).clamp_min_(0)


def spans(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    for low in range(start, stop, step):
        yield low, min(low + step, stop)
