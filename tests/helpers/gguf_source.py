"""``source.gguf`` run on a file, and folders held against files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from compress.stage import Job
from export.gguf import ggml
from finetune.source.gguf.parts import read_parts
from finetune.source.gguf.stage import GgufParams, GgufSource


def job_of(path: Path, place: Path, **params: Any) -> Job[GgufParams]:
    (place / "scratch").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place / "out", ignore_errors=True)
    (place / "out").mkdir()
    return Job(params=GgufParams(gguf=path, **params), out=place / "out", scratch=place / "scratch", threads=2)


def take(path: Path, place: Path, **params: Any) -> tuple[Path, dict[str, Any]]:
    """(folder, facts) of ``source.gguf``."""
    job, stage = job_of(path, place, **params), GgufSource()
    stage.check(job)
    return job.out, dict(stage.run(job))


def weights(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor in float32."""
    from compress.model.weights import Weights

    found = Weights(folder)
    return {name: found.load(name).float().numpy() for name in found.names()}


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file in float32, by GGUF name."""
    parts = read_parts(path)
    found = {}
    for name, (file, tensor) in parts.tensors.items():
        rows = int(np.prod(tensor.shape[1:]))
        raw = np.fromfile(file, np.uint8, tensor.nbytes, offset=tensor.start).reshape(rows, -1)
        found[name] = ggml.dequantize(raw, tensor.kind).reshape(parts.shape(name))
    return found
