"""Cross-entropy of the positions that carry a label, without the scores of a whole batch in memory.

A vocabulary of 50,000 makes the head most of a small model's work. Here labelled positions alone meet it, some at a
time, and the gradient is taken while their scores are at hand, so that each product is computed once (as in Hsu et al.
2024, "Liger Kernel"): with p = softmax(z) and y the target, ∂/∂z (−log p_y) = p − e_y.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
SCORES = 12 * 2**20
"""Scores held at a time."""


class _LabelLoss(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, cap: float | None) -> Tensor:
        rows = max(16, SCORES // head.shape[0])
        total, grad = hidden.new_zeros((), dtype=torch.float32), torch.empty_like(hidden)
        head_grad = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        weight = head.to(hidden.dtype)
        for low in range(0, len(hidden), rows):
            part, wanted = slice(low, low + rows), targets[low : low + rows, None]
            scores = (hidden[part] @ weight.T).float()
            slope = _capped(scores, cap)
            norm = scores.logsumexp(-1, keepdim=True)
            total += (norm - scores.gather(1, wanted)).sum()
            error = scores.sub_(norm).exp_()
            error.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=error.dtype))
            error = (error if slope is None else error.mul_(slope)).to(hidden.dtype)
            torch.mm(error, weight, out=grad[part])
            if head_grad is not None:
                head_grad += error.T @ hidden[part]
        ctx.grads = grad, head_grad
        return total

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        grad, head_grad = ctx.grads
        return grad * above.to(grad.dtype), None if head_grad is None else head_grad * above, None, None


def _capped(scores: Tensor, cap: float | None) -> Tensor | None:
    """Soft-cap ``scores`` in place; the slope of cap · tanh(z / cap)."""
    if not cap:
        return None
    scores.div_(cap).tanh_()
    slope = 1 - scores.square()
    scores.mul_(cap)
    return slope


def label_loss(hidden: Tensor, head: Tensor, labels: Tensor, cap: float | None = None) -> Tensor:
    """Sum in nats over the labelled positions of −log p(label), float32.

    ``hidden`` float ``[rows, positions, width]`` (the head's input), ``head`` ``[vocabulary, width]``, ``labels`` int64
    ``[rows, positions]`` with IGNORED where there is none; position i predicts label i + 1. ``cap``: the family's soft
    cap of logits. Products are computed in bfloat16 on the CPU, sums in float32.
    """
    wanted = functional.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
    places = (wanted != IGNORED).nonzero().squeeze(1)
    return _LabelLoss.apply(hidden.flatten(0, 1)[places].bfloat16(), head, wanted[places], cap)


def score_labels(model: Any) -> None:
    """``model(input_ids=…, scored_labels=…).loss`` is ``label_loss``; other calls are as before."""
    from transformers.modeling_outputs import CausalLMOutput

    plain, cap = model.forward, getattr(model.config, "final_logit_softcapping", None)

    @functools.wraps(type(model).forward)
    def forward(*given: Any, scored_labels: Any = None, **named: Any) -> Any:
        if scored_labels is None:
            return plain(*given, **named)
        hidden = model.base_model(*given, **named).last_hidden_state
        loss = label_loss(hidden, model.get_output_embeddings().weight, scored_labels, cap)
        return CausalLMOutput(loss=loss)

    model.forward = forward
