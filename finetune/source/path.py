"""Stage ``source.path``: a base model from a folder, checked before use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.stage import Job, Needs, Params, Stage
from finetune.source.folder import check_model_folder, take


class PathParams(Params):
    path: Path
    """A Hugging Face folder: config.json, *.safetensors and a tokenizer."""


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

    def run(self, job: Job[PathParams]) -> Mapping[str, Any]:
        weights = check_model_folder(job.params.path)
        return take(job.params.path, weights, job)
