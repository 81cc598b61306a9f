"""What asking models takes: the work of ``validate``, model by model."""

from __future__ import annotations

from dataclasses import dataclass

from compress.costs import Work, forward, touched
from compress.outline import ModelOutline
from compress.validate.in_torch import BATCH

LONGER = 1.4
"""How much longer than the mean the longest reply of a batch is: steps go on until it ends."""
SPEED = 0.7
"""Share of the probe's float32 speed that products of torch and of the runtimes reach, codes dequantized or not."""
PASSES = 4.0
"""Times that a pass in torch reads and writes what its operations touch."""
STEP_S, BLOCK_S = 0.001, 0.0006
"""Seconds of the interpreter for a step in torch, and for each block in it."""
TORCH_LOAD_S, RUNTIME_LOAD_S = 1.0, 0.1
"""Seconds of the interpreter: loading a model in torch; in its runtime."""
RUNTIME_ROW_S, GUARD_S = 0.0015, 0.002
"""Seconds of the interpreter for a reply in the runtime's loop; for one judged by every rule, several times."""
SCORE_MOVED = 80
"""Bytes moved for a score: written or read, two log-softmaxes and the divergence."""
BENCH_S, PREFILL = 1.5, 3 * 384
"""Seconds of the interpreter of a process that times a runtime; tokens of the long prompts it reads."""


@dataclass(frozen=True)
class Asked:
    """Rows of a split: how many, tokens of a prompt and of a reply, and of the longest of both."""

    rows: float
    prompt: float
    reply: float
    longest: float


def answers(model: ModelOutline, asked: Asked, *, in_torch: bool) -> Work:
    """Every prompt read and replied to, the head at reply positions."""
    tokens = asked.rows * (asked.prompt + asked.reply)
    products = forward(model, tokens, asked.prompt + asked.reply, asked.rows * asked.reply)
    if not in_torch:
        return Work(float32=products / SPEED, python=RUNTIME_LOAD_S + RUNTIME_ROW_S * asked.rows)
    steps = -(-asked.rows // BATCH) * LONGER * asked.reply
    python = TORCH_LOAD_S + steps * (STEP_S + BLOCK_S * model.shape.blocks)
    return Work(float32=products / SPEED, moved=PASSES * touched(model, tokens) + 20 * model.parameters, python=python)


def guarded(asked: Asked) -> Work:
    """Every reply parsed and judged."""
    return Work(python=GUARD_S * asked.rows)


def scored(model: ModelOutline, asked: Asked, most: float) -> Work:
    """Prompts and replies read once more, with the scores of at most ``most`` reply positions."""
    tokens, positions = asked.rows * (asked.prompt + asked.reply), min(most, asked.rows * asked.reply)
    moved = PASSES * touched(model, tokens) + SCORE_MOVED * positions * model.shape.vocab
    return Work(float32=forward(model, tokens, asked.prompt, positions) / SPEED, moved=moved)


def timed(model: ModelOutline, asked: Asked, runs: int, *, in_torch: bool, kernel: bool) -> Work:
    """A fresh process that answers ``runs`` prompts one by one, each twice. Decoding reads every weight for each token.
    ``kernel``: whether there is one for the format; a GPTQ folder answers one prompt only."""
    replies = (2 * runs + 2) if kernel else 1
    steps = replies * asked.reply
    read = (4.0 if in_torch else model.weight_bytes) * (model.linears + model.head)
    long = forward(model, PREFILL if kernel else 0, PREFILL / 3, 0)
    products = Work(
        float32=(long + forward(model, replies * asked.prompt, asked.prompt, 0)) / SPEED, moved=steps * read
    )
    if not in_torch:
        return products + Work(python=BENCH_S)
    python = TORCH_LOAD_S + steps * (STEP_S + BLOCK_S * model.shape.blocks)
    return products + Work(python=python, moved=20.0 * model.parameters, starts=STARTS)


STARTS = 1.5
"""Wall time of a start over its processor time."""
