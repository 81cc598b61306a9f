"""Greedy search for the blocks that a text needs least, as in Song et al., "SLEB: Streamlining LLMs through Redundancy
Verification and Elimination of Transformer Blocks" (ICML 2024): remove the block without which the loss is lowest, and
ask again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from compress.model.compute import device, fast_products
from compress.model.decoder import run_block

if TYPE_CHECKING:
    import torch

    from compress.model.blocks import ModelFolder
    from compress.model.rotary import Rope

BATCH = 4
"""Windows that run through a block or the head together."""


class Search(NamedTuple):
    """``removed`` blocks in order; ``losses`` (nats per token) of the whole model and after each removal."""

    removed: list[int]
    losses: list[float]


def search(model: ModelFolder, windows: torch.Tensor, count: int, progress: Callable[..., None]) -> Search:
    """``count`` greedy removals by the loss on int64 ``windows [windows, positions]``.

    A round reads every kept block once. Memory holds one block and, for every block kept, the hidden states of the
    windows without that block, float32 ``[windows, positions, hidden]``.
    """
    import torch

    kept = list(range(model.blocks))
    found = Search([], [])
    windows = windows.to(device())
    with torch.inference_mode(), fast_products():
        for done in range(count):
            progress(done, count, f"searching among {len(kept)} blocks")
            whole, without = losses_without(model, windows, kept)
            if not done:
                found.losses.append(whole)
            least = min(kept, key=without.__getitem__)
            found.removed.append(least)
            found.losses.append(without[least])
            kept.remove(least)
    model.forget()
    return found


def losses_without(model: ModelFolder, windows: torch.Tensor, kept: Sequence[int]) -> tuple[float, dict[int, float]]:
    """Loss of the model with the blocks ``kept``, and by block the loss without that one, too."""
    rope = model.rope(windows.shape[1])
    x = model.embed(windows)
    without: dict[int, torch.Tensor] = {}
    for block in kept:
        tensors = {name: tensor.to(windows.device) for name, tensor in model.block_tensors(block).items()}
        for states in without.values():
            _through(model, block, tensors, states, rope)
        without[block] = x.clone()
        _through(model, block, tensors, x, rope)
    return text_loss(model, x, windows), {block: text_loss(model, y, windows) for block, y in without.items()}


def _through(
    model: ModelFolder, block: int, tensors: Mapping[str, torch.Tensor], x: torch.Tensor, rope: Mapping[str, Rope]
) -> None:
    """Replace the states ``x`` by the block's outputs."""
    for part in x.split(BATCH):
        part.copy_(run_block(model, block, tensors, part, rope))


def text_loss(model: ModelFolder, x: torch.Tensor, windows: torch.Tensor) -> float:
    """Mean cross-entropy of the next tokens in nats from the last block's outputs ``x``."""
    from torch.nn import functional

    total = 0.0
    for states, ids in zip(x.split(BATCH), windows.split(BATCH), strict=True):
        logits = model.logits(model.final_norm(states[:, :-1])).flatten(0, 1)
        total += float(functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum"))
    return total / windows[:, 1:].numel()
