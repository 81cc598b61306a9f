"""Group-relative policy optimization whose replies come from the runtime that ships (Shao et al. 2024, DeepSeekMath).

Every ``refresh`` steps the model as it stands is written as a GGUF file and answers the prompts of the steps to come,
``samples`` times each. Replies are judged by the rule file, and prompts whose replies are worth the same are left out
of the step: they have no gradient (Yu et al. 2025, DAPO). Replies and their log-probabilities are on disk before they
are learnt from, so a killed run goes on with the very same ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.json_files import write_json
from compress.stage import Job
from finetune.reinforce import curves, rewards
from finetune.reinforce.params import ReinforceParams
from finetune.reinforce.policy import Policy, draw, prompt_of, seed_of
from finetune.reinforce.rewards import Rewards, Row
from finetune.train import batches
from finetune.train.objective import IGNORED, Example, Objective
from finetune.train.objective import Row as Tokens
from finetune.train.rows import short_enough, tokenise_all

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS = "rounds"
AT_ONCE = {"cpu": 4096, "cuda": 16384}
"""Tokens scored together without a gradient."""


@dataclass(frozen=True)
class Round:
    """What ``refresh`` steps learn from: of each step its rows, with the log-probabilities of their labels."""

    number: int
    steps: Sequence[Sequence[int]]
    rows: Sequence[Tokens]
    old: Sequence[Any]
    reference: Sequence[Any]
    """float32 ``[labels]`` of each row, in nats: under the model that drew it, and under the one before training."""


class Grpo(Objective):
    """The examples are prompts; what a step learns from is drawn when it comes."""

    def __init__(self, job: Job[ReinforceParams], rows: Sequence[Row], scored: Rewards) -> None:
        self.job, self.p, self.given, self.scored = job, job.params, rows, scored
        self.policy = Policy(job)
        self.round: Round | None = None
        self.seen = 0
        self.passed = 0.0
        (job.scratch / ROUNDS).mkdir(exist_ok=True)

    def examples(self, tokenizer: Any) -> Sequence[Example]:
        made = tokenise_all(tokenizer, self.given)
        numbered: list[list[Any]] = [[{**tokens, "number": float(i)}] for i, tokens in enumerate(made)]
        kept: list[list[Any]] = short_enough(numbered, self.p.max_length)
        self.prompts = {int(row["number"]): row for (row,) in kept}
        return kept

    def begin(self, trainer: Any) -> None:
        self.trainer = trainer
        self.order = [int(number) for number in trainer.train_dataset["number"]]
        self.first = {name: weight.detach().clone() for name, weight in _trained(trainer)}

    def prepare(self, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        """The replies of this step in place of its prompts."""
        import torch

        step, device = int(self.trainer.state.global_step), inputs["input_ids"].device
        number = step // self.p.refresh
        if self.round is None or self.round.number != number:
            self.round = self._round(number)
        places = self.round.steps[step % self.p.refresh]
        batch = self.trainer.data_collator([self.round.rows[i] for i in places])
        self.seen += sum(len(self.round.rows[i]["input_ids"]) for i in places)
        for name, known in (("old", self.round.old), ("reference", self.round.reference)):
            batch[name] = _placed(batch["labels"], [torch.from_numpy(known[i]) for i in places])
        return {name: value.to(device) for name, value in batch.items()}

    def loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        from finetune.reinforce.grpo_math import token_losses

        logps, row = model(
            input_ids=inputs["input_ids"], scored_labels=inputs["labels"], by_token=True, use_cache=False
        )
        labelled = inputs["labels"] != IGNORED
        old, reference = inputs["old"][labelled], inputs["reference"][labelled]
        losses = token_losses(logps, old, reference, inputs["advantage"][row], clip=self.p.clip, beta=self.p.beta)
        return losses.sum()

    def note(self) -> str:
        return f", {self.passed:.0%} of replies pass"

    def end(self, trainer: Any) -> dict[str, Any]:
        """How many replies passed at first and at last, and which rewards told nothing."""
        rounds = [
            json.loads(path.read_text(encoding="utf-8")) for path in sorted((self.job.scratch / ROUNDS).glob("*.json"))
        ]
        values = np.concatenate([np.array(entry["values"], dtype=float) for entry in rounds])
        lines = [self._line(entry) for entry in rounds]
        curves.add(self.job.out, lines)
        facts = {"replies": len(values), "passed_at_first": lines[0][1], "passed_at_last": lines[-1][1]}
        return facts | rewards.constant_facts(self.scored.names, values)

    def _line(self, entry: dict[str, Any]) -> list[Any]:
        return curves.line(entry["step"], np.array(entry["values"], dtype=float), self.scored.names)

    def _round(self, number: int) -> Round:
        """Round ``number``: from the disk, or drawn from the model as it is now."""
        start = number * self.p.refresh * self.p.batch
        order = self.order[start : start + self.p.refresh * self.p.batch]
        place = self.job.scratch / ROUNDS / f"{number:05d}.json"
        if not place.is_file():
            write_json(place, self._drawn(number, order))
        found = json.loads(place.read_text(encoding="utf-8"))
        self.passed = self._line(found)[1]
        values = np.array(found["values"], dtype=float).reshape(len(order), self.p.samples, -1)
        worth = rewards.advantages(values, self.scored.weights)
        told = rewards.informative(worth)
        if number == 0:
            every = values.reshape(-1, values.shape[-1])
            rewards.require_varied(self.scored.names, every, bool(told.any()), found.get("cut", 0))
            rewards.tell_of_broken(self.scored.names, every)
        steps, rows = self._rows(order, found["replies"], worth, told)
        old, reference = self._logps(place.with_suffix(".npy"), rows)
        return Round(number, steps, rows, old, reference)

    def _drawn(self, number: int, order: Sequence[int]) -> dict[str, Any]:
        """Replies and rewards of the round, as JSON values."""
        p = self.p
        prompts = [prompt_of(self.prompts[i]) for i in order]
        seeds = [seed_of(self.job.seed, number, place, j) for place in range(len(order)) for j in range(p.samples)]
        with self.policy.session(max(map(len, prompts)) + p.max_tokens, self.trainer.model) as session:
            stops = session.engine.stops
            drawn = draw(session, [ids for ids in prompts for _ in range(p.samples)], seeds, p)
        replies, values = [], []
        for place, i in enumerate(order):
            item = rewards.item_of(self.scored.book, self.given[i])
            for reply in drawn[place * p.samples : (place + 1) * p.samples]:
                replies.append([*reply.ids, *([] if reply.truncated else [_end(self.prompts[i], stops)])])
                judged = self.scored.judge(item, reply.text, reply.truncated)
                values.append([None if np.isnan(value) else value for value in judged.tolist()])
        cut = sum(reply.truncated for reply in drawn)
        return {"step": number * p.refresh, "replies": replies, "values": values, "cut": cut}

    def _rows(
        self, order: Sequence[int], replies: Sequence[list[int]], worth: rewards.Floats, told: Any
    ) -> tuple[list[list[int]], list[Tokens]]:
        """(of each step the places of its rows, the rows): groups that tell something, or the first where none does."""
        steps: list[list[int]] = []
        rows: list[Tokens] = []
        for start in range(0, len(order), self.p.batch):
            groups = [g for g in range(start, min(start + self.p.batch, len(order))) if told[g]] or [start]
            steps.append([])
            for group in groups:
                prompt = prompt_of(self.prompts[order[group]])
                for j, value in enumerate(worth[group]):
                    reply = replies[group * self.p.samples + j]
                    labels = [*[IGNORED] * len(prompt), *reply]
                    steps[-1].append(len(rows))
                    rows.append({"input_ids": [*prompt, *reply], "labels": labels, "advantage": float(value)})
        return steps, rows

    def _logps(self, place: Path, rows: Sequence[Tokens]) -> tuple[list[Any], list[Any]]:
        """Log-probabilities of every row's labels under the model as it is and under the one before training; once,
        also for a run that is resumed."""
        if not place.is_file():
            now = token_logps(self.trainer, rows)
            with self._before():
                first = token_logps(self.trainer, rows)
            partial = place.with_suffix(".partial.npy")
            np.save(partial, np.stack([np.concatenate(now), np.concatenate(first)]), allow_pickle=False)
            partial.rename(place)
        known = np.load(place, allow_pickle=False)
        ends = np.cumsum([sum(label != IGNORED for label in row["labels"]) for row in rows])[:-1]
        return list(np.split(known[0], ends)), list(np.split(known[1], ends))

    @contextmanager
    def _before(self) -> Iterator[None]:
        """The model with the weights that it had before training."""
        now = {name: weight.data for name, weight in _trained(self.trainer)}
        for name, weight in _trained(self.trainer):
            weight.data = self.first[name]
        try:
            yield
        finally:
            for name, weight in _trained(self.trainer):
                weight.data = now[name]


def _trained(trainer: Any) -> list[tuple[str, Any]]:
    """Name and weight of all that learns at some time."""
    return [(n, w) for n, w in trainer.model.named_parameters() if n in trainer.learnable or w.requires_grad]


def _end(row: Tokens, stops: frozenset[int]) -> int:
    """The token that ends a turn in the chat template; an engine does not say which of its stops ended a reply."""
    return next((label for label in row["labels"] if label in stops), min(stops))


def _placed(labels: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Values of the labels of each row where the labels stand, float32 ``[rows, positions]``."""
    import torch

    placed = torch.zeros(labels.shape)
    placed[labels != IGNORED] = torch.cat(list(values))
    return placed


def token_logps(trainer: Any, rows: Sequence[Tokens]) -> list[Any]:
    """log p of each row's labels under the trainer's model, float32 ``[labels]`` each, in nats; no gradient."""
    import torch

    found: list[Any] = [None] * len(rows)
    for chosen, (logps, row) in batches.scored(trainer, rows, AT_ONCE, by_token=True):
        counts = torch.bincount(row, minlength=len(chosen)).tolist()
        for i, part in zip(chosen, logps.float().cpu().split(counts), strict=True):
            found[i] = part.numpy()
    return found
