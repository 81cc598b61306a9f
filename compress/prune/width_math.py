"""Which FFN channels to keep. Channel j of a gated FFN is row j of gate and up and column j of down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.errors import UsageError

if TYPE_CHECKING:
    import torch


def kept_width(width: int, fraction: float, multiple_of: int) -> int:
    """Channels left after removing about ``fraction`` of ``width``, rounded to a multiple of ``multiple_of``.

    Raises UsageError if rounding leaves nothing removed or nothing kept.
    """
    kept = round(width * (1 - fraction) / multiple_of) * multiple_of
    if not 0 < kept < width:
        fits = [str(k) for k in range(multiple_of, width, multiple_of)]
        raise UsageError(
            f"removing {fraction:.0%} of {width} FFN channels in steps of {multiple_of} would keep {kept}",
            next=f"widths that fit: {', '.join(fits) or 'none'}; lower multiple_of for finer steps",
        )
    return kept


def activation_importance(down: torch.Tensor, mean_square: torch.Tensor) -> torch.Tensor:
    """E[a_j²] · ‖down_{:,j}‖²: the mean squared length of what channel j adds to the residual stream.

    ``down`` float ``[hidden, ffn]``, ``mean_square`` float32 ``[ffn]`` (diagonal of down's Hessian).
    """
    return mean_square * down.float().square().sum(0)


def magnitude_importance(gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """‖gate_j‖ · ‖up_j‖ · ‖down_{:,j}‖: needs no data; the baseline of the literature."""
    return gate.float().norm(dim=1) * up.float().norm(dim=1) * down.float().norm(dim=0)


def random_importance(width: int, seed: int) -> torch.Tensor:
    """Uniform numbers: the floor that any method must beat."""
    import torch

    return torch.rand(width, generator=torch.Generator().manual_seed(seed))


def keep_channels(importance: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the ``count`` most important channels, ascending (ties go to the lower index)."""
    import torch

    return torch.argsort(importance, descending=True, stable=True)[:count].sort().values
