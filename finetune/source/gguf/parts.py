"""A GGUF model in one file or in several (``NAME-00001-of-00003.gguf``), read as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError
from runtime.engine.gguf_file import GgufHeader, GgufTensor, read_gguf
from runtime.engine.gguf_model import check_model
from runtime.engine.gguf_split import named_parts

SHOWN = 4
"""Missing parts that an error names."""


@dataclass(frozen=True)
class GgufParts:
    """All of a model but its tensors' data."""

    files: Sequence[Path]
    """In order; the first holds the metadata."""
    metadata: Mapping[str, Any]
    tensors: Mapping[str, tuple[Path, GgufTensor]]
    """Name -> where it lies."""

    @property
    def path(self) -> Path:
        """The first file: what llama.cpp is given."""
        return self.files[0]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the graph."""
        return str(self.metadata["general.architecture"])

    def shape(self, name: str) -> tuple[int, ...]:
        """[rows, columns] or [n] of a tensor."""
        return self.tensors[name][1].shape[::-1]


def part_files(path: Path) -> list[Path]:
    """Every file of the model that ``path`` is a part of, in order; ``[path]`` for a whole one.

    Raises ArtifactError naming the parts that are missing.
    """
    files, _ = named_parts(path)
    missing = [file.name for file in files if not file.is_file()] if len(files) > 1 else []
    if missing:
        names = ", ".join(missing[:SHOWN]) + (f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
        raise ArtifactError(
            f"{path} is one of {len(files)} parts; missing beside it: {names}", next="copy all parts there"
        )
    return files


def read_parts(path: Path) -> GgufParts:
    """The model that ``path`` is, or is a part of. Raises ArtifactError for what is damaged, incomplete or no model."""
    files = part_files(path)
    headers = [check_model(files[0]), *(read_gguf(file) for file in files[1:])]
    for number, header in enumerate(headers):
        _check_place(header, number, len(headers))
    tensors: dict[str, tuple[Path, GgufTensor]] = {}
    for header in headers:
        for name, tensor in header.tensors.items():
            if name in tensors:
                raise _odd(f"{header.path} and {tensors[name][0].name} both hold {name}")
            tensors[name] = (header.path, tensor)
    wanted = headers[0].metadata.get("split.tensors.count", len(tensors))
    if wanted != len(tensors):
        raise _odd(f"{files[0]} speaks of {wanted} tensors, and {len(tensors)} are there")
    return GgufParts(files, headers[0].metadata, tensors)


def _check_place(header: GgufHeader, number: int, count: int) -> None:
    """A part says which one it is; a file that says so must bear the name of one."""
    said = header.metadata.get("split.no", 0), header.metadata.get("split.count", 0) or 1
    if not all(type(value) is int for value in said):
        raise ArtifactError(
            f"{header.path}: split.no and split.count are {said[0]!r:.40} and {said[1]!r:.40}, not numbers",
            next="copy the parts again",
        )
    if said == (number, count):
        return
    if count == 1:
        raise ArtifactError(
            f"{header.path} is part {said[0] + 1} of {said[1]} and its name does not say so",
            next=f"name the parts NAME-00001-of-{said[1]:05d}.gguf and so on, beside one another",
        )
    raise _odd(f"{header.path} says that it is part {said[0] + 1} of {said[1]}")


def _odd(what: str) -> ArtifactError:
    return ArtifactError(f"{what}: these parts are not of one model", next="copy the parts again")
