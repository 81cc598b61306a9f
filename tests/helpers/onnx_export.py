"""``export.onnx`` run on a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.artifact import open_artifact
from compress.stage import Job
from export.onnx.stage import ExportOnnx, OnnxParams


def export_onnx(folder: Path, place: Path, **params: Any) -> Path:
    for part in ("out", "scratch"):
        (place / part).mkdir(parents=True)
    settings = OnnxParams(**params)
    job = Job(params=settings, out=place / "out", scratch=place / "scratch", inputs=(open_artifact(folder),), threads=1)
    ExportOnnx().run(job)
    return job.out
