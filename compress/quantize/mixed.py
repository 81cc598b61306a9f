"""What each way of storing a linear is expected to cost in KL divergence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from compress.calibrate.sensitivity import predicted_kl
from compress.quantize.budget import Option
from compress.quantize.grids import Grid, decode, encode

if TYPE_CHECKING:
    import torch

    from compress.quantize.grids import Steps

Rounding = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""W float32 ``[out, in]`` and the mean squared inputs ``[in]`` -> the weights as they would be stored ``[out, in]``."""


def rounded(W: torch.Tensor, h: torch.Tensor, grid: Grid) -> torch.Tensor:
    """W float32 ``[out, in]`` rounded to the nearest points of the grid, period by period; ``h`` float32 ``[in]``."""
    import torch

    def part(w: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        steps: Steps = grid.fit(w, weight)
        return decode(grid, encode(grid, w, steps), steps)

    pairs = zip(W.T.contiguous().split(grid.period), h.split(grid.period), strict=True)
    return torch.cat([part(w, weight) for w, weight in pairs]).T.contiguous()


def options_of(
    W: torch.Tensor,
    H: torch.Tensor,
    gamma: torch.Tensor,
    choices: Mapping[str, tuple[Rounding, int]],
) -> list[Option]:
    """The choices ``label -> (rounding, bytes)`` of one linear with the KL divergence in nats per token that each adds.

    Judged by rounding to nearest: error feedback lowers all of them by a like factor. W ``[out, in]``, H ``[in, in]``
    the mean of x xᵀ, ``gamma`` ``[out]`` from ``compress.calibrate.sensitivity``.
    """
    return [
        Option(label, nbytes, predicted_kl(rounding(W, H.diagonal()) - W, H, gamma))
        for label, (rounding, nbytes) in choices.items()
    ]
