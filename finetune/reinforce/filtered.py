"""Rejection sampling: the model's own replies that pass every check become training rows (Yuan et al. 2023, RFT)."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.stage import Job
from finetune.reinforce import curves, rewards
from finetune.reinforce.params import ReinforceParams
from finetune.reinforce.policy import Drawn, Policy, draw, prompt_of, seed_of
from finetune.reinforce.rewards import Rewards, Row
from finetune.train.objective import Example, Labels
from finetune.train.pairs import answered
from finetune.train.rows import short_enough, tokenise, tokenise_all

SAMPLES = "samples.jsonl"
TOGETHER = 32
"""Prompts answered between two writes to disk: a killed run loses no more."""


@dataclass(frozen=True)
class Sampled:
    """A prompt with the replies to it."""

    row: Row
    replies: Sequence[Drawn]
    values: rewards.Floats
    """Rewards ``[samples, rewards]``."""


def sample(job: Job[ReinforceParams], prompts: Sequence[Sequence[int]]) -> list[list[Drawn]]:
    """``samples`` replies of the base to each prompt of token ids; goes on after the last ones that are on disk."""
    place = job.scratch / SAMPLES
    known = _read(place)
    if len(known) < len(prompts):
        with open(place, "a", encoding="utf-8") as file:
            for groups in _sample(job, prompts, len(known)):
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


def _sample(job: Job[ReinforceParams], prompts: Sequence[Sequence[int]], done: int) -> Iterator[list[list[Drawn]]]:
    p, policy = job.params, Policy(job)
    with policy.session(max(map(len, prompts)) + p.max_tokens) as session:
        for start in range(done, len(prompts), TOGETHER):
            part = prompts[start : start + TOGETHER]
            seeds = [seed_of(job.seed, start + i, j) for i in range(len(part)) for j in range(p.samples)]
            drawn = draw(session, [ids for ids in part for _ in range(p.samples)], seeds, p)
            job.progress(start + len(part), len(prompts), "answering prompts")
            yield [drawn[i * p.samples : (i + 1) * p.samples] for i in range(len(part))]


def chosen(found: Sequence[Sampled], p: ReinforceParams, seed: int) -> tuple[list[Row], dict[str, int]]:
    """Rows to learn, in the order of ``found``, and counts.

    Of a prompt the first ``keep`` different replies that pass; where none does, its own reply (``demonstrations``);
    of the prompts whose every reply passes a share of ``easy``.
    """
    rng = random.Random(f"easy {seed}")
    rows: list[Row] = []
    counts = {"kept": 0, "demonstrations": 0, "all_passed": 0, "none_passed": 0}
    for prompt in found:
        passed = rewards.passes(prompt.values)
        counts["all_passed"] += bool(passed.all())
        counts["none_passed"] += not passed.any()
        if passed.all() and rng.random() >= p.easy:
            continue
        texts = list(dict.fromkeys(r.text for r, good in zip(prompt.replies, passed, strict=True) if good))[: p.keep]
        rows += [answered(prompt.row, text) for text in texts]
        counts["kept"] += len(texts)
        if not texts and p.demonstrations:
            rows.append(prompt.row)
            counts["demonstrations"] += 1
    return rows, counts


class Kept(Labels):
    """Conversations that rejection sampling leaves; their last replies are learnt."""

    def __init__(self, job: Job[ReinforceParams], rows: Sequence[Row], scored: Rewards) -> None:
        self.job, self.p, self.scored = job, job.params, scored
        self.asked = rows[: job.params.prompts]

    def examples(self, tokenizer: Any) -> Sequence[Example]:
        """Raises UsageError naming the rewards that are constant where none tells one reply from another."""
        found = list(self._sampled(tokenizer))
        self.values = np.concatenate([prompt.values for prompt in found])
        passed = rewards.passes(self.values)
        rewards.require_varied(self.scored.names, self.values, bool(passed.any() and not passed.all()))
        kept, counts = chosen(found, self.p, self.job.seed)
        self.facts = {"prompts": len(found), "replies": len(self.values), **counts}
        return tokenise(tokenizer, kept, self.p.max_length)

    def _sampled(self, tokenizer: Any) -> Iterator[Sampled]:
        made: list[list[Any]] = [[{**t, "row": i}] for i, t in enumerate(tokenise_all(tokenizer, self.asked))]
        short: list[Any] = [example[0] for example in short_enough(made, self.p.max_length)]
        replies = sample(self.job, [prompt_of(tokens) for tokens in short])
        for tokens, group in zip(short, replies, strict=True):
            row = self.asked[tokens["row"]]
            item = rewards.item_of(self.scored.book, row)
            yield Sampled(row, group, np.stack([self.scored.judge(item, r.text, r.truncated) for r in group]))

    def end(self, trainer: Any) -> dict[str, Any]:
        told = curves.line(0, self.values, self.scored.names)
        curves.add(self.job.out, [told])
        return {**self.facts, "passed": told[1], **rewards.constant_facts(self.scored.names, self.values)}
