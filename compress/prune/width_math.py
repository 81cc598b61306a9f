"""Which FFN channels and which KV groups to keep, without compensation.

Channel j of an FFN is row j of gate and up and column j of down. KV group g is one key-value head with the
query heads that read it: rows of q, k and v, and the columns of the output projection that its heads feed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from compress.errors import UsageError

if TYPE_CHECKING:
    import torch


SHOWN = 8
"""Widths that an error names."""
NOTABLE = 0.005
"""Shares that differ by less are said to be the same."""


def rounded(asked: float | None, before: int, after: int, what: str, how: str) -> str | None:
    """What to say when the share removed of ``before`` is not the ``asked`` one; ``how`` says why. None: nothing (an
    amount of 1 or more is a number, which is never rounded)."""
    share = 1 - after / before
    if asked is None or asked >= 1 or abs(share - asked) < NOTABLE:
        return None
    return f"{what}: {before} become {after}{how}, which removes {share:.1%} where {asked:.1%} was asked for"


def kept_width(width: int, fraction: float, multiple_of: int) -> int:
    """Channels left after removing about ``fraction`` of ``width``, rounded to a multiple of ``multiple_of``.

    Raises UsageError if rounding leaves nothing removed or nothing kept.
    """
    kept = round(width * (1 - fraction) / multiple_of) * multiple_of
    if not 0 < kept < width:
        fits = [str(k) for k in range(multiple_of, width, multiple_of)]
        shown = fits if len(fits) <= SHOWN else [*fits[: SHOWN // 2], "…", *fits[-SHOWN // 2 :]]
        raise UsageError(
            f"removing {fraction:.2%} of {width} FFN channels in steps of {multiple_of} would keep {kept}",
            next=f"widths that fit: {', '.join(shown) or 'none'}; lower multiple_of for finer steps",
        )
    return kept


def removed_count(amount: float, total: int, what: str) -> int:
    """How many of ``total`` to remove: ``amount`` itself, or the fraction of ``total`` where it is below 1.

    Raises UsageError unless that is a whole number from 1 to ``total - 1``; ``what`` names the things.
    """
    count = round(amount * total) if amount < 1 else amount
    if not 0 < count < total or count != int(count):
        fits = f"give a number from 1 to {total - 1}, or a fraction that rounds to one"
        raise UsageError(
            f"removing {amount:g} of {total} {what} would remove {count:g}", next=fits if total > 1 else "leave it out"
        )
    return int(count)


def activation_importance(projection: torch.Tensor, H: torch.Tensor, size: int = 1) -> torch.Tensor:
    """tr(P_g H_gg P_gᵀ): the mean squared length of what group g of ``size`` inputs adds to the residual stream.

    ``projection`` P float32 ``[hidden, in]`` (down or the attention output projection), H float32 ``[in, in]`` the
    mean of x xᵀ over its inputs; float32 ``[in / size]``. With size 1 that is E[a_j²] · ‖P_{:,j}‖².
    """
    import torch

    groups = H.shape[0] // size
    P = projection.unflatten(1, (groups, size)).transpose(0, 1)
    blocks = H.view(groups, size, groups, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    return torch.einsum("ghi,gij,ghj->g", P, blocks, P)


def magnitude_importance(rows: Iterable[torch.Tensor], projection: torch.Tensor, groups: int) -> torch.Tensor:
    """Π ‖rows of group g‖ · ‖columns of group g‖: needs no data; the baseline of the literature.

    ``rows``: float matrices ``[out, hidden]`` (gate and up; q, k and v), ``projection`` float ``[hidden, in]``;
    float32 ``[groups]``.
    """
    norms = [matrix.float().reshape(groups, -1).norm(dim=1) for matrix in rows]
    return math.prod(norms, start=projection.float().T.reshape(groups, -1).norm(dim=1))


def random_importance(width: int, seed: int) -> torch.Tensor:
    """Uniform numbers: the floor that any method must beat."""
    import torch

    return torch.rand(width, generator=torch.Generator().manual_seed(seed))


def keep_most(importance: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the ``count`` most important, ascending (ties go to the lower index)."""
    import torch

    return torch.argsort(importance, descending=True, stable=True)[:count].sort().values


def members(groups: torch.Tensor, size: int) -> torch.Tensor:
    """Indices of the members of whole ``groups`` of ``size`` neighbours: int64 ``[len(groups) · size]``."""
    import torch

    return (groups[:, None] * size + torch.arange(size)).reshape(-1)
