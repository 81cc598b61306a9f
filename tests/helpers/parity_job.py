"""A job of ``export.parity`` and what it found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from compress.artifact import open_artifact
from compress.stage import Job
from export.parity.stage import ParityParams


def job_of(place: Path, *folders: Path, **params: Any) -> Job[ParityParams]:
    """The first folder is the reference."""
    for part in ("out", "scratch"):
        shutil.rmtree(place / part, ignore_errors=True)
        (place / part).mkdir(parents=True)
    names = ("reference", *(f"candidate{n}" for n in range(1, len(folders))))
    inputs = tuple(open_artifact(folder) for folder in folders)
    settings = ParityParams(**params)
    return Job(params=settings, out=place / "out", scratch=place / "scratch", inputs=inputs, names=names, threads=1)


def checks_of(job: Job[ParityParams]) -> dict[str, dict[str, Any]]:
    """parity.json's checks of the first candidate."""
    result = json.loads((job.out / "parity.json").read_text())
    return {check["check"]: check for check in result["candidates"][0]["checks"]}
