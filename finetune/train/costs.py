"""What training takes: its outline, memory and work, before any of it exists."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from compress import launch
from compress.costs import ROW, TRAINING, WORKER, Work, activations, forward, padded, touched
from compress.outline import Outline, Split, folder_outline
from compress.stage import JobOutline, Needs
from finetune.data import augment
from finetune.train import adapters, batches, training
from finetune.train import together as processes
from runtime.rules import load_rules

PROBES = 16
"""Rows on which a merged model is compared with the trained one."""
LIBRARIES_S, ROW_S = 4.0, 0.0009
"""Seconds of the interpreter: importing trl, peft and bitsandbytes; augmenting and tokenising a row."""
STEP_S, BLOCK_S = 0.02, 0.004
"""Seconds of the interpreter for a step of trl's trainer, and for each block in it."""
PASSES = 13.0
"""Times that a step reads and writes what one pass touches."""


def outline(job: JobOutline[Any]) -> Outline:
    """The merged model is stored as the base is; the adapter in float32 lies beside it."""
    found = folder_outline(job.input.sizes)
    extra = 0 if job.params.method == "full" else 4 * adapters.weights(job.input.sizes, job.params.rank)
    return replace(found, disk_bytes=found.disk_bytes + extra)


def needs(job: JobOutline[Any], split: Split, rows: int = 1, *, referenced: bool = False) -> Needs:
    """Of training on the examples of ``split``, each of ``rows`` rows in the model; ``referenced``: each row is read
    once before training.

    Memory: the trained model with the activations of what goes through it together, or three float32 models while
    merging. Work of a step: one pass forward, one back through the inputs and, for ``full``, one for the weights; the
    head meets the replies alone. Then the merged model and the adapter's answer PROBES rows in float32.
    """
    p, model = job.params, job.input.sizes
    lengths, steps = split.lengths(model), training.steps_of(p, split.rows)
    full = p.method == "full"
    length, longest = (padded(min(size, p.max_length), 8) for size in (lengths.whole, lengths.longest))
    batch = p.batch * rows
    tokens, replies = batch * length, batch * lengths.reply
    trained = model.parameters if full else adapters.weights(model, p.rank)
    step = Work(
        bfloat16=(3 if full else 2) * forward(model, tokens, length, replies) + 6 * tokens * (0 if full else trained),
        moved=PASSES * touched(model, tokens) + 40 * trained,
        python=STEP_S + BLOCK_S * model.shape.blocks * -(-tokens // batches.AT_ONCE),
    )
    work = step * steps
    if referenced:
        every = split.rows * rows
        work += Work(
            bfloat16=forward(model, every * length, length, every * lengths.reply),
            moved=PASSES / 3 * touched(model, every * length),
        )
    probes = Work(float32=2 * forward(model, PROBES * length, length, PROBES * length), moved=60 * model.parameters)
    fixed = Work(python=LIBRARIES_S + split.rows * rows * ROW_S)
    together = min(batch, max(rows, -(-batches.AT_ONCE // longest)))
    base = (16 if full else 4) * model.parameters if p.method != "qlora" else model.linears // 2 + 4 * model.head
    held = (base + 16 * trained) / (launch.place().world if processes.cut() else 1)
    training_bytes = held + activations(model, together, longest, 24, 10) + TRAINING
    memory = WORKER + split.rows * rows * ROW + max(training_bytes, 12 * model.parameters)
    checkpoints = 3 * (24 if full else 12) * trained
    return Needs(int(outline(job).disk_bytes + checkpoints), int(memory), work + probes + fixed)


def augmented(job: JobOutline[Any]) -> Split:
    """The training split with what the rules add, as they add it to a few of its rows."""
    split = job.split("train")
    if job.rules is None or not split.sample:
        return split
    book, few = load_rules(job.rules), [dict(row) for row in split.sample]
    rows, _ = augment.positives(book, few, random.Random(job.seed), vary=job.params.augment)
    return Split(split.rows * len(rows) // len(few), split.disk_bytes, rows)
