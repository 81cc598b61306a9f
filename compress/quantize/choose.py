"""Bits of every linear of a model within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress.blocks import ModelFolder
from compress.calibrate import Calibration
from compress.compute import dtype
from compress.quantize.budget import Option, allocate, budget_bytes_of
from compress.quantize.grids import IntGrid
from compress.quantize.mixed import options_of
from compress.quantize.walk import calibration_tokens
from compress.sensitivity import measure

if TYPE_CHECKING:
    from compress.quantize.gptq import GptqParams
    from compress.stage import Job


def choose_bits(
    model: ModelFolder, job: Job[GptqParams], calibration: Calibration, names: Sequence[str]
) -> dict[str, int]:
    """Bits of the block linears among ``names`` within the job's budget; all else counts as the source stores it."""
    params = job.params
    gamma = measure(model, calibration_tokens(model, job), job.scratch, job.seed, job.progress, dtype())
    names = [name for name in names if name in gamma]  # a head's cost is not measured: it keeps the recipe's bits

    def options(name: str) -> list[Option]:
        _, width = model.linear_shape(name)
        period = width if params.group_size == -1 else params.group_size
        grids = {bits: IntGrid(bits, params.sym, params.mse, period) for bits in params.choose}
        choices = {str(bits): (grid, packed_bytes(model.linear_shape(name), grid)) for bits, grid in grids.items()}
        return options_of(model.weight(name), calibration.hessian(name), gamma[name], choices)

    chosen = allocate({name: options(name) for name in names}, _budget(model, params, names))
    return {name: int(option.label) for name, option in chosen.items()}


def _budget(model: ModelFolder, params: GptqParams, names: Sequence[str]) -> int:
    """Bytes for the linears ``names``."""
    stored = sum(model.weights.spec(name).size for name in model.weights.names())
    replaced = sum(model.weights.spec(f"{name}.weight").size for name in names)
    weights = sum(out * width for out, width in map(model.linear_shape, names))
    return budget_bytes_of(params.budget_mb, params.bits_per_weight, weights, stored - replaced)


def packed_bytes(shape: tuple[int, int], grid: IntGrid) -> int:
    """Bytes of codes, scales, zeros and g_idx of a linear ``(out, in)``."""
    out, width = shape
    return out * width * grid.bits // 8 + width // grid.period * out * (16 + grid.bits) // 8 + 4 * width
