"""Which rows go into which optimiser step: fixed by the seed alone, so that a resumed run sees what a whole one saw."""

from __future__ import annotations

import random
from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], steps: int, batch: int, seed: int) -> list[list[int]]:
    """``steps`` batches of ``batch`` rows of like length each (indices into ``lengths``), in a random order.

    Every pass uses each row once; rows that do not fill the last batch of a pass wait for the next one.
    Fewer rows than ``batch`` are repeated.
    """
    rng = random.Random(seed)
    rows = list(range(len(lengths))) * -(-batch // len(lengths))
    batches: list[list[int]] = []
    while len(batches) < steps:
        order = rng.sample(rows, len(rows))
        order = order[: len(order) // batch * batch]
        for start in range(0, len(order), batch * 16):
            near = sorted(order[start : start + batch * 16], key=lambda i: (lengths[i], i))
            group = [near[k : k + batch] for k in range(0, len(near), batch)]
            batches += rng.sample(group, len(group))
    return batches[:steps]
