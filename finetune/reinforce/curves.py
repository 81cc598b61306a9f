"""What training.json holds of the rewards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.json_files import write_json
from finetune.reinforce import rewards
from finetune.train.watching import HISTORY


def line(step: int, values: rewards.Floats, names: Sequence[str]) -> list[Any]:
    """[step, share of replies that pass every check, replies, {reward: replies that do not earn it}]; ``values``
    ``[replies, rewards]``."""
    share = round(float(rewards.passes(values).mean()), 4)
    return [step, share, len(values), rewards.broken_counts(names, values)]


def add(out: Path, lines: Sequence[list[Any]]) -> None:
    """Put them into the training's history, as ``replies``."""
    history = json.loads((out / HISTORY).read_text(encoding="utf-8"))
    write_json(out / HISTORY, {**history, "replies": list(lines)})
