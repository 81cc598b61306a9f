"""Removing inputs of a linear while the others take over (structured Optimal Brain Surgeon).

Hassibi & Stork, "Second order derivatives for network pruning" (NeurIPS 1992), for whole columns as in Kurtic et al.,
"ZipLM: Inference-Aware Structured Pruning of Language Models" (NeurIPS 2023). With H = E[x xᵀ] of the linear's
inputs and P = H⁻¹, removing the group g of columns of W costs tr(W_g (P_gg)⁻¹ W_gᵀ) in mean squared output error once
the rest is updated by W −= W_g (P_gg)⁻¹ P_{g,:}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.calibrate.factor import inverse_factor
from compress.prune.width_math import keep_most, members

if TYPE_CHECKING:
    import torch

ROUNDS = 32
"""Groups are removed in at most this many rounds; within a round their costs count as independent."""


def survivors(W: torch.Tensor, H: torch.Tensor, count: int, *, size: int = 1, damp: float = 0.01) -> torch.Tensor:
    """The ``count`` groups that greedy elimination leaves, ascending int64 ``[count]``.

    W float32 ``[out, in]``, H float32 ``[in, in]``; a group is ``size`` neighbouring inputs. Each round removes the
    groups that cost least, updates W and P, and asks again. ``damp`` · mean(diag H) is added to H's diagonal.
    """
    import torch

    upper = inverse_factor(H, damp).upper
    W, P = W.clone(), upper.T @ upper
    alive = torch.arange(H.shape[0] // size)
    step = -(-(len(alive) - count) // ROUNDS)
    while len(alive) > count:
        left = max(count, len(alive) - step)
        keep = keep_most(removal_cost(W, P, size), left)
        W, P = eliminate(W, P, members(keep, size))
        alive = alive[keep]
    return alive


def removal_cost(W: torch.Tensor, P: torch.Tensor, size: int = 1) -> torch.Tensor:
    """tr(W_g (P_gg)⁻¹ W_gᵀ) of every group, float32 ``[in / size]``; P = H⁻¹ float32 ``[in, in]``."""
    import torch

    if size == 1:  # a thousand systems of one unknown: a division
        return W.square().sum(0) / P.diagonal()
    groups = P.shape[0] // size
    blocks = P.view(groups, size, groups, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    columns = W.T.view(groups, size, -1)
    return (columns * torch.linalg.solve(blocks, columns)).sum((1, 2))


def eliminate(W: torch.Tensor, P: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """W and P = H⁻¹ without the inputs that are not in ``keep``: the updated columns and the inverse of H_KK."""
    import torch

    gone = torch.ones(P.shape[0], dtype=torch.bool)
    gone[keep] = False
    taken = torch.linalg.solve(P[gone][:, gone], P[gone][:, keep])
    return W[:, keep] - W[:, gone] @ taken, P[keep][:, keep] - P[keep][:, gone] @ taken


def compensated(W: torch.Tensor, H: torch.Tensor, keep: torch.Tensor, damp: float = 0.01) -> torch.Tensor:
    """W_K + W_R H_RK (H_KK + λ I)⁻¹: least squares for the kept columns K once the columns R are gone.

    W float32 ``[out, in]``, H float32 ``[in, in]``, ``keep`` int64 indices; float32 ``[out, len(keep)]``. It minimises
    tr((W' − W) H (W' − W)ᵀ) + λ ‖W'_K − W_K‖², λ = damp · mean(diag H_KK), so little evidence changes little.
    """
    import torch

    gone = torch.ones(H.shape[0], dtype=torch.bool)
    gone[keep] = False
    upper = inverse_factor(H[keep][:, keep], damp).upper
    return W[:, keep] + W[:, gone] @ H[gone][:, keep] @ upper.T @ upper


def output_error(W: torch.Tensor, H: torch.Tensor, keep: torch.Tensor, kept: torch.Tensor) -> float:
    """tr(D H Dᵀ) / tr(W H Wᵀ), D = W − W' where W' holds the columns ``kept`` at ``keep`` and zeros elsewhere:
    the relative squared error of the linear's outputs."""
    D = W.clone()
    D[:, keep] -= kept
    energy = float(((W @ H) * W).double().sum())
    return float(((D @ H) * D).double().sum().clamp_min(0)) / energy if energy > 0 else 0.0
