"""Stage ``source.gguf``: a base model from a GGUF file, as Ollama and LM Studio keep them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.stage import Job, Needs, Stage
from finetune.source.gguf.folder import GgufFileParams, needs, open_model, write_folder
from finetune.source.gguf.parts import part_files


class GgufParams(GgufFileParams):
    gguf: Path
    """A ``.gguf`` file, or any part of one that is split (``NAME-00001-of-00003.gguf``)."""


class GgufSource(Stage[GgufParams]):
    """Turns a GGUF model into a Hugging Face folder."""

    Params = GgufParams
    accepts = frozenset()
    produces = "hf"
    modules = frozenset({"llama_cpp", "torch", "transformers"})
    libraries = frozenset({"llama-cpp-python"})

    def files(self, params: GgufParams) -> Sequence[Path]:
        """The parts."""
        return part_files(params.gguf)

    def needs(self, job: Job[GgufParams]) -> Needs:
        return needs(job.params.gguf, job.params)

    def check(self, job: Job[GgufParams]) -> None:
        open_model(job.params.gguf)

    def run(self, job: Job[GgufParams]) -> Mapping[str, Any]:
        return write_folder(job.params.gguf, job)
