"""What computing takes, in units that a machine's speeds turn into seconds, and formulas that several stages share.

A stage's estimate counts what it does: floating-point operations (2 m k n for a product of ``[m, k]`` and ``[k, n]``),
bytes that element-wise operations read and write, seconds of the interpreter. Efficiencies (the share of the probe's
speed that a stage reaches) and fixed parts were measured once; benchmarks/README.md compares estimates with runs.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from compress.outline import ModelOutline

CALL_S = 1.85e-6
"""The probe's small call on the machine on which seconds of the interpreter were measured."""
WORKER = 217_000_000
"""Bytes of a worker process that has torch and transformers imported and has done nothing."""
TRAINING = 890_000_000
"""Bytes that any training run on the CPU adds: trl or peft, and oneDNN's compiled products, one for each shape."""
ROW = 5_000
"""Bytes of a tokenised conversation as Python lists, with its text."""


@dataclass(frozen=True)
class Work:
    """What is computed. Sums and multiples are those of each part."""

    float32: float = 0.0
    """Floating-point operations in float32 products."""
    bfloat16: float = 0.0
    """The same in bfloat16 products."""
    moved: float = 0.0
    """Bytes read and written by what is no product."""
    python: float = 0.0
    """Seconds of one interpreter on a machine whose small call takes CALL_S."""
    starts: float = 0.0
    """Fresh processes that import torch."""

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> Work:
        return Work(*(times * part for part in astuple(self)))


NOTHING = Work()


def forward(model: ModelOutline, tokens: float, length: float, scored: float) -> float:
    """Operations of a pass over ``tokens`` tokens in rows of ``length``, with the head at ``scored`` of them."""
    s = model.shape
    attention = 4 * tokens * length * s.heads * s.head_dim * s.blocks
    return 2 * tokens * model.linears + attention + 2 * scored * model.head


def activations(model: ModelOutline, rows: float, length: float, hidden: float, ffn: float) -> float:
    """Bytes that a backward pass needs: per token and block ``hidden`` bytes per hidden channel and ``ffn`` per FFN
    channel, and three float32 matrices ``[heads, length]`` of eager attention."""
    s = model.shape
    return rows * length * s.blocks * (hidden * s.hidden + ffn * s.ffn + 12 * s.heads * length)


def touched(model: ModelOutline, tokens: float) -> float:
    """Bytes that element-wise operations of a pass read and write: about 60 per hidden channel, 30 per FFN channel."""
    return tokens * model.shape.blocks * (60.0 * model.shape.hidden + 30.0 * model.shape.ffn)


def padded(length: float, multiple: int) -> float:
    """``length`` rounded up, as batches are padded."""
    return -(-length // multiple) * multiple
