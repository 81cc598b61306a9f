"""What a recovering student minimises, and how fast it may walk.

Logits: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015). Hidden states, and both after pruning:
Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation" (NeurIPS 2024, "Minitron").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over rows of T² · KL(teacher ‖ student); logits float ``[positions, vocabulary]``."""
    from torch.nn import functional

    p = functional.log_softmax(teacher.float() / temperature, dim=-1)
    q = functional.log_softmax(student.float() / temperature, dim=-1)
    return functional.kl_div(q, p, log_target=True, reduction="batchmean") * temperature**2


def text_loss(student: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats; logits float ``[positions, vocabulary]``, ``labels`` int64 ``[positions]``."""
    from torch.nn import functional

    return functional.cross_entropy(student.float(), labels)


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
