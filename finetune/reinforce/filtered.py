"""Rejection sampling: the model's own replies that pass every check become training rows (Yuan et al. 2023, RFT)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from compress.stage import Job
from finetune.reinforce import curves, rewards
from finetune.reinforce.params import ReinforceParams
from finetune.reinforce.rewards import Rewards, Row
from finetune.reinforce.sampled import Sampled, sampled
from finetune.train.objective import Example, Labels
from finetune.train.pairs import answered
from finetune.train.rows import tokenise


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
        found = sampled(self.job, tokenizer, self.asked, self.scored)
        self.values = np.concatenate([prompt.values for prompt in found])
        self.first = np.concatenate([prompt.values[: self.p.probes] for prompt in found])
        passed = rewards.passes(self.values)
        cut = sum(reply.truncated for prompt in found for reply in prompt.replies)
        rewards.require_varied(self.scored.names, self.values, bool(passed.any() and not passed.all()), cut)
        rewards.tell_of_broken(self.scored.names, self.values)
        kept, counts = chosen(found, self.p, self.job.seed)
        self.facts = {"prompts": len(found), "replies": len(self.values), **counts}
        return tokenise(tokenizer, kept, self.p.max_length)

    def end(self, trainer: Any) -> dict[str, Any]:
        told = curves.line(0, self.first, self.scored.names)  # the others are of the harder prompts alone
        curves.add(self.job.out, [told])
        return {**self.facts, "passed": told[1], **rewards.constant_facts(self.scored.names, self.values)}
