"""The walk of ``quantize.gptq``: a safetensors file of packed tensors per finished block, with a report beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.calibrate.reading import Calibration
from compress.calibrate.streaming import HEAD_FILE, block_file
from compress.errors import ArtifactError
from compress.json_files import write_json
from compress.model.blocks import ModelFolder
from compress.model.coded import FLOAT
from compress.model.weights import write_tensors
from compress.quantize.grids import IntGrid
from compress.quantize.packing import stored_weights, to_checkpoint
from compress.quantize.problem import Plan, Solution
from compress.quantize.recipe import Recipe
from compress.quantize.walk import Walk

if TYPE_CHECKING:
    import torch

    from compress.quantize.params import GptqParams
    from compress.stage import Job


class GptqWalk(Walk):
    """Labels are bits."""

    def __init__(
        self, model: ModelFolder, job: Job[GptqParams], recipe: Recipe, calibration: Calibration | None
    ) -> None:
        super().__init__(model, job, job.scratch, None if job.params.own_streams else calibration)
        self.recipe = recipe
        self._tensors: dict[str, torch.Tensor] = {}
        self._report: dict[str, Any] = {}

    def files(self) -> list[Path]:
        """A safetensors file per block (and head), each with a report beside it (``.json``)."""
        names = [block_file(block) for block in range(self.model.blocks)]
        return [self.scratch / name for name in [*names, *([HEAD_FILE] if self.recipe.lm_head else [])]]

    def label(self, name: str) -> str | None:
        """Bits."""
        bits = self.recipe.bits_of(name)
        return None if bits == FLOAT else str(bits)

    def grid(self, label: str, width: int) -> IntGrid:
        """A range of integers per group."""
        params = self.job.params
        return IntGrid(int(label), params.sym, params.mse, width if params.group_size == -1 else params.group_size)

    def plan(self, label: str, damp: Callable[[float], float]) -> Plan:
        """As the job's parameters say."""
        params = self.job.params
        return Plan(
            damp=damp(params.damp),
            order="inputs" if params.desc_act else "groups" if params.act_order else "none",
            sweeps=params.sweeps_at(int(label)),
            sparsity=params.sparsity,
        )

    def keep(self, name: str, solution: Solution) -> None:
        """Pack, and note errors and damping. ArtifactError where the sums overflow."""
        error = float(solution.error.sum()) / max(float(solution.energy.sum()), 1e-30)
        if not math.isfinite(error):
            what = f"the errors of {name} overflow: its weights or inputs are too large for float32"
            raise ArtifactError(what, next="repair or fetch the model again")
        packed = to_checkpoint(solution)
        self._tensors.update({f"{name}.{part}": tensor for part, tensor in packed.items()})
        self._report[name] = {
            "bits": int(str(self.label(name))),
            "damp": solution.damp,
            "error": error,
        }

    def read_back(self, solution: Solution) -> torch.Tensor:
        """With scales and zeros as the checkpoint holds them."""
        return stored_weights(solution)

    def save(self, file: Path) -> None:
        """The report first: a file that is there is complete."""
        write_json(file.with_suffix(".json"), self._report)
        write_tensors(file, self._tensors, durable=False)
        self._tensors, self._report = {}, {}
