"""Which weights learn, from which step on, and how fast.

Gradual unfreezing and discriminative learning rates are those of Howard and Ruder (2018, "Universal Language Model
Fine-tuning for Text Classification"): the last block learns first, the one below joins later, and lower blocks learn
more slowly. All goes by the names of the weights, so adapters freeze as the blocks that they stand in.
"""

from __future__ import annotations

import difflib
import fnmatch
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from compress.errors import UsageError
from finetune.train.params import Unfreeze

log = logging.getLogger(__name__)
WRAPPED = "base_model.model."
"""What peft puts in front of the names of a model that has adapters."""
_BLOCK = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")
_ADAPTER = re.compile(r"\.lora_.*$")
SHOWN = 3
"""Names that an error shows."""
Names = Mapping[str, Sequence[frozenset[str]]]
"""Name of a weight -> what it may be called; a set of several stands for them all together."""


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


def known_names(model: Any, files: Collection[str]) -> tuple[Names, Names]:
    """What a user may call each weight that learns, and each that does not: as ``named_parameters`` does, under peft or
    without it and by every name of a tied one, and as the model's ``files`` do, which transformers renames when it
    loads them. An adapter also goes by the weight that it stands in."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    twins: dict[int, set[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        twins.setdefault(id(weight), set()).add(name.removeprefix(WRAPPED))
    learn: dict[str, list[frozenset[str]]] = {}
    stay: dict[str, list[frozenset[str]]] = {}
    for name, weight in model.named_parameters():
        adapter = _ADAPTER.search(name)
        owner = name[: adapter.start()] if adapter else name.rpartition(".")[0]
        plain = (f"{owner}.weight" if adapter else name).removeprefix(WRAPPED).replace(".base_layer.", ".")
        layer, single = model.get_submodule(owner), {name, plain} | twins[id(weight)]
        linear = plain.endswith(".weight") and hasattr(layer, "out_features")  # one of NF4 has another shape
        stored = _stored(base, plain, (layer.out_features, layer.in_features) if linear else tuple(weight.shape))
        short = plain.removeprefix(f"{base.base_model_prefix}.")
        found = [stored, *(frozenset({known}) for known in sorted(single | ({short} & set(files))))]
        (learn if weight.requires_grad else stay)[name] = found
    return learn, stay


def _stored(base: Any, name: str, shape: tuple[int, ...]) -> frozenset[str]:
    """The names of a transformers model's weight in its files; several where it is put together from them."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    return frozenset(revert_weight_conversion(base, {name: torch.empty(shape, device="meta")}))


def _matches(known: Sequence[frozenset[str]], pattern: str) -> bool:
    """Whether a pattern means a weight by one of its names. Raises UsageError where it means a part of it alone."""
    for together in known:
        meant = {name for name in together if fnmatch.fnmatchcase(name, pattern)}
        if meant == together:
            return True
        if meant:
            rest = min(together - meant)
            what = f"freeze: {pattern!r} means {min(meant)} and not {rest}, which are one weight in training"
            raise UsageError(what, next="let the pattern mean all of them, or leave it out")
    return False


def _require_match(names: Names, others: Names, pattern: str) -> None:
    """Raise UsageError, with what the weights are called, for a pattern that means none of ``names``."""
    if any(_matches(known, pattern) for known in names.values()):
        return
    what = f"freeze: {pattern!r} matches no weight that is trained"
    still = [name.removeprefix(WRAPPED) for name, known in others.items() if _matches(known, pattern)]
    if still:
        raise UsageError(f"{what}; {still[0]} stays as it is anyway", next="leave the pattern out")
    every = {min(one) for known in names.values() for one in known if not min(one).startswith(WRAPPED)}
    shown = {_BLOCK.sub(lambda found: found[0].replace(found[1], "*"), name) for name in every}
    near = sorted(shown, key=lambda name: (-_likeness(pattern.strip("*?."), name), name))[:SHOWN]
    raise UsageError(what, next=f"near it are {', '.join(near)}")


def _likeness(wanted: str, name: str) -> float:
    """How much of ``wanted`` stands in ``name``, and how little else does."""
    same = difflib.SequenceMatcher(None, wanted, name, autojunk=False)
    return (
        sum(block.size for block in same.get_matching_blocks() if block.size > 1) / max(1, len(wanted)) + same.ratio()
    )


def plan(
    names: Names,
    blocks: int,
    *,
    steps: int,
    epoch: int,
    freeze: Sequence[str],
    freeze_blocks: int,
    unfreeze: Unfreeze | None,
    decay: float,
    others: Names = MappingProxyType({}),
) -> Plan:
    """Of a training of ``steps`` steps, ``epoch`` of them a pass over the data; ``others``: the model's other weights.

    Raises UsageError for a pattern that matches nothing, more blocks than there are, or if nothing is left to learn.
    """
    for pattern in freeze:
        _require_match(names, others, pattern)
    if freeze_blocks > blocks:
        raise UsageError(f"freeze_blocks is {freeze_blocks}; the model has {blocks} blocks", next="lower it")
    starts: dict[str, int] = {}
    never = 0
    for name, known in names.items():
        place = depth(name, blocks)
        if any(_matches(known, pattern) for pattern in freeze) or (freeze_blocks and place <= freeze_blocks):
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
