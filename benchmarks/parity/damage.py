"""Which damages to the weights of a real export ``export.parity`` finds by its row errors, and which it does not.

    python benchmarks/parity/damage.py MODEL GGUF

Every quantized linear of the blocks is damaged in memory, one damage at a time, and held against MODEL as if errors had
been fed back (the wider bounds). Prints the share of tensors in which each damage is found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from export.checkpoint import open_checkpoint
from export.gguf.layout import layout_of
from export.parity.weights import Floats, read_gguf, unexplained, whole


def swapped(values: Floats, head: int) -> Floats:
    """The first two heads change places."""
    return np.concatenate([values[head : 2 * head], values[:head], values[2 * head :]])


def pairs(values: Floats, head: int) -> Floats:
    """Halves of the first head in the order of neighbouring pairs: a rotary permutation too many."""
    moved = values[:head].reshape(2, head // 2, -1).swapaxes(0, 1).reshape(head, -1)
    return np.concatenate([moved, values[head:]])


def changed(values: Floats, rows: slice, factor: float) -> Floats:
    """Some rows times a factor."""
    out = values.copy()
    out[rows] *= factor
    return out


DAMAGES: dict[str, Callable[[Floats, int], Floats]] = {
    "none": lambda v, head: v,
    "two heads swapped": swapped,
    "rotary order of one head": pairs,
    "two rows swapped": lambda v, head: np.concatenate([v[1::-1], v[2:]]),
    "one row zero": lambda v, head: changed(v, slice(7, 8), 0.0),
    "one row negative": lambda v, head: changed(v, slice(7, 8), -1.0),
    "one NaN": lambda v, head: changed(v, slice(7, 8), np.nan),
    "one row 10 times": lambda v, head: changed(v, slice(7, 8), 10.0),
    "all rows times 1.03": lambda v, head: changed(v, slice(None), 1.03),
    "all rows times 1.1": lambda v, head: changed(v, slice(None), 1.1),
    "all rows times 1.5": lambda v, head: changed(v, slice(None), 1.5),
}


def main(model: Path, path: Path) -> None:
    """Print a line for each damage."""
    reference = open_checkpoint(model)
    head = layout_of(reference.config).head_dim
    found = dict.fromkeys((*DAMAGES, "another block's tensor"), 0)
    count = others = 0
    last: dict[str, Floats] = {}
    for stored in read_gguf(path, reference):
        if stored.kind == "F32" or "layers." not in stored.name:
            continue
        source, part = whole(reference, stored.name), stored.name.split(".")[-2]
        count += 1
        for damage, make in DAMAGES.items():
            found[damage] += (
                unexplained(replace(stored, values=make(stored.values, head)), source, fed=True)[1] is not None
            )
        if part in last:
            others += 1
            other = replace(stored, values=last[part])
            found["another block's tensor"] += unexplained(other, source, fed=True)[1] is not None
        last[part] = stored.values
    for damage, number in found.items():
        print(f"| {damage} | {number} of {others if damage.startswith('another') else count} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
