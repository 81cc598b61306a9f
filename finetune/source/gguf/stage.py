"""Stage ``source.gguf``: a base model from a GGUF file, as Ollama and LM Studio keep them."""

from __future__ import annotations

from pathlib import Path

from finetune.source.gguf.folder import FileSource, GgufFileParams


class GgufParams(GgufFileParams):
    gguf: Path
    """A ``.gguf`` file, or any part of one that is split (``NAME-00001-of-00003.gguf``)."""


class GgufSource(FileSource[GgufParams]):
    """Takes the file that is named."""

    Params = GgufParams

    def find(self, params: GgufParams) -> Path:
        return params.gguf
