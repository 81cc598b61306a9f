"""A folder as one GGUF file at once: for a model that is about to be asked and changed again.

The bytes of the tensors are those that ``export.gguf`` writes for the type without an importance matrix; nothing is
resumed or probed, and a vocabulary that an earlier snapshot of the same tokenizer read is not read again.
"""

from __future__ import annotations

import os
from pathlib import Path

from export.checkpoint import open_checkpoint
from export.gguf.layout import layout_of
from export.gguf.params import GgufParams
from export.gguf.plan import plan_tensors
from export.gguf.write import pieces, write_header
from export.tokenizers.translation import translate
from export.tokenizers.vocabulary import Vocabulary


def write_snapshot(
    folder: Path, place: Path, file_type: str, *, vocabulary: Vocabulary | None = None, threads: int = 1
) -> Vocabulary:
    """Write the Hugging Face ``folder`` as ``place``, tensors in ``file_type``; the vocabulary that was written.

    Raises ArtifactError for what no file of llama.cpp can hold, UsageError for a type that needs an importance matrix.
    """
    checkpoint = open_checkpoint(folder)
    layout = layout_of(checkpoint.config)
    plan = plan_tensors(checkpoint, layout, file_type, {})
    vocabulary = vocabulary or translate(folder, layout.vocab)[0]
    part = place.with_suffix(".part")
    header = write_header(
        place.with_suffix(".header"), layout, vocabulary, plan, GgufParams.model_validate({"type": file_type})
    )
    with open(part, "wb") as file:
        file.write(header)
        for planned in plan:
            for piece in pieces(planned, checkpoint, threads, None):
                file.write(piece.tobytes())
            file.write(bytes(planned.stored_bytes - planned.nbytes))
    os.replace(part, place)
    return vocabulary
