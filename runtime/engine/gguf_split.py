"""A model cut into several .gguf files (``llama-gguf-split``): llama.cpp is given the first and finds the others."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import ArtifactError

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def parts_of(path: Path) -> list[Path]:
    """All files of the model whose first file is ``path``, in order; itself alone if it was not cut.

    Raises ArtifactError naming a part that is missing, and for a part that is not the first.
    """
    parts, number = named_parts(path)
    for part in parts if len(parts) > 1 else ():
        if not part.is_file():
            raise ArtifactError(
                f"{part} is missing: {path.name} is one of {len(parts)} files", next="fetch all of them"
            )
    if number > 1:
        what = f"{path} is part {number} of {len(parts)} of one model"
        raise ArtifactError(what, next=f"give the first, {parts[0].name}")
    return parts


def named_parts(path: Path) -> tuple[list[Path], int]:
    """What the name says: all files of the model, and which one of them ``path`` is, from 1; ``([path], 1)`` where it
    says nothing. Raises ArtifactError for a number beyond the count."""
    name = _PART.fullmatch(path.name)
    if name is None:
        return [path], 1
    number, count = int(name[2]), int(name[3])
    if not 1 <= number <= count:
        raise ArtifactError(f"{path.name} is no part of {count}", next="copy the file again under its own name")
    return [path.with_name(f"{name[1]}-{n:05d}-of-{name[3]}.gguf") for n in range(1, count + 1)], number


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
