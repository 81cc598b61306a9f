"""Cross-format parity: do two formats of the same weights read a prompt alike and start alike?

A wrong chat template, a doubled BOS, a lost special token or permuted attention heads ruin a model in a way that
looks like bad quantization. So the exported file is compared with the very weights it was made from:

- the token ids of every prompt must be equal; nothing explains a difference;
- the first greedy tokens may differ where the reference itself was unsure. A difference is *unexplained* when the
  reference preferred its own token by more than ``SURE`` in probability; rounding weights flips near-ties, it does
  not overturn certainty. A share of unexplained replies above ``MOST_UNEXPLAINED`` fails the artifact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from compress.validate.drift import Forced, log_softmax
from compress.validate.runner import Completion, Floats, Messages, Progress, Runner, silent

PROMPTS, TOKENS = 32, 8
SURE = 0.5
MOST_UNEXPLAINED = 0.25


@dataclass(frozen=True)
class Start:
    """How the reference reads one prompt and begins its reply."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    log_probs: Floats
    """``[len(reply), vocabulary]``: what the reference thought at each reply position."""


@dataclass(frozen=True)
class Parity:
    """Counts over prompts and replies; ``difference`` describes the first one that nothing explains."""

    reference: str
    prompts: int
    same_prompts: int
    starts: int
    same_starts: int
    unexplained: int
    difference: str | None
    failed: bool
    proved_by: str | None = None
    """The stage that compared them, where it was not this one."""


def take_starts(
    runner: Runner, prompts: Sequence[Messages], tokens: int = TOKENS, progress: Progress = silent
) -> list[Start]:
    """The reference's side of the comparison, ``tokens`` of each reply."""
    replies = runner.complete(prompts, tokens, progress=progress)
    pairs = [Forced(tuple(runner.encode(m)), r.token_ids) for m, r in zip(prompts, replies, strict=True)]
    starts = [Start(pair.prompt, pair.reply, np.empty((0, 0), np.float32)) for pair in pairs]
    spoken = [number for number, pair in enumerate(pairs) if pair.reply]
    rows = [pairs[number].before(range(len(pairs[number].reply))) for number in spoken]
    for number, logits in runner.score(rows):
        one = starts[spoken[number]]
        starts[spoken[number]] = replace(one, log_probs=log_softmax(logits, logits.shape[1]))
    return starts


def save_starts(path: Path, starts: Sequence[Start]) -> None:
    """Write ``starts`` to an .npz file, whole or not at all."""
    arrays: dict[str, Any] = {}
    for number, start in enumerate(starts):
        ids = np.array(start.prompt, np.int64), np.array(start.reply, np.int64)
        arrays |= {f"prompt{number}": ids[0], f"reply{number}": ids[1], f"log_probs{number}": start.log_probs}
    part = path.with_suffix(".part")
    with open(part, "wb") as handle:
        np.savez(handle, **arrays)
    part.replace(path)


def load_starts(path: Path) -> list[Start]:
    """Read back what ``save_starts`` wrote."""
    with np.load(path, allow_pickle=False) as found:
        return [
            Start(
                tuple(found[f"prompt{number}"].tolist()),
                tuple(found[f"reply{number}"].tolist()),
                found[f"log_probs{number}"],
            )
            for number in range(len(found.files) // 3)
        ]


def compare(
    reference: str,
    starts: Sequence[Start],
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Completion],
    *,
    same: bool,
) -> Parity:
    """Compare the reference's ``starts`` with a candidate's prompt ids and replies.

    ``same``: the candidate was made from the reference's weights, so unexplained first tokens fail it too.
    """
    wrong_prompts = [_prompt_difference(n, s.prompt, p) for n, (s, p) in enumerate(zip(starts, prompts, strict=True))]
    found = [_start_difference(n, s, r.token_ids) for n, (s, r) in enumerate(zip(starts, replies, strict=True))]
    unread = [text for text in wrong_prompts if text]
    unexplained = [text for differs, text in found if differs and text]
    too_many = same and len(unexplained) > MOST_UNEXPLAINED * len(starts)
    return Parity(
        reference=reference,
        prompts=len(starts),
        same_prompts=len(starts) - len(unread),
        starts=len(starts),
        same_starts=sum(not differs for differs, _ in found),
        unexplained=len(unexplained),
        difference=next(iter(unread + unexplained), None),
        failed=bool(unread) or too_many,
    )


def _prompt_difference(number: int, expected: Sequence[int], given: Sequence[int]) -> str | None:
    if list(expected) == list(given):
        return None
    at = next(
        (n for n, (a, b) in enumerate(zip(expected, given, strict=False)) if a != b), min(len(expected), len(given))
    )
    return (
        f"prompt {number + 1} reads as other tokens from position {at}: "
        f"{_around(expected, at)} in the reference, {_around(given, at)} here"
    )


def _around(ids: Sequence[int], at: int) -> str:
    shown: list[Any] = list(ids[at : at + 4])
    return "the end" if not shown else ", ".join(map(str, shown))


def _start_difference(number: int, start: Start, given: Sequence[int]) -> tuple[bool, str | None]:
    """Whether the first tokens differ, and in words where the reference's certainty leaves no excuse."""
    given = given[: len(start.reply)]
    for at, (expected, token) in enumerate(zip(start.reply, given, strict=False)):
        if expected != token:
            row = np.exp(start.log_probs[at].astype(np.float64))
            other = float(row[token]) if token < len(row) else 0.0
            gap = float(row[expected]) - other
            where = f"reply {number + 1}, token {at + 1}"
            text = f"{where}: {token} here, {expected} in the reference, which was {gap:.0%} surer"
            return True, text if gap > SURE else None
    return len(given) < len(start.reply), None
