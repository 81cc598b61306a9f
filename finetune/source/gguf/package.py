"""Stage ``source.package``: a base model from a GGUF file that an installed Python distribution carries."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from compress.errors import ArtifactError, UsageError
from compress.stage import Job
from finetune.source.gguf.folder import FileSource, GgufFileParams
from finetune.source.gguf.parts import part_files


class PackageParams(GgufFileParams):
    package: str = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
    """Name of the distribution, as pip has it."""
    file: str = Field("*.gguf", min_length=1)
    """The file inside it; ``*`` and ``?`` stand for any characters and any one."""


class PackageSource(FileSource[PackageParams]):
    """Finds the file in the distribution."""

    Params = PackageParams

    def find(self, params: PackageParams) -> Path:
        return find_file(params.package, params.file)

    def run(self, job: Job[PackageParams]) -> Mapping[str, Any]:
        version = importlib.metadata.version(job.params.package)
        return {**super().run(job), "package": job.params.package, "version": version}


def find_file(package: str, pattern: str) -> Path:
    """The one file of an installed distribution that ``pattern`` names (of a split model: its first part).

    Raises UsageError when the distribution is not installed, or no file or several match; ArtifactError when the file
    that it lists is not there.
    """
    try:
        listed = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(f"the package {package} is not installed", next=f"pip install {package}") from None
    matching = sorted({str(file): file for file in listed if file.match(pattern)}.items())
    if not matching:
        models = ", ".join(sorted(str(file) for file in listed if file.suffix == ".gguf")) or "none"
        raise UsageError(f"{package} holds no file {pattern!r}; its .gguf files: {models}", next="correct source.file")
    paths = [Path(str(file.locate())) for _, file in matching]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ArtifactError(f"{missing[0]} is gone", next=f"pip install --force-reinstall {package}")
    if len(paths) > 1 and set(part_files(paths[0])) != set(paths):
        names = ", ".join(name for name, _ in matching)
        raise UsageError(f"{len(paths)} files of {package} match {pattern!r}: {names}", next="name one in source.file")
    return paths[0]
