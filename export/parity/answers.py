"""What a runtime says against what the same weights say in transformers: logits and greedy tokens by position.

The runtime replies greedily and its logits are kept on the way; then the exact model reads prompt and reply at once. If
every token of the reply is the most likely one there, the greedy replies are equal; where one is not, the two must have
been tied within the runtime's arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from export.parity.logits import FLOOR, NOISE, PEAK, Floats, Gap
from export.parity.twin import Row, Twin
from runtime.session import Session

TAIL = 8
"""Logits are compared behind so many last tokens of each prompt, and behind every token of the reply."""
CHUNK_BYTES = 128 << 20
"""Logits of the runtime that are held at once."""


@dataclass
class Answers:
    """Results of one candidate."""

    gap: Gap
    """Runtime against the same weights: the compared positions of all prompts."""
    figures: dict[str, Any]
    logits: list[str] = field(default_factory=list)
    greedy: list[str] = field(default_factory=list)
    near_ties: int = 0


class _Said(NamedTuple):
    """What the runtime made of one prompt."""

    number: int
    prompt: Sequence[int]
    reply: Sequence[int]
    logits: Floats
    """float32 [compared, V]: behind the prompt's last TAIL tokens (or all) and the reply's decoded ones."""

    @property
    def thoughts(self) -> int:
        """Positions at which the runtime chose a token of the reply, or its end."""
        return len(self.logits) - min(TAIL, len(self.prompt)) + 1

    def row(self, *, whole: bool) -> Row:
        """The same tokens for the exact side, with logits behind the same tokens, or behind all."""
        ids = [*self.prompt, *self.reply[: self.thoughts - 1]]
        return Row(ids, 0 if whole else len(ids) - len(self.logits))


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

    The runtime's arithmetic is imitated on the first ``few`` prompts. ``reference``: the source model's logits of some
    of these, for the distance that quantization makes.
    """
    found, noise, drift = Answers(Gap(), {}), Gap(), Gap()
    replies: list[tuple[int, Sequence[int], list[_Thought]]] = []
    half = session.backend == "llama.cpp"
    for batch in _speak(session, prompts, count, few):
        rows = [said.row(whole=said.number in reference) for said in batch]
        imitated = batch[0].number < few
        for at, exact, noisy in twin.pairs(rows, half_cache=half) if imitated else _alone(twin.logits(rows)):
            number, _, reply, logits = said = batch[at]
            if number in reference:
                drift.add(number, reference[number], exact[: len(reference[number])])
            exact = exact[-len(logits) :]
            if noisy is not None:
                noise.add(number, exact, noisy[-len(logits) :])
            found.gap.add(number, exact, logits)
            replies.append((number, reply, list(_thoughts(exact[-said.thoughts :], reply, ends))))
    tie = 2 * (noise.largest + FLOOR * noise.own)
    for number, reply, thoughts in sorted(replies):
        _judge_reply(found, number, thoughts, reply, _Rules(ends, count, tie))
    found.logits = _judge_logits(found.gap, noise, [len(prompt) - min(TAIL, len(prompt)) for prompt in prompts])
    told = {"arithmetic": noise.told(), "quantization": drift.told()}
    found.figures = {**found.gap.told(), "tolerance_rms": _short(_limit(noise)), "tie": _short(tie), **told}
    return found


def _speak(session: Session, prompts: Sequence[Sequence[int]], count: int, few: int) -> Iterator[list[_Said]]:
    """The runtime's replies with their logits, so many prompts at a time as CHUNK_BYTES hold; the first ``few`` end a
    batch."""
    size = max(1, CHUNK_BYTES // (4 * session.engine.n_vocab * (TAIL + count)))
    size = min(size, session.engine.slots)
    for first, stop in ((0, few), (few, len(prompts))):
        for at in range(first, stop, size):
            some = prompts[at : min(at + size, stop)]
            said = session.speak_many(some, last=TAIL, max_tokens=count, fresh=at == 0)
            yield [_Said(at + i, prompt, *heard) for i, (prompt, heard) in enumerate(zip(some, said, strict=True))]


def _alone(rows: Iterable[tuple[int, Floats]]) -> Iterator[tuple[int, Floats, None]]:
    for number, exact in rows:
        yield number, exact, None


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _limit(noise: Gap) -> float:
    return NOISE * noise.rms + FLOOR * noise.own


def _judge_logits(found: Gap, noise: Gap, starts: Sequence[int]) -> list[str]:
    """Differences in words, if the runtime is further away than its arithmetic. ``starts``: the first compared token
    of each prompt."""
    row, position = found.where
    position += starts[row]
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
