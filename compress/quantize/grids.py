"""Grids that a weight may be rounded to. The solver asks a grid for the parameters of each period of inputs just
before it rounds them, and knows nothing else about it.

Layout: weights are transposed, ``[in, out]``, so that one input is contiguous memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from compress.quantize import loops

if TYPE_CHECKING:
    import torch

LEAST_HALF = 6.1035e-05
"""The smallest normal float16."""


class Steps(NamedTuple):
    """Parameters of one period, per output channel: weight = scale · level(code) + offset."""

    scale: torch.Tensor
    """float32 ``[subs, out]``; sub-block s covers the inputs from s · period / subs on."""
    offset: torch.Tensor
    """float32 ``[subs, out]``."""
    fields: tuple[torch.Tensor, ...] = ()
    """What packing needs beside, each ``[…, out]``; the grid's own business."""


class Grid(Protocol):
    """What the solver asks."""

    @property
    def top(self) -> int:
        """The largest code."""

    @property
    def period(self) -> int:
        """Inputs whose parameters are fitted together."""

    @property
    def levels(self) -> torch.Tensor | None:
        """Ascending codebook, float32 ``[top + 1]``; None: level(code) = code."""

    def fit(self, w: torch.Tensor, h: torch.Tensor) -> Steps:
        """Parameters for ``w`` float32 ``[period, out]`` that make Σ hᵢ (wᵢ − ŵᵢ)² small, ``h`` ``[period]``."""


@dataclass(frozen=True)
class IntGrid:
    """Integers 0 … 2^bits − 1 with a scale and a zero point per period (group) and output channel.

    Symmetric: the zero point is 2^(bits−1); the scale's sign is chosen so that the group's largest magnitude
    lies on the longer, negative side. Asymmetric: the zero point is an integer in 1 … 2^bits − 1 (a checkpoint
    stores zero − 1, and readers disagree about −1). Scales are rounded to float16, as they are stored.
    """

    bits: int
    symmetric: bool = True
    candidates: int = 16
    """Shrunken ranges tried in the scale search; 1 takes the range as it is (round-to-nearest's choice)."""
    period: int = 128
    shrink: float = 0.5
    """Smallest range tried, as a fraction of the full range."""
    levels: None = None

    @property
    def top(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    def fit(self, w: torch.Tensor, h: torch.Tensor) -> Steps:
        """One sub-block; ``fields`` is ``(zero,)``, float32 ``[1, out]``. Inputs with h = 0 count only if all are."""
        import torch

        h = h / h.mean() if bool((h > 0).any()) else torch.ones_like(h)
        middle = (self.top + 1) // 2 if self.symmetric else 0
        scale, zero = loops.fit(w, h, self.top, middle, self.candidates, self.shrink)
        return self.steps(scale[None], zero[None])

    def steps(self, scale: torch.Tensor, zero: torch.Tensor) -> Steps:
        """Steps with the scale as a checkpoint stores it."""
        scale = stored_half(scale)
        return Steps(scale, -zero * scale, (zero,))

    def rescale(self, steps: Steps, scale: torch.Tensor) -> Steps:
        """The same zero points with other scales (the solver's least-squares refit)."""
        return self.steps(scale, steps.fields[0])


def encode(grid: Grid, w: torch.Tensor, steps: Steps) -> torch.Tensor:
    """Nearest codes, uint8 ``[period, out]``, of one period of weights."""
    subs = steps.scale.shape[0]
    blocks = w.reshape(subs, -1, w.shape[1])
    codes = loops.nearest((blocks - steps.offset[:, None]) / steps.scale[:, None], grid.top, grid.levels)
    return codes.reshape(w.shape)


def decode(grid: Grid, codes: torch.Tensor, steps: Steps) -> torch.Tensor:
    """The weights float32 ``[period, out]`` that codes of one period stand for."""
    level = codes.float() if grid.levels is None else grid.levels[codes.long()]
    blocks = level.reshape(steps.scale.shape[0], -1, codes.shape[1])
    return (blocks * steps.scale[:, None] + steps.offset[:, None]).reshape(codes.shape)


def stored_half(scale: torch.Tensor) -> torch.Tensor:
    """As float16 keeps it; a zero or vanishing scale becomes the smallest normal one of float16, sign kept."""
    import torch

    half = scale.half().float()
    sign = torch.where(half < 0, -1.0, 1.0)
    return (sign * half.abs().clamp(LEAST_HALF, 65504.0)).half().float()
