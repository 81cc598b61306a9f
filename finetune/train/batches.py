"""Which rows go into which optimiser step, and how they go through the model.

All is fixed by the seed alone, so that a resumed run sees what a whole one saw.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from finetune.train import merge, sharding
from finetune.train.objective import IGNORED

AT_ONCE = 1024
"""Tokens that go through the model together on a CPU: more are no faster, and their activations fill the memory."""


def plan_batches(lengths: Sequence[int], steps: int, batch: int, seed: int, *, fill: bool = False) -> list[list[int]]:
    """``steps`` batches of ``batch`` rows of like length each (indices into ``lengths``), in a random order.

    Every pass uses each row once, and those that do not fill its last batch not at all; with ``fill`` others fill it,
    so that every pass uses all. Fewer rows than ``batch`` are repeated.
    """
    rng = random.Random(seed)
    rows = list(range(len(lengths))) * (1 if fill else -(-batch // len(lengths)))
    batches: list[list[int]] = []
    while len(batches) < steps:
        order = rng.sample(rows, len(rows))
        if fill:
            order = list(itertools.islice(itertools.cycle(order), -(-len(order) // batch) * batch))
        order = order[: len(order) // batch * batch]
        for start in range(0, len(order), batch * 16):
            near = sorted(order[start : start + batch * 16], key=lambda i: (lengths[i], i))
            group = [near[k : k + batch] for k in range(0, len(near), batch)]
            batches += rng.sample(group, len(group))
    return batches[:steps]


def collate(pad: int) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Rows to tensors: lists padded on the right to a multiple of 8, where causal attention does not look; numbers as
    float32 ``[rows]``."""

    def together(rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        width = -(-max(len(row["input_ids"]) for row in rows) // 8) * 8
        fill = {"input_ids": pad, "labels": IGNORED}
        batch: dict[str, Any] = {}
        for name, first in rows[0].items():
            values = [row[name] for row in rows]
            if isinstance(first, list):
                batch[name] = torch.tensor([[*value, *[fill[name]] * (width - len(value))] for value in values])
            else:
                batch[name] = torch.tensor(values, dtype=torch.float32)
        return batch

    return together


def pack(pad: int) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Rows to tensors, several in one row: the longest first, each into the first row that has room for it (first-fit
    decreasing, Johnson 1973). ``position_ids`` start again with every conversation, from which transformers makes the
    mask that keeps conversations apart.

    Rows are as wide as the longest conversation, so there are never more positions than unpacked, nor more pairs of
    them for attention, which computes those of different conversations, too, before it hides them."""

    def together(rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        made: list[dict[str, list[int]]] = []
        place: dict[str, list[int]] | None
        width = -(-max(len(row["input_ids"]) for row in rows) // 8) * 8
        for row in sorted(rows, key=lambda row: -len(row["input_ids"])):
            size = len(row["input_ids"])
            place = next((m for m in made if len(m["input_ids"]) + size <= width), None)
            if place is None:
                place = {"input_ids": [], "labels": [], "position_ids": []}
                made.append(place)
            place["input_ids"] += row["input_ids"]
            place["labels"] += [IGNORED, *row["labels"][1:]]  # nothing before it tells the first token
            place["position_ids"] += range(size)
        for m in made:
            rest = width - len(m["input_ids"])
            m["input_ids"] += [pad] * rest
            m["labels"] += [IGNORED] * rest
            m["position_ids"] += range(rest)
        return {name: torch.tensor([m[name] for m in made]) for name in made[0]}

    return together


def split(inputs: Mapping[str, Any], rows: int) -> Iterator[dict[str, Any]]:
    """Parts of a batch of at most so many rows."""
    for start in range(0, len(inputs["labels"]), rows):
        yield {name: value[start : start + rows] for name, value in inputs.items()}


def rows_at_once(ids: Any, tokens: int, together: int = 1) -> int:
    """Rows of ``ids`` ``[rows, positions]`` that go through the model together: about ``tokens`` at most, in parts of
    like size; a multiple of ``together``."""
    rows, width = ids.shape
    parts = -(-rows * width // tokens)
    return max(1, -(-rows // parts // together)) * together


@contextlib.contextmanager
def measured(trainer: Any) -> Iterator[Any]:
    """The trainer's model as it is measured: without dropout and gradients, NF4 weights multiplied as in training."""
    import torch

    model, training = trainer.model, trainer.model.training
    merge.multiply_as_in_training(model.eval())
    with torch.no_grad(), trainer.compute_loss_context_manager():
        yield model
    model.train(training)


def scored(
    trainer: Any, rows: Sequence[Mapping[str, Any]], at_once: Mapping[str, int], **wanted: bool
) -> Iterator[tuple[list[int], Any]]:
    """(places in ``rows``, what the trainer's model says of the labels there), the widest rows first; no gradient.

    ``at_once``: tokens that go through it together, by type of device; ``wanted``: see ``loss.score_labels``.
    """
    device = next(trainer.model.parameters()).device
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
    done = passes = 0
    with measured(trainer) as model:
        while done < len(order):
            width = -(-len(rows[order[done]]["input_ids"]) // 8) * 8
            chosen = order[done : done + max(1, at_once[device.type] // width)]
            batch = trainer.data_collator([{name: rows[i][name] for name in ("input_ids", "labels")} for i in chosen])
            ids, labels = batch["input_ids"].to(device), batch["labels"].to(device)
            yield chosen, model(input_ids=ids, scored_labels=labels, use_cache=False, **wanted)
            done += len(chosen)
            passes += 1
        sharding.accompany(model, passes)
