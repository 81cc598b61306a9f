"""The loss of group-relative policy optimization, as a function of log-probabilities of tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def token_losses(
    logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, *, clip: float, beta: float
) -> Tensor:
    """GRPO's loss of each token (Shao et al. 2024, eqs. 3 and 4), float32 ``[tokens]``.

    −min(ρA, clip(ρ, 1 − ε, 1 + ε)A) + β (π_ref/π − log(π_ref/π) − 1), ρ = π/π_old. ``logps``, ``old`` and
    ``reference``: log-probabilities of the tokens in nats under the model, under the one that drew them, and under the
    model before training; ``advantages``: those of the replies that the tokens stand in; all float32 ``[tokens]``.
    """
    ratio = (logps - old).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    away = reference - logps
    return beta * (away.exp() - away - 1) - gain
