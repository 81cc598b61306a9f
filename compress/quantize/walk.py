"""Through a model block by block: the moments of each group of linears, the solver, a file per finished block."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.artifact import write_json
from compress.blocks import ModelFolder
from compress.calibrate import Calibration, calibration_source
from compress.compute import device, trim
from compress.errors import ArtifactError
from compress.quantize.gptq_math import Plan, Solution, solve
from compress.quantize.grids import IntGrid
from compress.quantize.packing import stored_weights, to_checkpoint
from compress.quantize.recipe import FLOAT, Recipe
from compress.quantize.upstream import Moments, TwoStreams
from compress.streaming import HEAD_FILE, block_file, finished_blocks
from compress.weights import write_tensors
from compress.windows import calibration_windows

if TYPE_CHECKING:
    import torch

    from compress.quantize.gptq import GptqParams
    from compress.stage import Job

log = logging.getLogger(__name__)
AMPLE = 2
"""Calibration tokens per input of a linear below which its Hessian counts as thin."""
FEW_SWEEPS, MANY_SWEEPS = 1, 4
"""Above 3 bits more sweeps change little; below they still do."""


def calibration_tokens(model: ModelFolder, job: Job[Any]) -> torch.Tensor:
    """The windows of the job, int64 ``[windows, positions]``."""
    p = job.params
    return calibration_windows(model.path, calibration_source(job), p.calibration_tokens, p.calibration_length)


def damping(damp: float, tokens: int, width: int, name: str) -> float:
    """``damp``, raised in proportion (and with a warning) where ``tokens`` are few for ``width`` inputs."""
    if tokens >= AMPLE * width:
        return damp
    raised = min(1.0, damp * AMPLE * width / tokens)
    log.warning(
        "%s: %d calibration tokens for %d inputs are few (%d would be ample); damping raised from %g to %.3g",
        name, tokens, width, AMPLE * width, damp, raised,
    )  # fmt: skip
    return raised


class Walk:
    """One run of the stage; what is finished stays in the scratch folder."""

    def __init__(
        self, model: ModelFolder, job: Job[GptqParams], recipe: Recipe, calibration: Calibration | None
    ) -> None:
        self.model, self.job, self.recipe, self.calibration = model, job, recipe, calibration
        self._tensors: dict[str, torch.Tensor] = {}
        self._report: dict[str, Any] = {}

    def files(self) -> list[Path]:
        """A safetensors file per block (and head), each with a report beside it (``.json``)."""
        names = [block_file(block) for block in range(self.model.blocks)]
        return [self.job.scratch / name for name in [*names, *([HEAD_FILE] if self.recipe.lm_head else [])]]

    def run(self) -> None:
        """Quantize what has no file yet."""
        first = finished_blocks(self.job.scratch, self.model.blocks)
        streams = self._streams() if self.job.params.own_streams else None
        if streams and first == 0:
            streams.begin()
        for block in range(first, self.model.blocks):
            self.job.progress(block, self.model.blocks, f"GPTQ block {block}")
            if streams:
                streams.block(block, self.quantize)
            else:
                self._shared(block)
            self._save(self.job.scratch / block_file(block))
            if streams:
                streams.forget(block)
        if self.recipe.lm_head and not (self.job.scratch / HEAD_FILE).is_file():
            if streams:
                streams.head(self.quantize)
            else:
                self.quantize([self.model.head_name], self._moments(self.model.head_name))
            self._save(self.job.scratch / HEAD_FILE)

    def _streams(self) -> TwoStreams:
        return TwoStreams(self.model, calibration_tokens(self.model, self.job), self.job.scratch)

    def _shared(self, block: int) -> None:
        """A block from the float model's Hessians."""
        for group in self.model.layout.inputs:
            names = [self.model.name(block, linear) for linear in group]
            self.quantize(names, self._moments(names[0]))

    def _moments(self, name: str) -> Moments:
        assert self.calibration is not None
        H = self.calibration.hessian(name)
        if not bool(H.isfinite().all()):
            raise ArtifactError(f"the Hessian of {name} holds NaN or Inf", next="calibrate again")
        return Moments(H.to(device()), None, self.calibration.tokens)

    def quantize(self, names: Sequence[str], moments: Moments) -> dict[str, torch.Tensor]:
        """Solve linears that read one input, those of like bits side by side; for a stream, their new weights."""
        weights: dict[str, torch.Tensor] = {}
        widths = sorted({self.recipe.bits_of(name) for name in names} - {FLOAT})
        for bits in widths:
            members = [name for name in names if self.recipe.bits_of(name) == bits]
            for name, solution in zip(members, self._solve(members, bits, moments, bits == widths[-1]), strict=True):
                packed = to_checkpoint(solution)
                if moments.drift is not None:
                    weights[name] = stored_weights(solution)
                self._tensors.update({f"{name}.{part}": tensor for part, tensor in packed.items()})
                energy = float(solution.energy.sum())
                self._report[name] = {
                    "bits": bits,
                    "damp": solution.damp,
                    "error": float(solution.error.sum()) / max(energy, 1e-30),
                }
        return weights

    def _solve(self, names: Sequence[str], bits: int, moments: Moments, last: bool) -> list[Solution]:
        import torch

        params = self.job.params
        rows = [self.model.weight(name) for name in names]
        sizes = [row.shape[0] for row in rows]
        W = torch.cat(rows).T.contiguous().to(device())
        del rows
        width = W.shape[0]
        grid = IntGrid(bits, params.sym, params.mse, width if params.group_size == -1 else params.group_size)
        plan = Plan(
            damp=damping(params.damp, moments.tokens, width, names[0]),
            order="inputs" if params.desc_act else "groups" if params.act_order else "none",
            sweeps=params.sweeps if params.sweeps is not None else FEW_SWEEPS if bits > 3 else MANY_SWEEPS,
            sparsity=params.sparsity,
        )
        whole = solve(W, moments.hessian, grid, plan, drift=moments.drift, consume=last)
        return whole.split(sizes)

    def _save(self, file: Path) -> None:
        """The report first: a file that is there is complete."""
        write_json(file.with_suffix(".json"), self._report)
        write_tensors(file, self._tensors, durable=False)
        self._tensors, self._report = {}, {}
        trim()
