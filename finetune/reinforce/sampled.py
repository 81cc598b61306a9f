"""Replies of the model before training, judged: a few to every prompt, more where one of them fails a check."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.stage import Job
from finetune.reinforce import rewards
from finetune.reinforce.params import ReinforceParams
from finetune.reinforce.policy import Drawn, Policy, draw, prompt_of, seed_of
from finetune.reinforce.rewards import Floats, Rewards, Row
from finetune.train.rows import short_enough, tokenise_all

SAMPLES = "samples.jsonl"
TOGETHER = 128
"""Prompts answered between two writes to disk: a killed run loses no more."""


@dataclass(frozen=True)
class Sampled:
    """A prompt with the replies to it."""

    row: Row
    replies: Sequence[Drawn]
    values: Floats
    """Rewards ``[replies, rewards]``."""


def sampled(job: Job[ReinforceParams], tokenizer: Any, rows: Sequence[Row], scored: Rewards) -> list[Sampled]:
    """Replies to the prompts of ``rows`` that are short enough, in their order."""
    made: list[list[Any]] = [[{**t, "row": i}] for i, t in enumerate(tokenise_all(tokenizer, rows))]
    short: list[Any] = [example[0] for example in short_enough(made, job.params.max_length)]
    asked = [rows[tokens["row"]] for tokens in short]
    judge = Judge(scored, asked)
    groups = sample(job, [prompt_of(tokens) for tokens in short], judge)
    return [
        Sampled(row, group, judge.values(i, group)) for i, (row, group) in enumerate(zip(asked, groups, strict=True))
    ]


class Judge:
    """What replies earn; the same reply to the same prompt is judged once."""

    def __init__(self, scored: Rewards, rows: Sequence[Row]) -> None:
        self.scored = scored
        self.items = [rewards.item_of(scored.book, row) for row in rows]
        self.known: dict[tuple[int, str, bool], Floats] = {}

    def values(self, i: int, replies: Sequence[Drawn]) -> Floats:
        """Rewards of replies to prompt ``i``, float64 ``[replies, rewards]``."""
        return np.stack([self._values(i, reply) for reply in replies])

    def _values(self, i: int, reply: Drawn) -> Floats:
        key = (i, reply.text, reply.truncated)
        if key not in self.known:
            self.known[key] = self.scored.judge(self.items[i], reply.text, reply.truncated)
        return self.known[key]


def sample(job: Job[ReinforceParams], prompts: Sequence[Sequence[int]], judge: Judge) -> list[list[Drawn]]:
    """Replies of the base to each prompt of token ids; goes on after the last ones that are on disk."""
    place = job.scratch / SAMPLES
    known = _read(place)
    if len(known) < len(prompts):
        with open(place, "a", encoding="utf-8") as file:
            for groups in _sample(job, prompts, judge, len(known)):
                known += groups
                file.writelines(json.dumps([[r.text, r.truncated] for r in group]) + "\n" for group in groups)
                file.flush()
                os.fsync(file.fileno())
    return known


def _read(place: Path) -> list[list[Drawn]]:
    """The groups of whole writes; what follows them is cut off."""
    if not place.is_file():
        return []
    lines = place.read_bytes().split(b"\n")[:-1]
    whole = lines[: len(lines) // TOGETHER * TOGETHER]
    place.write_bytes(b"".join(line + b"\n" for line in whole))
    return [[Drawn((), text, truncated) for text, truncated in json.loads(line)] for line in whole]


def _sample(
    job: Job[ReinforceParams], prompts: Sequence[Sequence[int]], judge: Judge, done: int
) -> Iterator[list[list[Drawn]]]:
    p, policy = job.params, Policy(job)
    with policy.session(max(map(len, prompts)) + p.max_tokens) as session:

        def drawn(asked: Sequence[int], numbers: range) -> list[list[Drawn]]:
            seeds = [seed_of(job.seed, i, j) for i in asked for j in numbers]
            replies = iter(draw(session, [prompts[i] for i in asked for _ in numbers], seeds, p))
            return [[next(replies) for _ in numbers] for _ in asked]

        for start in range(done, len(prompts), TOGETHER):
            asked = range(start, min(start + TOGETHER, len(prompts)))
            groups = dict(zip(asked, drawn(asked, range(p.probes)), strict=True))
            hard = [i for i in asked if not rewards.passes(judge.values(i, groups[i])).all()]
            for i, more in zip(hard, drawn(hard, range(p.probes, p.samples)), strict=True):
                groups[i] += more
            if start == 0:
                _require_one_good(judge, groups)
            job.progress(asked[-1] + 1, len(prompts), "answering prompts")
            yield list(groups.values())


def _require_one_good(judge: Judge, groups: Mapping[int, list[Drawn]]) -> None:
    """Raise UsageError where no reply of the first many passes: the rest would take its time for nothing."""
    values = np.concatenate([judge.values(i, group) for i, group in groups.items()])
    cut = sum(reply.truncated for group in groups.values() for reply in group)
    rewards.require_varied(judge.scored.names, values, bool(rewards.passes(values).any()), cut)
