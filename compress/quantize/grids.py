"""Grids that a weight may be rounded to. The solver only asks a grid to fit a group and to round one input column.

Layout: weights are transposed, ``[in, out]``, so that one input column is contiguous memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

BITS = (2, 3, 4, 8)
TINY = 1e-10


class Steps(NamedTuple):
    """One group's parameters per output channel, float32 ``[out]``: weight = scale · (code − zero)."""

    scale: torch.Tensor
    zero: torch.Tensor


@dataclass(frozen=True)
class IntGrid:
    """Integers 0 … 2^bits − 1 with a scale and a zero point per group and output channel.

    Symmetric: the zero point is 2^(bits−1); the scale's sign is chosen so that the group's largest magnitude
    lies on the longer, negative side. Asymmetric: the zero point is an integer in 1 … 2^bits − 1 (a checkpoint
    stores zero − 1, and readers disagree about −1). Scales are rounded to float16, as they are stored.
    """

    bits: int
    symmetric: bool = True
    candidates: int = 16
    """Shrunken ranges tried in the scale search; 1 takes the range as it is (round-to-nearest's choice)."""
    shrink: float = 0.5
    """Smallest range tried, as a fraction of the full range."""

    @property
    def top(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    def fit(self, w: torch.Tensor, h: torch.Tensor) -> Steps:
        """Scale and zero of a group ``w`` ``[group, out]`` that minimise Σ hᵢ (wᵢ − ŵᵢ)², ``h`` ``[group]``."""
        import torch

        h = (h / h.mean().clamp_min(TINY)).clamp_min(1e-4)[:, None]
        best, error = self._steps(w, 1.0), None
        for fraction in torch.linspace(1.0, self.shrink, self.candidates).tolist():
            steps = self._steps(w, fraction)
            trial = self.decode(self.encode(w, steps), steps).sub_(w).square_().mul_(h).sum(0)
            if error is None:
                best, error = steps, trial
                continue
            better = trial < error
            best = Steps(torch.where(better, steps.scale, best.scale), torch.where(better, steps.zero, best.zero))
            error = torch.where(better, trial, error)
        return best

    def _steps(self, w: torch.Tensor, fraction: float) -> Steps:
        import torch

        if self.symmetric:
            low, high = w.amin(0), w.amax(0)
            reach = torch.where(high > -low, -high, -low)
            middle = 2.0 ** (self.bits - 1)
            return Steps(_stored(reach * (fraction / (middle - 0.25))), torch.full_like(reach, middle))
        low, high = w.amin(0).clamp_max(0) * fraction, w.amax(0).clamp_min(0) * fraction
        scale = _stored((high - low) / self.top)
        return Steps(scale, (-low / scale).round_().clamp_(1, self.top))

    def encode(self, w: torch.Tensor, steps: Steps) -> torch.Tensor:
        """Nearest codes of ``w`` ``[…, out]``, as float32 integers."""
        return (w / steps.scale).add_(steps.zero).round_().clamp_(0, self.top)

    def decode(self, codes: torch.Tensor, steps: Steps) -> torch.Tensor:
        """The weights that codes stand for, float32."""
        return (codes - steps.zero) * steps.scale


def _stored(scale: torch.Tensor) -> torch.Tensor:
    """As float16 keeps it; a zero or vanishing scale becomes the smallest normal one of float16, sign kept."""
    import torch

    half = scale.half().float()
    least = 6.1035e-05
    sign = torch.where(half < 0, -1.0, 1.0)
    return (sign * half.abs().clamp(least, 65504.0)).half().float()
