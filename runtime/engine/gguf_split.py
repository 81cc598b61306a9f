"""A model cut into several .gguf files (``llama-gguf-split``): llama.cpp is given the first and finds the others."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import ArtifactError

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def parts_of(path: Path) -> list[Path]:
    """All files of the model whose first file is ``path``, in order; itself alone if it was not cut.

    Raises ArtifactError naming a part that is missing, and for a part that is not the first.
    """
    name = _PART.fullmatch(path.name)
    if name is None:
        return [path]
    count = int(name[3])
    parts = [path.with_name(f"{name[1]}-{number:05d}-of-{name[3]}.gguf") for number in range(1, count + 1)]
    for part in parts:
        if not part.is_file():
            raise ArtifactError(f"{part} is missing: {path.name} is one of {count} files", next="fetch all of them")
    if path != parts[0]:
        what = f"{path} is part {int(name[2])} of {count} of one model"
        raise ArtifactError(what, next=f"give the first, {parts[0].name}")
    return parts


def first_of(files: list[Path]) -> Path | None:
    """The file to give to llama.cpp where ``files`` (sorted) are one model, cut or not; None where they are not."""
    return files[0] if files and parts_of(files[0]) == files else None


def require_whole(path: Path) -> None:
    """Raise ArtifactError for a model that is cut into several files; ``path`` may be its folder."""
    files = sorted(path.glob("*.gguf")) if path.is_dir() else [path]
    for file in files:
        if len(parts_of(file)) > 1:
            raise ArtifactError(
                f"{file} is the first of {len(parts_of(file))} files of one model, and one file is needed here",
                next=f"join them: llama-gguf-split --merge {file.name} model.gguf",
            )
