"""Recovery of a model folder. Some rows are held out: training that does not help on them is dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compress.recover.models import add_adapters, load_model, write_back
from compress.recover.params import Recover
from compress.recover.rows import load_examples, plan_batches, split_held_out
from compress.recover.training import Training

CHECKPOINT = "recover.pt"


def recover_folder(
    *,
    student: Path,
    teacher: Path,
    rows: Path,
    recover: Recover,
    scratch: Path,
    seed: int,
    progress: Callable[..., None],
    blocks: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Train the model in folder ``student`` and write it back there if it got better; facts of the training.

    ``blocks``: the teacher's block whose output each of the student's blocks should give (by default its own).
    """
    examples = load_examples(teacher, rows, recover.max_length)
    held_out, examples = split_held_out(examples)
    plan = plan_batches([len(e.ids) for e in examples], recover.batch, recover.distill_steps, seed)
    guide = load_model(teacher).requires_grad_(False) if recover.guided else None
    pupil = load_model(student)
    adapted = add_adapters(pupil, student, recover.lora, seed) if recover.lora else None
    places = range(pupil.config.num_hidden_layers) if blocks is None else blocks
    run = Training(guide, pupil, recover, scratch / CHECKPOINT, places)
    before = run.held_out(held_out)
    steps = run.train([[examples[i] for i in rows_of_step] for rows_of_step in plan], progress)
    after = run.held_out(held_out)
    if after < before:
        write_back(pupil if adapted is None else adapted.merge_and_unload(), student)
    metric = "kl" if recover.loss == "distill" else "cross_entropy"
    return {
        "examples": len(examples),
        "held_out": len(held_out),
        "steps": len(steps),
        f"{metric}_before": round(before, 6),
        f"{metric}_after": round(after, 6),
        "kept": "recovered" if after < before else "as pruned",
    }
