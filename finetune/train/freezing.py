"""Which weights learn, from which step on, and how fast.

Gradual unfreezing and discriminative learning rates are those of Howard and Ruder (2018, "Universal Language Model
Fine-tuning for Text Classification"): the last block learns first, the one below joins later, and lower blocks learn
more slowly. All goes by the names of the weights, so adapters freeze as the blocks that they stand in.
"""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.errors import UsageError
from finetune.train.params import Unfreeze

log = logging.getLogger(__name__)
WRAPPED = "base_model.model."
"""What peft puts in front of the names of a model that has adapters."""
_BLOCK = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Plan:
    """What becomes of each weight that training may touch."""

    starts: Mapping[str, int]
    """Name -> optimiser steps before it learns; names that never do are missing."""
    factors: Mapping[str, float]
    """Name -> what its learning rate is multiplied with."""

    def learns(self, name: str, step: int) -> bool:
        """Whether the weight is trained in step ``step`` (from 0)."""
        return name in self.starts and self.starts[name] <= step


def depth(name: str, blocks: int) -> int:
    """0 for what comes before the blocks, i + 1 for block i, ``blocks`` + 1 for what comes behind them."""
    found = _BLOCK.search(name)
    if found:
        return int(found[1]) + 1
    return 0 if re.search(r"embed|wte|wpe", name) else blocks + 1


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern means a weight: by the name that it has in the model's own files, or by peft's."""
    return any(fnmatch.fnmatchcase(known, pattern) for known in (name, name.removeprefix(WRAPPED)))


def plan(
    names: Sequence[str],
    blocks: int,
    *,
    steps: int,
    epoch: int,
    freeze: Sequence[str],
    freeze_blocks: int,
    unfreeze: Unfreeze | None,
    decay: float,
) -> Plan:
    """Of a training of ``steps`` steps, ``epoch`` of them a pass over the data.

    Raises UsageError for a pattern that matches nothing, more blocks than there are, or if nothing is left to learn.
    """
    for pattern in freeze:
        if not any(_matches(name, pattern) for name in names):
            shown = ", ".join(name.removeprefix(WRAPPED) for name in sorted(names)[:: max(1, len(names) // 3)][:3])
            what = f"freeze: {pattern!r} matches no weight that is trained"
            raise UsageError(what, next=f"names look like {shown}")
    if freeze_blocks > blocks:
        raise UsageError(f"freeze_blocks is {freeze_blocks}; the model has {blocks} blocks", next="lower it")
    starts: dict[str, int] = {}
    never = 0
    for name in names:
        place = depth(name, blocks)
        if any(_matches(name, pattern) for pattern in freeze) or (freeze_blocks and place <= freeze_blocks):
            continue
        start = 0 if unfreeze is None else unfreeze.steps(epoch) * max(0, blocks + 1 - unfreeze.first - place)
        if start < steps:
            starts[name] = start
        else:
            never = max(never, start)
    if not any(start == 0 for start in starts.values()):
        raise UsageError("every weight is frozen at the start", next="loosen freeze, freeze_blocks or unfreeze")
    if never:
        log.warning("unfreeze: the lowest weights would join at step %d of %d, so they stay as they are", never, steps)
    return Plan(starts, {name: decay ** max(0, blocks - depth(name, blocks)) for name in names})


def groups(named: Mapping[str, Any], found: Plan, rate: float) -> list[dict[str, Any]]:
    """Parameter groups of an optimizer: weights of one learning rate together, in a fixed order."""
    by_rate: dict[float, list[Any]] = {}
    for name in sorted(found.starts):
        by_rate.setdefault(found.factors[name], []).append(named[name])
    return [{"params": by_rate[factor], "lr": rate * factor} for factor in sorted(by_rate, reverse=True)]


def apply(named: Mapping[str, Any], found: Plan, step: int) -> None:
    """Let each weight learn or not in step ``step``; what is frozen takes no memory for a gradient."""
    for name, weight in named.items():
        learns = found.learns(name, step)
        if weight.requires_grad != learns:
            weight.requires_grad_(learns)
            weight.grad = None


def told(found: Plan, named: Mapping[str, Any], blocks: int) -> dict[str, Any]:
    """Facts: the share of trainable weights that learns at some time, and the step at which each block begins."""
    count = {name: weight.numel() for name, weight in named.items()}
    share = sum(count[name] for name in found.starts) / sum(count.values())
    begin: dict[str, int] = {}
    for name, start in found.starts.items():
        place = depth(name, blocks)
        label = "embedding" if place == 0 else "head" if place > blocks else str(place - 1)
        begin[label] = min(start, begin.get(label, start))
    late = {label: start for label, start in begin.items() if start}
    return {"learning_share": round(share, 4)} | ({"unfrozen_at": late} if late else {})
