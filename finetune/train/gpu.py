"""What training takes on a GPU, and how it is fitted in: how many tokens go through the model together, and whether
their activations are kept or computed twice (gradient checkpointing; Chen et al. 2016).

The constants were fitted to peaks that one card reported (benchmarks/README.md, "Training on a GPU").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.errors import UsageError
from finetune.train import adapters

if TYPE_CHECKING:
    from compress.outline import ModelOutline
    from finetune.train.params import TuningParams

CONTEXT = 600_000_000
"""Bytes that CUDA and its libraries take before anything is computed."""
SHARE = 0.88
"""Of the free memory that is planned with: the rest is what the allocator cannot join."""
NF4 = 0.516
"""Bytes of an NF4 weight with its doubly quantized scales (Dettmers et al. 2023)."""
HIDDEN, KEYS, FFN = 22.0, 4.0, 14.8
"""Bytes of activations per token and block, for each channel of the hidden state, the keys and the FFN."""
KEPT, GRADIENT = 4.0, 16.0
"""Per token and hidden channel: a block's input, where it alone is kept; gradients of the one computed again."""
ENOUGH, MOST = 4096, 32_768
"""Tokens together from which keeping activations is faster than computing them twice; more than that are no faster."""


@dataclass(frozen=True)
class Fit:
    """How a batch goes through the model."""

    tokens: int
    """At most so many together."""
    checkpointing: bool
    """Whether activations are computed a second time instead of being kept."""


def fixed(model: ModelOutline, p: TuningParams, over: int = 1) -> float:
    """Bytes of weights, gradients and the optimiser's state, and of the largest weight in bfloat16; where the model is
    cut ``over`` processes, of its part and what of it is whole at a time: a block, the embedding and the head."""
    moments = 2 if p.optimizer.endswith("_8bit") else 8
    largest = 2 * max(model.head, max(a * b for a, b in model.inputs))
    heads = 4 * model.head * (1 if model.tied else 2)
    states: float = (8 + moments) * model.parameters
    if p.method != "full":
        base = NF4 * model.linears + heads if p.method == "qlora" else 4 * model.linears + heads
        states = base + (8 + moments) * adapters.weights(model, p.rank)
    if over == 1:
        return states + largest
    whole = (heads + 4 * model.linears / model.shape.blocks) * (2 if p.method == "full" else 1)
    return states / over + whole + largest


def per_token(model: ModelOutline, *, checkpointing: bool) -> float:
    """Bytes that a token's way through the model leaves for the way back."""
    s = model.shape
    block = HIDDEN * s.hidden + KEYS * s.kv_heads * s.head_dim + FFN * s.ffn
    return (KEPT * s.blocks + GRADIENT) * s.hidden + block if checkpointing else block * s.blocks


def peak(model: ModelOutline, p: TuningParams, fit: Fit) -> float:
    """Bytes at the highest point of a step."""
    return CONTEXT + fixed(model, p) + fit.tokens * per_token(model, checkpointing=fit.checkpointing)


def fitted(model: ModelOutline, p: TuningParams, longest: int, rows: int, free: float, over: int = 1) -> Fit:
    """How batches of ``p.batch`` examples of ``rows`` rows, up to ``longest`` tokens each, fit into ``free`` bytes;
    ``over`` as in ``fixed``.

    Activations are kept where ENOUGH tokens (or the whole batch) fit so, else computed twice. Raises UsageError where
    one example does not fit either way.
    """
    room = SHARE * free - CONTEXT - fixed(model, p, over)
    batch, one = p.batch * rows * longest, rows * longest
    for checkpointing, wanted in ((False, min(batch, ENOUGH)), (True, one)):
        tokens = int(room / per_token(model, checkpointing=checkpointing))
        if tokens >= wanted:
            parts = -(-p.batch // max(1, min(tokens, MOST) // one))
            return Fit(-(-p.batch // parts) * one, checkpointing)
    need, there = (free + (one * per_token(model, checkpointing=True) - room) / SHARE) / 1e9, free / 1e9
    raise UsageError(
        f"training needs {need:.1f} GB of GPU memory for one example of {longest} tokens, {there:.1f} GB are free",
        next="set method: qlora, an 8-bit optimizer, or a smaller max_length",
    )


def highest() -> dict[str, int]:
    """``gpu_peak_bytes`` of this process, where there is a GPU."""
    import torch

    return {"gpu_peak_bytes": torch.cuda.max_memory_reserved() + CONTEXT} if torch.cuda.is_available() else {}
