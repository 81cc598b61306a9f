"""Log-probabilities of the positions that carry a label, as a forward pass of the model."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import UnsupportedArchitecture
from compress.model import head_loss
from compress.model.families import logit_cap
from finetune.train.objective import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

PROBED = 8
"""Tokens on which a model's own logits are looked at."""
OFF = 0.01
"""Share by which products in lower precision may differ."""


def label_loss(hidden: Tensor, head: Tensor, labels: Tensor, cap: float | None = None) -> Tensor:
    """Sum in nats over the labelled positions of −log p(label), float32.

    ``hidden`` float ``[rows, positions, width]`` (the head's input), ``head`` ``[vocabulary, width]``, ``labels`` int64
    ``[rows, positions]`` with IGNORED where there is none; position i predicts label i + 1. ``cap``: the family's soft
    cap of logits. Products are computed in bfloat16, sums in float32.
    """
    wanted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
    places = (wanted != IGNORED).nonzero().squeeze(1)
    return head_loss.label_loss(hidden.flatten(0, 1)[places].bfloat16(), head, wanted[places], cap)


def token_logps(hidden: Tensor, head: Tensor, labels: Tensor, cap: float | None = None) -> tuple[Tensor, Tensor]:
    """(log p of every label in nats, float32, row after row; its row, int64), both ``[labels]``; arguments as above."""
    wanted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    row, place = (wanted != IGNORED).nonzero(as_tuple=True)
    return -head_loss.token_losses(hidden[row, place].bfloat16(), head, wanted[row, place], cap), row


def reply_logps(hidden: Tensor, head: Tensor, labels: Tensor, cap: float | None = None) -> tuple[Tensor, Tensor]:
    """(sum of log p over each row's labels in nats, their number), both float32 ``[rows]``; arguments as above."""
    logps, row = token_logps(hidden, head, labels, cap)
    nothing = logps.new_zeros(len(labels))
    return nothing.index_add(0, row, logps), nothing.index_add(0, row, torch.ones_like(logps))


def head_scale(model: Any) -> float:
    """What the head's product is multiplied with to be logits: 1 in most families, not in Granite and Cohere.

    Found by what the model itself makes of a few tokens. Raises UnsupportedArchitecture where its logits are no
    multiple of that product (Phi-2's head has biases), for the loss would be another model's.
    """
    head, cap, seen = model.get_output_embeddings(), logit_cap(model.config), dict[str, Any]()
    training, card = model.training, [head.weight.device] * head.weight.is_cuda
    ids = torch.arange(PROBED, device=head.weight.device)[None] % len(head.weight)
    hooks = (
        model.base_model.register_forward_hook(lambda module, given, out: seen.update(last=out.last_hidden_state)),
        head.register_forward_pre_hook(lambda module, given: seen.setdefault("last", given[0])),  # OPT asks its decoder
    )
    weight = head.weight.detach()
    with torch.no_grad(), torch.random.fork_rng(card):  # whatever dropout draws
        logits = model.train()(input_ids=ids, use_cache=False).logits.float()  # NF4 would be repacked for inference
    model.train(training)
    for hook in hooks:
        hook.remove()
    product = seen["last"].float() @ weight.float().T
    if cap:
        product = cap * torch.tanh(product / cap)
    scale = float((logits * product).sum() / product.square().sum().clamp(min=1e-30))
    if not float((logits - scale * product).norm()) <= OFF * float(logits.norm()):
        what = f"the logits of a {type(model).__name__} are more than a product with its head (biases, another layer)"
        raise UnsupportedArchitecture(what, next="give a model of another family")
    return 1.0 if abs(scale - 1) < OFF else float(f"{scale:.5g}")


def score_labels(model: Any) -> None:
    """``model(input_ids=…, scored_labels=…)`` gives ``label_loss`` as its loss, with ``by_row=True`` the pair of
    ``reply_logps``, with ``by_token=True`` that of ``token_logps``; other calls are as before."""
    from transformers.modeling_outputs import CausalLMOutput

    plain, cap, scale = model.forward, logit_cap(model.config), head_scale(model)

    @functools.wraps(type(model).forward)
    def forward(
        *given: Any, scored_labels: Any = None, by_row: bool = False, by_token: bool = False, **named: Any
    ) -> Any:
        if scored_labels is None:
            return plain(*given, **named)
        hidden = model.base_model(*given, **named).last_hidden_state
        hidden = hidden if scale == 1 else hidden * scale
        head = model.get_output_embeddings().weight
        if by_token:
            return token_logps(hidden, head, scored_labels, cap)
        if by_row:
            return reply_logps(hidden, head, scored_labels, cap)
        return CausalLMOutput(loss=label_loss(hidden, head, scored_labels, cap))

    model.forward = forward
