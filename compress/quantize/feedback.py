"""GPTQ's error feedback inside ggml's block formats: the same bytes as rounding, less error in what a layer computes.

The format's scales are fitted block by block to weights that already carry the errors of the blocks before, codes are
chosen in the light of all others (``compress.quantize``), and the result is packed in ggml's layout, which stock
llama.cpp reads. Outputs are independent, so memory holds the Hessian, its factor and a slab of outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from compress.blocks import ModelFolder
from compress.calibrate import Calibration, calibration_source
from compress.compute import device, fast_products, trim
from compress.quantize.gptq_math import Inputs, Plan, Solution, prepare, solve, solve_prepared
from compress.quantize.kformats import FORMATS
from compress.quantize.kgrids import BlockGrid, grid_of
from compress.quantize.upstream import Moments, TwoStreams
from compress.quantize.walk import damping
from compress.streaming import block_file, finished_blocks
from compress.windows import calibration_windows

if TYPE_CHECKING:
    import torch

    from compress.stage import CalibratedParams, Job

KINDS = frozenset(FORMATS) - {"NF4", "NF4_ABSMAX", "Q8_0"}
"""Tensor types that gain from it; Q8_0 loses next to nothing by rounding."""
SLAB = 8 * 2**20
"""Weights solved at a time."""
SWEEPS = 6


class Feedback:
    """Quantizes linears whose inputs a calibration pass has seen."""

    def __init__(self, calibration: Calibration, threads: int, solved: Path | None = None) -> None:
        import torch

        torch.set_num_threads(threads)
        self.calibration, self.solved = calibration, solved
        self._prepared: tuple[object, Inputs, Plan] | None = None

    def covers(self, module: str, kind: str) -> bool:
        """Whether the type has a grid and the module's inputs are known."""
        return kind in KINDS and module in self.calibration.index["inputs"]

    def ready(self, module: str, start: int, stop: int) -> npt.NDArray[np.uint8] | None:
        """Rows that ``UpstreamBlocks`` has solved already; None if it has not."""
        file = _packed(self.solved, module) if self.solved else None
        return np.load(file, mmap_mode="r")[start:stop] if file and file.is_file() else None

    def quantize(self, rows: npt.NDArray[np.float32], kind: str, module: str) -> npt.NDArray[np.uint8]:
        """float32 ``[n, in]``, some outputs of ``module`` -> uint8 ``[n, bytes per row]``."""
        import torch

        grid = grid_of(kind)
        with torch.inference_mode(), fast_products():
            W = torch.from_numpy(rows).T.contiguous().to(device())
            inputs, plan = self._inputs(module, grid.period)
            return _bytes(solve_prepared(W, inputs, grid, plan))

    def _inputs(self, module: str, period: int) -> tuple[Inputs, Plan]:
        """Order and factor of a module's inputs; those that several read one after the other are prepared once."""
        key = (*self.calibration.index["inputs"][module], period)
        if self._prepared is None or self._prepared[0] != key:
            self._prepared = None
            H = self.calibration.hessian(module).to(device())
            plan = _plan(self.calibration.tokens, len(H), module)
            self._prepared = (key, prepare(H, period, plan), plan)
        return self._prepared[1:]


def _plan(tokens: int, width: int, name: str) -> Plan:
    return Plan(sweeps=SWEEPS, damp=damping(Plan().damp, tokens, width, name))


def slab_rows(columns: int, multiple: int) -> int:
    """Rows solved at a time: a multiple of ``multiple``."""
    return max(1, SLAB // (columns * multiple)) * multiple


def _bytes(solution: Solution) -> npt.NDArray[np.uint8]:
    assert isinstance(solution.grid, BlockGrid)
    packed: npt.NDArray[np.uint8] = solution.grid.pack(solution.codes, [solution.steps]).cpu().numpy()
    return packed


def _packed(folder: Path, module: str) -> Path:
    return folder / f"{re.sub('[^A-Za-z0-9_.-]', '_', module)}.npy"


class UpstreamBlocks:
    """All blocks, each linear calibrated behind the ones already quantized (``compress.quantize.upstream``).

    Leaves one file of packed rows per linear, in the order of the Hugging Face folder; a killed run goes on with the
    block that it did not finish. Linears without a grid count as they are.
    """

    def __init__(self, job: Job[Any], kinds: Mapping[str, str], folder: Path) -> None:
        self.job, self.kinds, self.folder = job, kinds, folder

    def run(self) -> None:
        """Quantize what is not done yet."""
        import torch

        self.folder.mkdir(exist_ok=True)
        self.model = ModelFolder(self.job.input.path)
        p: CalibratedParams = self.job.params
        text = calibration_source(self.job)
        windows = calibration_windows(self.model.path, text, p.calibration_tokens, p.calibration_length)
        streams = TwoStreams(self.model, windows, self.folder)
        first = finished_blocks(self.folder, self.model.blocks)
        with torch.inference_mode(), fast_products():
            if first == 0:
                streams.begin()
            for block in range(first, self.model.blocks):
                self.job.progress(block, self.model.blocks, f"error feedback, block {block}")
                streams.block(block, self._quantize)
                (self.folder / block_file(block)).touch()
                streams.forget(block)
                trim()

    def _quantize(self, names: Sequence[str], moments: Moments) -> dict[str, torch.Tensor]:
        import torch

        weights: dict[str, torch.Tensor] = {}
        kinds = sorted({self.kinds.get(name, "") for name in names} & KINDS)
        for kind in kinds:
            members = [name for name in names if self.kinds.get(name) == kind]
            rows = [self.model.weight(name) for name in members]
            W = torch.cat(rows).T.contiguous().to(device())
            plan = _plan(moments.tokens, W.shape[0], members[0])
            whole = solve(W, moments.hessian, grid_of(kind), plan, drift=moments.drift, consume=kind == kinds[-1])
            for name, part in zip(members, whole.split([row.shape[0] for row in rows]), strict=True):
                weights[name] = part.weights().T
                np.save(_packed(self.folder, name), _bytes(part))
        return weights
