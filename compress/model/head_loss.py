"""Losses on a head's input, without the scores of a whole batch in memory.

A vocabulary of 50,000 makes the head most of a small model's work. Here some positions at a time meet it, and the
gradient is taken while their scores z are at hand, so that each product is computed once (as in Hsu et al. 2024,
"Liger Kernel"):

- labels: ∂/∂z (−log softmax(z)_y) = p − e_y;
- distillation (Hinton et al. 2015): ∂/∂z T² KL(p_T ‖ q_T) = T (q_T − p_T), p_T and q_T at temperature T.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

SCORES = 12 * 2**20
"""Scores held at a time."""
Measure = Callable[[slice, "Tensor"], "tuple[Tensor, Tensor]"]
"""(rows, their scores) -> (the sum of their losses, its gradient by the scores, which may overwrite them)."""


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, cap: float | None, measure: Measure) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        grad = torch.empty_like(hidden) if any(ctx.needs_input_grad) else None
        head_grad = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        weight = head.to(hidden.dtype)
        for part in pieces(len(hidden), head.shape[0]):
            scores = (hidden[part] @ weight.T).float()
            slope = _capped(scores, cap)
            loss, error = measure(part, scores)
            total += loss
            if grad is None:
                continue
            error = (error if slope is None else error.mul_(slope)).to(hidden.dtype)
            grad[part] = error @ weight
            if head_grad is not None:
                head_grad += error.T @ hidden[part]
        ctx.grads = grad, head_grad
        return total

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        grad, head_grad = ctx.grads
        return grad * above.to(grad.dtype), None if head_grad is None else head_grad * above, None, None


def pieces(rows: int, vocabulary: int) -> list[slice]:
    """Rows that meet the head together."""
    step = max(16, SCORES // vocabulary)
    return [slice(low, min(low + step, rows)) for low in range(0, rows, step)]


def _capped(scores: Tensor, cap: float | None) -> Tensor | None:
    """Soft-cap ``scores`` in place; the slope of cap · tanh(z / cap)."""
    if not cap:
        return None
    scores.div_(cap).tanh_()
    slope = 1 - scores.square()
    scores.mul_(cap)
    return slope


def _label_error(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(−log softmax(z)_y ``[rows]``, p − e_y ``[rows, vocabulary]``, which overwrites the scores)."""
    wanted = targets[:, None]
    norm = scores.logsumexp(-1, keepdim=True)
    losses = (norm - scores.gather(1, wanted)).squeeze(1)
    error = scores.sub_(norm).exp_()
    return losses, error.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=error.dtype))


def label_loss(hidden: Tensor, head: Tensor, targets: Tensor, cap: float | None = None) -> Tensor:
    """Sum over rows of −log p(target) in nats, float32.

    ``hidden`` float ``[rows, width]``, whose dtype the products are computed in; ``head`` ``[vocabulary, width]``;
    ``targets`` int64 ``[rows]``; ``cap``: the family's soft cap of logits.
    """

    def measure(part: slice, scores: Tensor) -> tuple[Tensor, Tensor]:
        losses, error = _label_error(scores, targets[part])
        return losses.sum(), error

    loss: Tensor = _HeadLoss.apply(hidden, head, cap, measure)
    return loss


def distillation_loss(
    hidden: Tensor,
    head: Tensor,
    teacher: Tensor,
    teacher_head: Tensor,
    temperature: float = 1.0,
    cap: float | None = None,
) -> Tensor:
    """Sum over rows of T² · KL(teacher ‖ student) in nats, float32; shapes as in ``label_loss``, twice."""
    theirs = teacher_head.to(teacher.dtype)

    def measure(part: slice, scores: Tensor) -> tuple[Tensor, Tensor]:
        wanted = (teacher[part] @ theirs.T).float()
        _capped(wanted, cap)
        p = wanted.div_(temperature).log_softmax(-1)
        q = scores.div_(temperature).log_softmax(-1)
        share = p.exp()
        loss = (share * p.sub_(q)).sum() * temperature**2
        return loss, q.exp_().sub_(share).mul_(temperature)

    loss: Tensor = _HeadLoss.apply(hidden, head, cap, measure)
    return loss


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, cap: float | None) -> Tensor:
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        weight = head.to(hidden.dtype)
        for part in pieces(len(hidden), head.shape[0]):
            losses[part], error = _token_error(hidden[part], weight, targets[part], cap)
            if grad is not None:
                grad[part] = error @ weight
        ctx.save_for_backward(hidden, head, targets)
        ctx.grad, ctx.cap = grad, cap
        return losses

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head, targets = ctx.saved_tensors
        grad = None if ctx.grad is None else ctx.grad * above[:, None].to(ctx.grad.dtype)
        head_grad = None
        if ctx.needs_input_grad[1]:
            head_grad, weight = torch.zeros_like(head, dtype=torch.float32), head.to(hidden.dtype)
            for part in pieces(len(hidden), head.shape[0]):
                _, error = _token_error(hidden[part], weight, targets[part], ctx.cap)
                head_grad += (error * above[part, None].to(error.dtype)).T @ hidden[part]
        return grad, head_grad, None, None


def _token_error(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None) -> tuple[Tensor, Tensor]:
    """(losses ``[rows]``, their gradients by the scores ``[rows, vocabulary]`` in hidden's dtype)."""
    scores = (hidden @ weight.T).float()
    slope = _capped(scores, cap)
    losses, error = _label_error(scores, targets)
    return losses, (error if slope is None else error.mul_(slope)).to(hidden.dtype)


def token_losses(hidden: Tensor, head: Tensor, targets: Tensor, cap: float | None = None) -> Tensor:
    """−log p(target) of each row in nats, float32 ``[rows]``; arguments as of ``label_loss``.

    Each row's gradient is kept for a slope of one and multiplied by what the loss above makes of it; only a head that
    is trained itself meets its scores a second time.
    """
    losses: Tensor = _TokenLosses.apply(hidden, head, targets, cap)
    return losses
