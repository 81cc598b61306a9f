"""What a runtime says against what the same weights say in transformers: logits and greedy tokens by position.

The runtime's own greedy tokens are put behind each prompt and scored on both sides. If every one of them is the most
likely token of the exact model, the greedy replies are equal; where one is not, the two must have been tied within the
runtime's arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from export.parity.logits import FLOOR, NOISE, PEAK, Floats, Gap, Twin, gap
from runtime.session import Session


@dataclass
class Answers:
    """Results of one candidate."""

    gap: Gap
    """Runtime against the same weights, all prompts."""
    figures: dict[str, Any]
    logits: list[str] = field(default_factory=list)
    greedy: list[str] = field(default_factory=list)
    near_ties: int = 0


def compare_answers(
    twin: Twin,
    session: Session,
    prompts: Sequence[Sequence[int]],
    reference: Mapping[int, Floats],
    *,
    ends: frozenset[int],
    count: int,
    few: int,
) -> Answers:
    """Compare ``session`` with ``twin`` (the same weights) on ``prompts`` (token ids) and ``count`` greedy tokens.

    ``reference``: the source model's logits of the first ``few`` prompts, for the distance that quantization makes.
    """
    replies = [reply.token_ids for reply in session.continue_many(prompts, max_tokens=count)]
    rows = [[*prompt, *reply] for prompt, reply in zip(prompts, replies, strict=True)]
    noise = _noise(twin, session, rows[:few])
    tie = 2 * (noise.largest + FLOOR * noise.own)
    found = Answers(Gap(), {})
    for number, exact in twin.logits(rows):
        found.gap.add(number, exact, session.logits(rows[number]))
        start = len(prompts[number]) - 1
        _judge_reply(found, number, exact[start:], replies[number], _Rules(ends, session.engine.stops, count, tie))
    drift = Gap()
    for number, own in twin.logits(prompts[:few]):
        drift.add(number, reference[number][: len(own)], own)
    found.logits = _judge_logits(found.gap, noise)
    told = {"arithmetic": noise.told(), "quantization": drift.told()}
    found.figures = {**found.gap.told(), "tolerance_rms": _short(_limit(noise)), "tie": _short(tie), **told}
    return found


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _noise(twin: Twin, session: Session, rows: Sequence[Sequence[int]]) -> Gap:
    """What the runtime's roundings do to these weights."""
    half = session.backend == "llama.cpp"
    return gap(twin.logits(rows), dict(twin.noisy(rows, half_cache=half)), rows)


def _limit(noise: Gap) -> float:
    return NOISE * noise.rms + FLOOR * noise.own


def _judge_logits(found: Gap, noise: Gap) -> list[str]:
    """Differences in words, if the runtime is further away than its arithmetic."""
    row, position = found.where
    wrong = []
    if not found.rms <= _limit(noise):
        wrong.append(
            f"logits are {found.rms:.3g} (root mean square) from the same weights in transformers; the runtime's "
            f"arithmetic explains {_limit(noise):.3g} (worst at prompt {row + 1}, token {position + 1})"
        )
    peak = PEAK * noise.largest_row + PEAK * FLOOR * noise.own
    if not found.largest_row <= peak:
        wrong.append(
            f"logits after token {position + 1} of prompt {row + 1} are {found.largest_row:.3g} from the same weights "
            f"in transformers; the runtime's arithmetic explains {peak:.3g}"
        )
    return wrong


@dataclass(frozen=True)
class _Rules:
    ends: frozenset[int]
    stops: frozenset[int]
    count: int
    tie: float


def _judge_reply(found: Answers, number: int, exact: Floats, reply: Sequence[int], rules: _Rules) -> None:
    """``exact [len(reply) + 1, V]``: what the exact model thought before each reply token and after the last."""
    for at, row in enumerate(exact):
        best = int(row.argmax())
        if at < len(reply):
            token = reply[at]
            if token == best:
                continue
            apart, got = float(row[best] - row[token]), str(token)
        elif len(reply) < rules.count:  # the runtime stopped here
            if best in rules.ends:
                continue
            apart, got = _nearest_stop(row, best, rules), "the end"
        else:
            return
        if apart <= rules.tie:
            found.near_ties += 1
        else:
            what = "the end" if best in rules.ends else str(best)
            found.greedy.append(
                f"prompt {number + 1}, token {at + 1} of the reply: {got} instead of {what}, which the same weights in "
                f"transformers put {apart:.3g} logits higher (ties reach {rules.tie:.2g})"
            )
            return


def _nearest_stop(row: Floats, best: int, rules: _Rules) -> float:
    """How far the best end token is below the best token."""
    stops = sorted(rules.ends)
    return float(row[best] - np.max(row[stops])) if stops else float("inf")
