"""Cross-entropy of the positions that carry a label, as a forward pass of the model."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from compress.model import head_loss

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100


def label_loss(hidden: Tensor, head: Tensor, labels: Tensor, cap: float | None = None) -> Tensor:
    """Sum in nats over the labelled positions of −log p(label), float32.

    ``hidden`` float ``[rows, positions, width]`` (the head's input), ``head`` ``[vocabulary, width]``, ``labels`` int64
    ``[rows, positions]`` with IGNORED where there is none; position i predicts label i + 1. ``cap``: the family's soft
    cap of logits. Products are computed in bfloat16, sums in float32.
    """
    wanted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
    places = (wanted != IGNORED).nonzero().squeeze(1)
    return head_loss.label_loss(hidden.flatten(0, 1)[places].bfloat16(), head, wanted[places], cap)


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
