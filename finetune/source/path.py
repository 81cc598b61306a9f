"""Stage ``source.path``: a base model from a folder, checked before use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.costs import WORKER, Work
from compress.model.outline import folder_outline
from compress.outline import Outline
from compress.stage import Job, JobOutline, Needs, Params, Stage
from finetune.source.folder import check_model_folder, take
from finetune.source.template import make_default
from runtime.engine.chat import of_folder

HASHED = 30
"""Bytes moved for one that is copied to disk, read back and hashed: SHA-256 takes most of it."""


class PathParams(Params):
    path: Path
    """A Hugging Face folder: config.json, *.safetensors and a tokenizer."""
    template: str | None = None
    """Which of several named chat templates is used from here on; by default the model's own default."""


class PathSource(Stage[PathParams]):
    """Takes a model folder into the store."""

    Params = PathParams
    version = 2
    accepts = frozenset()
    produces = "hf"

    def outline(self, job: JobOutline[PathParams]) -> Outline:
        check_model_folder(job.params.path)
        return folder_outline(job.params.path)

    def needs(self, job: JobOutline[PathParams]) -> Needs:
        """The files are copied, hashed and read again."""
        size = self.outline(job).disk_bytes
        return Needs(size, WORKER, Work(moved=HASHED * size, python=0.05))

    def check(self, job: Job[PathParams]) -> None:
        check_model_folder(job.params.path)
        if job.params.template is not None:
            of_folder(job.params.path).template(job.params.template)

    def run(self, job: Job[PathParams]) -> Mapping[str, Any]:
        weights = check_model_folder(job.params.path)
        taken = take(job.params.path, weights, job)
        if job.params.template is not None:
            make_default(job.out, job.params.template)
        return taken
