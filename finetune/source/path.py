"""Stage ``source.path``: a base model from a folder, checked before use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.stage import Job, Needs, Params, Stage
from finetune.source.folder import check_model_folder, take
from finetune.source.template import make_default
from runtime.engine.chat import of_folder


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

    def needs(self, job: Job[PathParams]) -> Needs:
        return Needs(disk_bytes=sum(file.stat().st_size for file in check_model_folder(job.params.path)))

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
