"""Through a model block by block: the moments of each group of linears, the solver, a file per finished block."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.calibrate.reading import Calibration, calibration_source
from compress.calibrate.streaming import HEAD_FILE, block_file, finished_blocks
from compress.errors import ArtifactError
from compress.memory import trim
from compress.model.blocks import ModelFolder
from compress.model.compute import device, fast_products
from compress.quantize.gptq_math import solve
from compress.quantize.grids import Grid
from compress.quantize.problem import Plan, Solution
from compress.quantize.upstream import Moments, TwoStreams
from compress.windows import calibration_windows

if TYPE_CHECKING:
    import torch

    from compress.stage import Job

log = logging.getLogger(__name__)
AMPLE = 2
"""Calibration tokens per input of a linear below which its Hessian counts as thin."""


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


class Walk(ABC):
    """One walk; what is finished stays in ``scratch``, so a killed run goes on with the block that it did not finish.

    A subclass says how each linear is stored, and keeps what was solved.
    """

    def __init__(self, model: ModelFolder, job: Job[Any], scratch: Path, calibration: Calibration | None) -> None:
        """``calibration``: Hessians of the float model; None: each linear is calibrated behind those quantized before
        it (``compress.quantize.upstream``)."""
        self.model, self.job, self.scratch, self.calibration = model, job, scratch, calibration

    @abstractmethod
    def label(self, name: str) -> str | None:
        """What linears that read one input and are stored alike have in common; None for one that stays as it is."""

    @abstractmethod
    def grid(self, label: str, width: int) -> Grid:
        """The grid of linears with that label and ``width`` inputs."""

    @abstractmethod
    def plan(self, label: str, damp: Callable[[float], float]) -> Plan:
        """How to solve them; ``damp`` raises a damping where calibration is thin."""

    @abstractmethod
    def keep(self, name: str, solution: Solution) -> None:
        """Take a solution."""

    def read_back(self, solution: Solution) -> torch.Tensor:
        """The weights float32 ``[out, in]`` as they will be read."""
        return solution.weights().T

    @abstractmethod
    def save(self, file: Path) -> None:
        """Write what was kept since the last call; ``file`` may appear only once that is complete."""

    def run(self, *, head: bool = False) -> None:
        """Quantize the blocks (and the output head) that have no file yet."""
        import torch

        with torch.inference_mode(), fast_products():
            self._blocks(head)

    def _blocks(self, head: bool) -> None:
        first = finished_blocks(self.scratch, self.model.blocks)
        streams = None if self.calibration else self._streams()
        if streams and first == 0:
            streams.begin()
        for block in range(first, self.model.blocks):
            self.job.progress(block, self.model.blocks, f"error feedback, block {block}")
            if streams:
                streams.block(block, self.quantize)
            else:
                self._shared(block)
            self._done(block_file(block))
            if streams:
                streams.forget(block)
        if head and not (self.scratch / HEAD_FILE).is_file():
            if streams:
                streams.head(self.quantize)
            else:
                self.quantize([self.model.head_name], self._moments(self.model.head_name))
            self._done(HEAD_FILE)

    def _done(self, name: str) -> None:
        self.save(self.scratch / name)
        trim()

    def _streams(self) -> TwoStreams:
        return TwoStreams(self.model, calibration_tokens(self.model, self.job), self.scratch)

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
        """Solve linears that read one input, those of one label side by side; for a stream, their new weights."""
        weights: dict[str, torch.Tensor] = {}
        labels = sorted({label for name in names if (label := self.label(name)) is not None})
        for label in labels:
            members = [name for name in names if self.label(name) == label]
            for name, solution in zip(members, self._solve(members, label, moments, label == labels[-1]), strict=True):
                self.keep(name, solution)
                if moments.drift is not None:
                    weights[name] = self.read_back(solution)
        return weights

    def _solve(self, names: Sequence[str], label: str, moments: Moments, last: bool) -> list[Solution]:
        import torch

        rows = [self.model.weight(name) for name in names]
        sizes = [row.shape[0] for row in rows]
        W = torch.cat(rows).T.contiguous().to(device())
        del rows
        width = W.shape[0]
        plan = self.plan(label, lambda damp: damping(damp, moments.tokens, width, names[0]))
        whole = solve(W, moments.hessian, self.grid(label, width), plan, drift=moments.drift, consume=last)
        return whole.split(sizes)
