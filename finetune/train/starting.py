"""What is asked before a training begins."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress import launch
from compress.artifact import sha256_file
from compress.errors import ArtifactError, UsageError
from compress.json_files import write_json
from compress.model.config import read_generation_config
from compress.stage import Job
from finetune.train import together
from finetune.train.objective import Example

log = logging.getLogger(__name__)
BEGAN = "began.json"
"""In the scratch folder: the settings with which a training began."""


def require_template(folder: Path, tokenizer: Any) -> None:
    """Raise ArtifactError where nothing says how a conversation becomes tokens."""
    if not tokenizer.chat_template:
        what = f"{folder} has no chat template: nothing says how a conversation becomes tokens"
        raise ArtifactError(what, next="add chat_template.jinja to the model's folder")


def require_ends(folder: Path, tokenizer: Any, examples: Sequence[Example]) -> None:
    """Warn where no reply is taught to end. (A padding token that is the end token takes nothing away: labels go by
    place, not by token.)"""
    given = read_generation_config(folder).get("eos_token_id")
    ends = {tokenizer.eos_token_id, *(given if isinstance(given, list) else [given])} - {None}
    if not any(label in ends for example in examples[:256] for row in example for label in row["labels"]):
        named = ", ".join(repr(tokenizer.convert_ids_to_tokens(end)) for end in sorted(ends)) or "the model has none"
        log.warning("no reply ends with an end token (%s): the model does not learn to stop", named)


def require_same(job: Job[Any]) -> None:
    """Raise UsageError where the scratch folder holds a training with other settings."""
    given = job.params.model_dump(mode="json") | {"seed": job.seed, "model": job.input.digest}
    given["data"] = job.data.digest if job.data else None
    given["rules"] = sha256_file(job.rules) if job.rules else None
    place = job.scratch / BEGAN
    began = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else given
    for name in sorted(given | began):
        if given.get(name) != began.get(name):
            what = f"{job.scratch} holds a training with other settings: {name} was {began.get(name)}"
            raise UsageError(
                f"{what}, is {given.get(name)}", next="remove that folder, or give the settings it began with"
            )
    together.wait()
    if launch.place().leads:
        job.scratch.mkdir(parents=True, exist_ok=True)
        write_json(place, given)
