"""What a runtime says against what the same weights say in transformers: logits and greedy tokens by position.

The runtime's own greedy tokens are put behind each prompt and scored on both sides. If every one of them is the most
likely token of the exact model, the greedy replies are equal; where one is not, the two must have been tied within the
runtime's arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from export.parity.logits import FLOOR, NOISE, PEAK, Floats, Gap, Twin
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
    found, noise, drift = Answers(Gap(), {}), Gap(), Gap()
    thoughts: list[tuple[int, list[_Thought]]] = []

    def heard(number: int, exact: Floats) -> None:
        found.gap.add(number, exact, session.logits(rows[number]))
        start = len(prompts[number]) - 1
        thoughts.append((number, list(_thoughts(exact[start:], replies[number], ends))))

    half = session.backend == "llama.cpp"
    for number, exact, noisy in twin.pairs(rows[:few], half_cache=half):
        noise.add(number, exact, noisy)
        own = reference[number]
        drift.add(number, own, exact[: len(own)])
        heard(number, exact)
    for number, exact in twin.logits(rows[few:]):
        heard(number + few, exact)
    tie = 2 * (noise.largest + FLOOR * noise.own)
    for number, thought in sorted(thoughts):
        _judge_reply(found, number, thought, replies[number], _Rules(ends, count, tie))
    found.logits = _judge_logits(found.gap, noise)
    told = {"arithmetic": noise.told(), "quantization": drift.told()}
    found.figures = {**found.gap.told(), "tolerance_rms": _short(_limit(noise)), "tie": _short(tie), **told}
    return found


def _short(value: float) -> float:
    return float(f"{value:.4g}")


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


class _Thought(NamedTuple):
    """What the exact model thought at one position of a reply."""

    best: int
    above: float
    """How much higher its best logit is than that of the token that the runtime chose; 0 behind the last."""
    above_ends: float
    """The same of the best end token; infinite where there is none."""


def _thoughts(exact: Floats, reply: Sequence[int], ends: frozenset[int]) -> Iterator[_Thought]:
    """``exact [len(reply) + 1, V]``: before each reply token and after the last."""
    stops = sorted(ends)
    for at, row in enumerate(exact):
        best = int(row.argmax())
        end = float(row[best] - np.max(row[stops])) if stops else float("inf")
        yield _Thought(best, float(row[best] - row[reply[at]]) if at < len(reply) else 0.0, end)


@dataclass(frozen=True)
class _Rules:
    ends: frozenset[int]
    count: int
    tie: float


def _judge_reply(
    found: Answers, number: int, thoughts: Sequence[_Thought], reply: Sequence[int], rules: _Rules
) -> None:
    for at, (best, above, above_ends) in enumerate(thoughts):
        if at < len(reply):
            if reply[at] == best:
                continue
            apart, got = above, str(reply[at])
        elif len(reply) < rules.count:  # the runtime stopped here
            if best in rules.ends:
                continue
            apart, got = above_ends, "the end"
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
