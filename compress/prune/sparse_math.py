"""Which weights to set to zero, and how the others make up for it.

Wanda: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (ICLR 2024). SparseGPT: Frantar &
Alistarh (ICML 2023), in the notation of GPTQ: H⁻¹ = Uᵀ U with U upper triangular. Matrices are transposed, W is
``[in, out]``: an input is a row. Masks are bool ``[in, out]``, True where the weight is removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from compress.errors import UsageError

if TYPE_CHECKING:
    import torch

BLOCK = 128
"""Inputs after which SparseGPT chooses a new mask and brings all later inputs up to date by one product."""


class Pattern(NamedTuple):
    """N:M sparsity: of every ``of`` consecutive inputs of an output, ``zeros`` are removed."""

    zeros: int
    of: int


PATTERNS = {"2:4": Pattern(2, 4), "4:8": Pattern(4, 8)}


def check_pattern(inputs: int, pattern: Pattern, name: str) -> None:
    """UsageError naming the linear unless ``pattern.of`` divides its inputs."""
    if inputs % pattern.of:
        raise UsageError(
            f"{name} has {inputs} inputs, which {pattern.of} does not divide",
            next="use pattern: unstructured for this model",
        )


def choose_mask(scores: torch.Tensor, target: float | Pattern, *, per_output: bool = True) -> torch.Tensor:
    """The lowest scores go: float ``[in, out]`` -> bool ``[in, out]``, True where the weight is removed.

    ``target``: a share of the weights (0 to 1), taken from each output alone or from the whole matrix, or a Pattern,
    whose ``of`` must divide ``in``. Ties go to the lower input.
    """
    import torch

    if isinstance(target, Pattern):
        grouped = scores.reshape(-1, target.of, scores.shape[1])
        return choose_lowest(grouped, target.zeros).view(scores.shape)
    if per_output:
        return choose_lowest(scores[None], round(target * scores.shape[0]))[0]
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[torch.argsort(scores.flatten(), stable=True)[: round(target * scores.numel())]] = True
    return mask.view(scores.shape)


def choose_lowest(grouped: torch.Tensor, count: int) -> torch.Tensor:
    """Bool like ``grouped`` ``[groups, members, out]``: True at the ``count`` lowest members of a group and output."""
    import torch

    lowest = torch.argsort(grouped, dim=1, stable=True)[:, :count]
    return torch.zeros(grouped.shape, dtype=torch.bool).scatter_(1, lowest, True)


def wanda_scores(W: torch.Tensor, mean_square: torch.Tensor) -> torch.Tensor:
    """|W_ij| · ‖x_i‖₂ (up to √tokens): W float ``[in, out]``, ``mean_square`` float32 ``[in]`` of the inputs."""
    return W.abs() * mean_square.clamp_min(0).sqrt()[:, None]


def obs_scores(W: torch.Tensor, pivots: torch.Tensor) -> torch.Tensor:
    """(W_ij / U_ii)²: the squared output error of removing a weight once the later inputs make up for it.

    W float32 ``[in, out]``, ``pivots`` float32 ``[in]`` the diagonal of U; float32 ``[in, out]``.
    """
    return (W / pivots[:, None]).square_()


def sparsegpt(W: torch.Tensor, U: torch.Tensor, target: float | Pattern) -> torch.Tensor:
    """SparseGPT's Algorithm 1: W float32 ``[in, out]`` with zeros, the later inputs updated for each removed weight.

    U float32 ``[in, in]``, upper triangular, H⁻¹ = Uᵀ U. A share is chosen per 128 inputs over all outputs together,
    a Pattern (whose ``of`` divides 128 and ``in``) when its first input is reached.
    """
    import torch

    W = W.clone()
    n, out = W.shape
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        E = torch.zeros(stop - start, out)
        step = target.of if isinstance(target, Pattern) else BLOCK
        for low in range(start, stop, step):
            high = min(low + step, stop)
            mask = choose_mask(obs_scores(W[low:high], U.diagonal()[low:high]), target, per_output=False)
            for i in range(low, high):
                _remove(W, U, i, mask[i - low], E[i - start], stop)
        W[stop:] -= U[start:stop, stop:].T @ E
    return W


def _remove(W: torch.Tensor, U: torch.Tensor, i: int, gone: torch.Tensor, e: torch.Tensor, stop: int) -> None:
    """Zero W[i] where ``gone``; rows up to ``stop`` take the error ``e`` over now, later rows with their block."""
    e.copy_(W[i] / U[i, i]).masked_fill_(~gone, 0.0)
    W[i].masked_fill_(gone, 0.0)
    W[i + 1 : stop].addr_(U[i, i + 1 : stop], e, alpha=-1)


def sparsity(W: torch.Tensor) -> float:
    """Share of exact zeros."""
    return float((W == 0).double().mean())
