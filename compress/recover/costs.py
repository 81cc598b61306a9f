"""What a recovery takes."""

from __future__ import annotations

from compress.costs import ROW, TRAINING, WORKER, Work, activations, forward, touched
from compress.outline import ModelOutline, Split
from compress.recover.params import AT_ONCE, Recover
from compress.stage import Needs

LIBRARIES_S, ROW_S = 1.0, 0.0004
"""Seconds of the interpreter: loading two models; rendering and tokenising a row."""
STEP_S, BLOCK_S = 0.02, 0.004
"""Seconds of the interpreter for a step, and for each block in it."""
PASSES = 11.0
"""Times that a step reads and writes what one pass touches."""
TRAINED_MOVED = 400
"""Bytes moved for a trained weight in a step: cast and packed for bfloat16 products, its gradient, AdamW."""
PART_MOVED = 100
"""The same for each part of a step: weights cast anew, gradients added."""
SCORES = 12 * 2**20
"""Scores that ``compress.model.head_loss`` holds at a time."""
HELD_OUT = 64
"""Most rows that are held out (``rows.split_held_out``)."""
SCORE_MOVED = 100
"""Bytes moved for each score of teacher and student: two log-softmaxes, the divergence and its slope."""


def recovery(recover: Recover, teacher: ModelOutline, student: ModelOutline, split: Split) -> Needs:
    """Memory: both models in float32, of the student also gradients and two moments (with adapters none of these), the
    student's activations of what goes through it together.

    Beside them bfloat16 copies of both models' weights, and the scores that the heads hold at a time.

    Work of a step: the student forward and twice as much back, the teacher forward, both heads at the positions to
    learn; then AdamW. Held-out rows pass both models in float32 before and after.
    """
    lengths = split.lengths(student)
    length, longest = min(lengths.whole, recover.max_length), min(lengths.longest, recover.max_length)
    tokens, replies = recover.batch * length, recover.batch * min(lengths.reply, length)
    guide = forward(teacher, tokens, length, replies) if recover.guided else 0.0
    trained = student.parameters * (0.0 if recover.lora else 1.0)
    step = Work(
        bfloat16=(2 if recover.lora else 3) * forward(student, tokens, length, replies) + guide,
        moved=PASSES * touched(student, tokens)
        + SCORE_MOVED * replies * student.shape.vocab
        + (TRAINED_MOVED + PART_MOVED * -(-tokens // AT_ONCE)) * trained,
        python=STEP_S + BLOCK_S * student.shape.blocks,
    )
    held = min(HELD_OUT, split.rows / 10)
    passes = sum(forward(m, held * length, length, held * lengths.reply) for m in (teacher, student))
    moved = 4 * touched(student, held * length) + SCORE_MOVED * held * lengths.reply * student.shape.vocab
    checks = Work(float32=passes / CHECK_SPEED, moved=moved) * 2
    fixed = Work(python=LIBRARIES_S + split.rows * ROW_S)
    memory = 4 * (teacher.parameters if recover.guided else 0) + 4 * student.parameters + 12 * trained
    together = min(recover.batch, -(-AT_ONCE // longest))
    memory += activations(student, together, longest, 34, 18) + split.rows * ROW
    memory += 2 * (teacher.parameters + student.parameters) + min(SCORES, replies * student.shape.vocab) * SCORE_BYTES
    return Needs(int(12 * trained), int(WORKER + TRAINING + memory), step * recover.distill_steps + checks + fixed)


SCORE_BYTES = 16
"""Bytes held for a score: of teacher and student, their softmax."""
CHECK_SPEED = 0.5
"""Share of the probe's speed that float32 products of transformers' models reach."""
