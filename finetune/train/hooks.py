"""What stands beside the steps of a training: progress, checkpoints that are whole, measuring, unfreezing."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress import launch
from compress.artifact import sha256_file
from compress.errors import ArtifactError
from compress.json_files import read_json, sync, write_json
from compress.memory import trim
from compress.stage import Job
from finetune.train import freezing, together
from finetune.train.objective import Objective
from finetune.train.watching import Watch

log = logging.getLogger(__name__)
INTERVAL = 10
"""Steps between lines of progress."""
WHOLE = "whole.json"
"""File -> SHA-256 of all else in a checkpoint, written once that is on disk."""


def recent_loss(history: Sequence[Mapping[str, Any]]) -> float:
    """Mean loss of the last ``INTERVAL`` steps that have one which is a number."""
    losses = [loss for entry in history if math.isfinite(loss := float(entry.get("loss", "nan")))][-INTERVAL:]
    return sum(losses) / len(losses) if losses else float("nan")


def progress(job: Job[Any], objective: Objective, tokens: float) -> Any:
    """``tokens`` of a step."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):  # type: ignore[misc]
        """Shows progress, and marks a checkpoint as whole once it is on disk."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.first, self.started = state.global_step, time.monotonic()

        def pace(self, step: int, steps: int) -> str:
            """Tokens per second and what is left."""
            seconds = time.monotonic() - self.started
            if step <= self.first or seconds <= 0:
                return ""
            left = (steps - step) * seconds / (step - self.first)
            return f", {(step - self.first) * tokens / seconds:,.0f} tokens/s, {left / 60:.1f} min left"

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if state.global_step % INTERVAL and state.global_step < state.max_steps:
                return
            trim()  # batches of other lengths leave holes: without this the heap grows by a half in 50 steps
            note = f"loss {recent_loss(state.log_history):.3f}{objective.note()}"
            note += self.pace(state.global_step, state.max_steps)
            job.progress(state.global_step, state.max_steps, note)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            together.wait()
            if not launch.place().leads:
                return
            sums = {}
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    sync(path)
                    sums[path.relative_to(folder).as_posix()] = sha256_file(path)
            write_json(folder / WHOLE, sums)
            sync(folder)

    return Progress()


def watcher(trainer: Any, watch: Watch) -> Any:
    from transformers import TrainerCallback

    class Guard(TrainerCallback):  # type: ignore[misc]
        """Measures and stops."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> Any:
            if "loss" in (logs or {}) and not watch.step(trainer, state.global_step, logs):
                control.should_training_stop = True
            return control

    return Guard()


def unfreezer(trainer: Any) -> Any:
    from transformers import TrainerCallback

    class Thaw(TrainerCallback):  # type: ignore[misc]
        """What learns in the step to come; also in the first one of a run that is resumed."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            freezing.apply(trainer.learnable, trainer.plan, state.global_step)

    return Thaw()


def last_checkpoint(scratch: Path) -> Path | None:
    """The latest whole checkpoint. Half-written and damaged ones behind it are removed."""
    together.wait()
    found = sorted(scratch.glob("checkpoint-*"), key=lambda folder: -int(folder.name.split("-")[1]))
    last = next((folder for folder in found if _whole(folder)), None)
    together.wait()
    for folder in found[: len(found) if last is None else found.index(last)]:
        if launch.place().leads:
            if (folder / WHOLE).is_file():
                log.warning("%s is damaged: training goes on from an earlier step", folder)
            shutil.rmtree(folder)
    together.wait()
    return last


def _whole(folder: Path) -> bool:
    """Whether everything in a checkpoint is as it was written."""
    try:
        sums = read_json(folder / WHOLE)
    except ArtifactError:
        return False
    return all((folder / name).is_file() and sha256_file(folder / name) == digest for name, digest in sums.items())
