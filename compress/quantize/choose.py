"""How each linear of a model is stored within a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from compress.calibrate.reading import Calibration
from compress.calibrate.sensitivity import measure
from compress.model.blocks import ModelFolder
from compress.model.compute import dtype
from compress.quantize.budget import allocate, budget_bytes_of
from compress.quantize.grids import IntGrid
from compress.quantize.mixed import Rounding, options_of, rounded
from compress.quantize.walk import calibration_tokens

if TYPE_CHECKING:
    from compress.quantize.params import GptqParams
    from compress.stage import Job


Offers = Mapping[str, tuple[Rounding, int]]
"""Label -> how the weights would be rounded, and the bytes that they would take."""


def choose(
    model: ModelFolder,
    job: Job[Any],
    calibration: Calibration,
    offers: Callable[[str], Offers],
    names: Sequence[str],
    budget_bytes: int,
) -> dict[str, str]:
    """Label of each block linear in ``names``, all within ``budget_bytes``; ``offers(name)`` says what is open to it.

    One backward pass over the job's calibration text prices the offers (``compress.calibrate.sensitivity``).
    """
    gamma = measure(model, calibration_tokens(model, job), job.scratch, job.seed, job.progress, dtype())
    options = {
        name: options_of(model.weight(name), calibration.hessian(name), gamma[name], offers(name)) for name in names
    }
    return {name: option.label for name, option in allocate(options, budget_bytes).items()}


def choose_kinds(
    job: Job[Any], offers: Callable[[str], Offers], names: Sequence[str], budget_bytes: int
) -> dict[str, str]:
    """``choose`` for the job's own model and calibration pass."""
    import torch

    assert job.calibration is not None, "the pipeline makes the pass"
    torch.set_num_threads(job.threads)
    with torch.inference_mode():
        return choose(ModelFolder(job.input.path), job, Calibration(job.calibration.path), offers, names, budget_bytes)


def choose_bits(
    model: ModelFolder, job: Job[GptqParams], calibration: Calibration, names: Sequence[str]
) -> dict[str, int]:
    """Bits of the block linears among ``names`` within the job's budget; all else counts as the source stores it."""
    params, inside = job.params, set(model.linears())
    names = [name for name in names if name in inside]  # a head's cost is not measured: it keeps the recipe's bits

    def offers(name: str) -> Offers:
        shape = model.linear_shape(name)
        period = shape[1] if params.group_size == -1 else params.group_size
        grids = {bits: IntGrid(bits, params.sym, params.mse, period) for bits in params.choose}
        return {str(bits): (partial(rounded, grid=grid), packed_bytes(shape, grid)) for bits, grid in grids.items()}

    chosen = choose(model, job, calibration, offers, names, _budget(model, params, names))
    return {name: int(label) for name, label in chosen.items()}


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
