"""GPTQ's error feedback inside ggml's block formats: the same bytes as rounding, less error in what a layer computes.

The format's scales are fitted block by block to weights that already carry the errors of the blocks before, codes are
chosen in the light of all others (``compress.quantize``), and the result is packed in ggml's layout, which stock
llama.cpp reads. Outputs are independent, so memory holds the Hessian, its factor and a slab of outputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from compress.calibrate.reading import Calibration
from compress.model.blocks import ModelFolder
from compress.model.compute import device, fast_products
from compress.quantize.gptq_math import prepare, solve_prepared
from compress.quantize.kformats import FORMATS
from compress.quantize.kgrids import BlockGrid, grid_of
from compress.quantize.problem import Inputs, Plan, Solution
from compress.quantize.walk import Walk, damping

if TYPE_CHECKING:
    from compress.stage import Job

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
            plan = Plan(sweeps=SWEEPS, damp=damping(Plan().damp, self.calibration.tokens, len(H), module))
            self._prepared = (key, prepare(H, period, plan), plan)
        return self._prepared[1:]


def slab_rows(columns: int, multiple: int) -> int:
    """Rows solved at a time: a multiple of ``multiple``."""
    return max(1, SLAB // (columns * multiple)) * multiple


def _bytes(solution: Solution) -> npt.NDArray[np.uint8]:
    assert isinstance(solution.grid, BlockGrid)
    packed: npt.NDArray[np.uint8] = solution.grid.pack(solution.codes, [solution.steps]).cpu().numpy()
    return packed


def _packed(folder: Path, module: str) -> Path:
    return folder / f"{re.sub('[^A-Za-z0-9_.-]', '_', module)}.npy"


class UpstreamBlocks(Walk):
    """All blocks, each linear calibrated behind the ones already quantized. Labels are tensor types.

    Leaves one file of packed rows per linear, in the order of the Hugging Face folder. Linears without a grid count as
    they are.
    """

    def __init__(self, job: Job[Any], kinds: Mapping[str, str], folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(ModelFolder(job.input.path), job, folder, None)
        self.kinds = kinds

    def label(self, name: str) -> str | None:
        """The tensor's type."""
        kind = self.kinds.get(name, "")
        return kind if kind in KINDS else None

    def grid(self, label: str, width: int) -> BlockGrid:
        """That of the type."""
        del width
        return grid_of(label)

    def plan(self, label: str, damp: Callable[[float], float]) -> Plan:
        """The same for all types."""
        del label
        return Plan(sweeps=SWEEPS, damp=damp(Plan().damp))

    def keep(self, name: str, solution: Solution) -> None:
        """Pack into a file."""
        np.save(_packed(self.scratch, name), _bytes(solution))

    def save(self, file: Path) -> None:
        """The linears are on disk already."""
        file.touch()
