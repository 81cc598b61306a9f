"""What other stages read of a calibration pass, and the text that it runs on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import ArtifactError, DataError, UsageError
from compress.model.weights import Weights
from compress.stage import Job

if TYPE_CHECKING:
    import numpy as np
    import torch

INDEX = "calibration.json"


class Calibration:
    """Reads a ``calibration`` artifact; matrices are loaded when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self.index: dict[str, Any] = json.loads((self.path / INDEX).read_text())
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{self.path} is not a calibration ({error})", next="run the calibrate stage") from None

    @property
    def tokens(self) -> int:
        """Tokens that the averages run over."""
        return int(self.index["tokens"])

    @property
    def similarity(self) -> list[float]:
        """Mean cosine between each block's input and output (near 1: the block changes little)."""
        return list(self.index["similarity"])

    def _load(self, part: str, name: str) -> torch.Tensor:
        if name not in self.index["inputs"]:
            raise ArtifactError(f"{self.path} has no statistics of {name!r}", next="calibrate that very model")
        file, key = self.index["inputs"][name]
        return Weights(self.path / file).load(f"{part}.{key}")

    def hessian(self, name: str) -> torch.Tensor:
        """Mean of x xᵀ over the tokens, float32 ``[in, in]``, of the linear called ``name``."""
        return self._load("hessian", name)

    def diagonal(self, name: str) -> torch.Tensor:
        """Mean of x² over the tokens, float32 ``[in]``."""
        return self._load("diagonal", name)

    def diagonals(self) -> dict[str, np.ndarray]:
        """Mean of squared inputs of every linear, float32 ``[in]``, by module name."""
        return {name: self.diagonal(name).numpy() for name in self.index["inputs"]}


def calibration_of(job: Job[Any], use: str) -> Calibration:
    """The pass over the job's input. UsageError where the stage ``use`` was given none."""
    if job.calibration is None:
        raise UsageError(f"{use} needs a calibration pass", next="give calibration data (JSONL)")
    return Calibration(job.calibration.path)


def calibration_source(job: Job[Any]) -> Path:
    """The JSONL to calibrate on: the parameter if given, else the pipeline's calibration split. DataError where it is
    not there."""
    given: Path | None = job.params.calibration
    if given is not None:
        if not given.is_file():
            raise DataError(given, None, "no such calibration file", next="check the path")
        return given
    if job.data is None or not (job.data.path / "calibration.jsonl").is_file():
        raise DataError(
            "calibration",
            None,
            "there is no calibration text",
            next="set data: {calibration: FILE.jsonl}, or with: {calibration: FILE.jsonl}",
        )
    return job.data.path / "calibration.jsonl"
