"""What a recovering student minimises beside the loss at its head, and how fast it may walk.

Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation" (NeurIPS 2024, "Minitron").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def hidden_loss(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over blocks of the mean squared error between states float ``[positions, hidden]`` scaled to unit RMS."""
    import torch

    errors = [(unit_rms(s) - unit_rms(t)).square().mean() for s, t in zip(student, teacher, strict=True)]
    return torch.stack(errors).mean()


def unit_rms(x: torch.Tensor) -> torch.Tensor:
    """x / √mean x² over the last axis, float32."""
    import torch

    return torch.nn.functional.rms_norm(x.float(), x.shape[-1:], eps=1e-6)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 5 % of the steps, cosine to a tenth of the peak."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.55 + 0.45 * math.cos(math.pi * (step - warm) / max(1, steps - warm)))
