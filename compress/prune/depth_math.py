"""Which blocks to remove, from numbers alone."""

from __future__ import annotations

from collections.abc import Sequence


def least_influential(similarity: Sequence[float], count: int) -> list[int]:
    """The ``count`` blocks with the lowest influence, lowest first (ties: the later block).

    Influence of a block: 1 − the mean cosine between its input and output (``similarity``). Men et al., "ShortGPT:
    Layers in Large Language Models are More Redundant Than You Expect" (2024).
    """
    return sorted(range(len(similarity)), key=lambda block: (-similarity[block], -block))[:count]


def random_blocks(blocks: int, count: int, seed: int) -> list[int]:
    """``count`` of ``blocks`` block indices, drawn without replacement: the floor that any method must beat."""
    import torch

    return torch.randperm(blocks, generator=torch.Generator().manual_seed(seed))[:count].tolist()


def stand_ins(kept: Sequence[int], blocks: int) -> list[int]:
    """For each kept block, the block of the whole model whose output it now has to give: the one that came right
    before the next kept block, and the last one for the last."""
    return [following - 1 for following in [*kept[1:], blocks]]
