"""``export.gguf`` run on a folder, and transformers' logits to hold the file against."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from compress.artifact import open_artifact
from compress.stage import Job
from export.gguf.params import GgufParams
from export.gguf.stage import ExportGguf


def job_of(folder: Path, place: Path, **params: Any) -> Job[GgufParams]:
    (place / "scratch").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place / "out", ignore_errors=True)
    (place / "out").mkdir()
    settings = GgufParams(**({"type": "F32", "imatrix": False} | params))
    return Job(
        params=settings, out=place / "out", scratch=place / "scratch", inputs=(open_artifact(folder),), threads=2
    )


def export(folder: Path, place: Path, **params: Any) -> Path:
    job, stage = job_of(folder, place, **params), ExportGguf()
    stage.check(job)
    stage.run(job)
    assert [p.name for p in job.out.iterdir()] == ["model.gguf"]
    return job.out / "model.gguf"


def reference(folder: Path, ids: list[int]) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def divergence(expected: np.ndarray, got: np.ndarray) -> float:
    """Mean KL(expected || got) per token, in nats."""
    from scipy.special import log_softmax

    p, q = log_softmax(expected, axis=1), log_softmax(got, axis=1)
    return float((np.exp(p) * (p - q)).sum(1).mean())
