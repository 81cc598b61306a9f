"""GPTQ's error feedback inside ggml's block formats: the same bytes as rounding, less error in what a layer computes.

The format's scales are fitted block by block to weights that already carry the errors of the blocks before, codes are
chosen in the light of all others (``compress.quantize``), and the result is packed in ggml's layout, which stock
llama.cpp reads. Outputs are independent, so memory holds the Hessian, its factor and a slab of outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from compress.calibrate import Calibration
from compress.quantize.kformats import FORMATS

if TYPE_CHECKING:
    from compress.quantize.gptq_math import Inputs

KINDS = frozenset(FORMATS) - {"NF4", "NF4_ABSMAX", "Q8_0"}
"""Tensor types that gain from it; Q8_0 loses next to nothing by rounding."""
SLAB = 8 * 2**20
"""Weights solved at a time."""
SWEEPS = 3


class Feedback:
    """Quantizes linears whose inputs a calibration pass has seen."""

    def __init__(self, calibration: Calibration, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.calibration = calibration
        self._prepared: tuple[object, Inputs] | None = None

    def covers(self, module: str, kind: str) -> bool:
        """Whether the type has a grid and the module's inputs are known."""
        return kind in KINDS and module in self.calibration.index["inputs"]

    def quantize(self, rows: npt.NDArray[np.float32], kind: str, module: str) -> npt.NDArray[np.uint8]:
        """float32 ``[n, in]``, some outputs of ``module`` -> uint8 ``[n, bytes per row]``."""
        import torch

        from compress.compute import device, fast_products
        from compress.quantize.gptq_math import Plan, solve_prepared
        from compress.quantize.kgrids import grid_of

        grid, plan = grid_of(kind), Plan(sweeps=SWEEPS)
        with torch.inference_mode(), fast_products():
            inputs = self._inputs(module, grid.period)
            W = torch.from_numpy(rows).T.contiguous().to(device())
            solution = solve_prepared(W, inputs, grid, plan)
            packed: npt.NDArray[np.uint8] = grid.pack(solution.codes, [solution.steps]).cpu().numpy()
        return packed

    def _inputs(self, module: str, period: int) -> Inputs:
        """Order and factor of a module's inputs; those that several read one after the other are prepared once."""
        from compress.compute import device
        from compress.quantize.gptq_math import Plan, prepare

        key = (*self.calibration.index["inputs"][module], period)
        if self._prepared is None or self._prepared[0] != key:
            self._prepared = None
            self._prepared = (key, prepare(self.calibration.hessian(module).to(device()), period, Plan()))
        return self._prepared[1]


def slab_rows(columns: int, multiple: int) -> int:
    """Rows solved at a time: a multiple of ``multiple``."""
    return max(1, SLAB // (columns * multiple)) * multiple
