"""Outlines of artifacts that exist."""

from __future__ import annotations

from compress.artifact import Artifact
from compress.model.outline import folder_outline
from compress.outline import Outline, read_split

SPLITS = ("train", "calibration", "eval")


def outline_of(artifact: Artifact) -> Outline:
    """Kind, size on disk, and what headers and first rows tell: of a model folder its sizes, of data its rows."""
    if artifact.kind in ("hf", "gptq"):
        return folder_outline(artifact.path, artifact.kind)
    if artifact.kind == "data":
        files = {split: artifact.path / f"{split}.jsonl" for split in SPLITS}
        splits = {split: read_split(path) for split, path in files.items() if path.is_file()}
        return Outline("data", artifact.size_bytes(), splits=splits)
    return Outline(artifact.kind, artifact.size_bytes())
