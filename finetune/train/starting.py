"""What is asked before a training begins."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress import launch
from compress.artifact import sha256_file
from compress.errors import ArtifactError, DataError, UsageError
from compress.json_files import write_json
from compress.model.config import read_config, read_generation_config
from compress.stage import Job
from finetune.train import together
from finetune.train.objective import Example

log = logging.getLogger(__name__)
CONTEXT = ("max_position_embeddings", "n_positions")
"""Names of the number of positions in config.json."""
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


def require_room(folder: Path, examples: Sequence[Example]) -> None:
    """Raise DataError for a row with more tokens than the model has positions."""
    config = read_config(folder)
    places = next((v for name in CONTEXT if isinstance(v := config.get(name), int)), None)
    longest = max(len(row["input_ids"]) for example in examples for row in example)
    if places is not None and longest > places:
        what = f"a row has {longest} tokens, and the model {places} positions"
        raise DataError("training data", None, what, next=f"set max_length to {places} or less, or shorten the rows")


def require_ids(tokenizer: Any, model: Any, examples: Sequence[Example]) -> None:
    """Raise ArtifactError for a token that the model has no embedding for."""
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(max(row["input_ids"]) for example in examples for row in example)
    if highest >= rows:
        token = tokenizer.convert_ids_to_tokens(highest)
        what = f"the tokenizer gives {token!r} the number {highest}, and the model has embeddings for {rows} tokens"
        raise ArtifactError(what, next="give the tokenizer of these very weights")


def known(place: Path) -> Any:
    """A JSON value in the scratch folder. Raises UsageError where it is damaged."""
    try:
        return json.loads(place.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        what = f"{place} is damaged ({error}): what was trained so far cannot be used"
        raise UsageError(what, next=f"remove {place.parent}; the training then begins again") from None


def require_same(job: Job[Any]) -> None:
    """Raise UsageError where the scratch folder holds a training with other settings."""
    given = job.params.model_dump(mode="json") | {"seed": job.seed, "model": job.input.digest}
    given["data"] = job.data.digest if job.data else None
    given["rules"] = sha256_file(job.rules) if job.rules else None
    place = job.scratch / BEGAN
    began = known(place) if place.is_file() else given
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
