"""What solving the linears of a model against Hessians takes (``compress.quantize.gptq_math``)."""

from __future__ import annotations

from compress.costs import Work, forward, touched
from compress.outline import ModelOutline

SPEED = 0.5
"""Share of the probe's speed that the products of these sizes reach."""
SOLVER_MOVED, SWEEP_MOVED = 300, 40
"""Bytes moved for a weight: by the scale search and the feeding of errors; by a sweep over all codes."""
BLOCK_S = 0.03
"""Seconds of the interpreter for a block."""
PASSES = 6.0
"""Times that two streams read and write what the operations of one pass touch."""


def solving(model: ModelOutline, sweeps: int) -> Work:
    """For n inputs and m outputs: factor and inverse (about 3 n³), errors fed on (n² m), in each sweep and for the
    report 2 n² m."""
    s = model.shape
    cubes = s.blocks * sum(3.0 * width**3 for width, _ in model.inputs)
    squares = s.blocks * sum(width * width * out for width, out in model.inputs)
    moved = model.linears * (SOLVER_MOVED + SWEEP_MOVED * sweeps)
    return Work((cubes + squares) / SPEED, (2.0 * sweeps + 4) * squares / SPEED, moved, BLOCK_S * s.blocks)


def upstream(model: ModelOutline, tokens: float, length: float) -> Work:
    """The float model and its quantized copy side by side: two passes, half of them a second time; of every input the
    Hessian and the drift."""
    squares = sum(width * width for width, _ in model.inputs) * model.shape.blocks
    products = 3 * forward(model, tokens, length, 0) + 4 * tokens * squares
    return Work(bfloat16=products, moved=PASSES * touched(model, tokens), python=4 * BLOCK_S * model.shape.blocks)


def solver_bytes(model: ModelOutline) -> float:
    """Memory: one block in float32 twice, four square matrices of its widest input."""
    widest = max(width for width, _ in model.inputs)
    return 8.0 * model.block + 16.0 * widest * widest


def sensitivity(model: ModelOutline, tokens: float) -> Work:
    """What each linear's error costs at the output: a pass forward and back with the head."""
    return Work(bfloat16=3 * forward(model, tokens, 256, tokens) / SPEED, moved=3 * PASSES * touched(model, tokens))
