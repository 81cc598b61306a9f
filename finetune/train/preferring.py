"""The objective of methods that learn from replies which are wanted and replies which are not."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress import launch
from compress.errors import DataError, UsageError
from compress.stage import Job
from finetune.train import batches, together
from finetune.train.objective import Example, Objective
from finetune.train.objective import Row as Tokens
from finetune.train.pairs import BREAKS, held_apart, prompt_of, read_examples
from finetune.train.preference import Replies, agrees
from finetune.train.rows import Row, short_enough, tokenise_all

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
FloatArray = NDArray[np.float64]
REFERENCE = "reference.npy"
PROMPT = "prompt"
"""Key of an example's first row: what it answers."""
SFT_WEIGHT = 1.0
"""Where the rejected replies are mutations."""
AT_ONCE = {"cpu": batches.AT_ONCE, "cuda": 16384}
"""Tokens scored together."""


class Preferring(Objective):
    """Examples are pairs (``rows`` = 2: the chosen reply, then the rejected one) or single replies with a label."""

    pairwise: bool = True
    """Whether the loss is one of pairs, not of single replies."""
    with_reference: bool = True
    """Whether the loss knows the model before training."""

    def __init__(self, job: Job[Any]) -> None:
        self.job, self.p = job, job.params
        self.given, self.facts = read_examples(job, pairwise=self.pairwise)
        self.rows = len(self.given[0])
        if self.rows == 1 and self.p.held_out:
            raise UsageError("held_out keeps pairs, and the data have none", next="set held_out: 0")
        self.hits: list[bool] = []

    @abstractmethod
    def losses(self, replies: Replies, inputs: dict[str, Any]) -> Tensor:
        """The loss of each pair or reply of a batch or a part of it."""

    def with_chosen(self, losses: Tensor, replies: Replies) -> Tensor:
        """The losses of pairs with −log p per token of their chosen replies (``sft_weight``)."""
        given = self.p.sft_weight
        weight = given if given is not None else SFT_WEIGHT * bool(self.rules)
        return losses - weight * (replies.logps / replies.lengths)[0::2] if weight else losses

    def examples(self, tokenizer: Any) -> Sequence[Example]:
        every = short_enough(_told_apart(_tokens(tokenizer, self.given), self.facts), self.p.max_length, self.facts)
        prompts = [example[0].pop(PROMPT) for example in every]
        held = held_apart(prompts, self.p.held_out, self.job.seed)
        made = [example for example, prompt in zip(every, prompts, strict=True) if prompt not in held]
        self.held_rows = [row for pair, prompt in zip(every, prompts, strict=True) if prompt in held for row in pair]
        self.flat = [row for example in made for row in example]
        self.broken = [row.pop(BREAKS, None) for row in self.flat]
        self.rules = sorted({rule for rule in self.broken if rule is not None})
        for number, row in enumerate(self.flat):
            row["number"] = float(number)
        return made

    def begin(self, trainer: Any) -> None:
        """The replies' log-probabilities under the model before training: once, also for a run that is resumed."""
        import torch

        self.trainer = trainer
        without_dropout(trainer.model)
        place = self.job.scratch / REFERENCE
        if not together.smallest(place.is_file()):
            rows = [*self.flat, *self.held_rows, *self.more_rows()]
            values = all_logps(trainer, rows, self.job.progress) if self.with_reference else np.zeros(len(rows))
            if launch.place().leads:
                partial = place.with_suffix(".partial.npy")
                np.save(partial, values.astype(np.float32), allow_pickle=False)
                partial.rename(place)
            together.wait()
        known = np.load(place, allow_pickle=False)
        self.reference = torch.from_numpy(known[: len(self.flat)])
        self.held_reference = known[len(self.flat) : len(self.flat) + len(self.held_rows)]
        self.more_reference = known[len(self.flat) + len(self.held_rows) :]

    def more_rows(self) -> list[Tokens]:
        """Other sequences whose log-probabilities the loss needs from the model before training."""
        return []

    def prepare(self, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        numbers = inputs["number"].long().cpu()
        return {**inputs, "reference": self.reference[numbers].to(inputs["input_ids"].device)}

    def count(self, inputs: dict[str, Any]) -> int:
        return len(inputs["labels"]) // (2 if self.pairwise else 1)

    def loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        sums, lengths = model(
            input_ids=inputs["input_ids"], scored_labels=inputs["labels"], by_row=True, use_cache=False
        )
        replies = Replies(sums, lengths, inputs["reference"], inputs["good"])
        if self.rows == 2:
            right = agrees(replies, with_reference=self.with_reference).tolist()
            if replies.logps.requires_grad:
                self.hits += right
            else:
                rejected = [self.broken[int(number)] for number in inputs["number"][1::2]]
                self.agreed += zip(rejected, right, strict=True)
        return self.losses(replies, inputs).sum()

    def note(self) -> str:
        hits, self.hits = self.hits, []
        return f", agrees with {sum(hits) / len(hits):.0%}" if hits else ""

    def end(self, trainer: Any) -> dict[str, Any]:
        """``held_out``: on how many pairs kept out of training the model agrees, with a 95 % interval (Wilson 1927)."""
        if not self.held_rows:
            return dict(self.facts)
        import torch
        from scipy.stats import binomtest

        values = torch.from_numpy(all_logps(trainer, self.held_rows, self.job.progress).astype(np.float32))
        lengths = torch.tensor([sum(label >= 0 for label in row["labels"]) for row in self.held_rows])
        known = torch.from_numpy(self.held_reference)
        replies = Replies(values, lengths, known, torch.zeros(len(values)))
        right = int(agrees(replies, with_reference=self.with_reference).sum())
        n = len(self.held_rows) // 2
        interval = binomtest(right, n).proportion_ci(method="wilson")
        share = {"agrees": right, "n": n, "low": round(interval.low, 4), "high": round(interval.high, 4)}
        return {**self.facts, "held_out": share}


def without_dropout(model: Any) -> None:
    """Switch dropout off, as trl does by default where replies are compared: the model before training has none, so
    what GPT-2's would change is no preference."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def logps(trainer: Any, rows: Sequence[Tokens], progress: Any = None) -> FloatArray:
    """log p of each row's labels under the trainer's model, in nats, float64 ``[rows]``; no gradient."""
    found, done = np.zeros(len(rows)), 0
    for chosen, (sums, _) in batches.scored(trainer, rows, AT_ONCE, by_row=True):
        found[chosen] = sums.double().cpu().numpy()
        done += len(chosen)
        if progress is not None:
            progress(done, len(rows), "reading replies")
    return found


def all_logps(trainer: Any, rows: Sequence[Tokens], progress: Any = None) -> FloatArray:
    """The same as ``logps`` for rows that every process has; each of them reads a part."""
    import torch

    found, places = np.zeros(len(rows)), together.mine(range(len(rows)))
    found[list(places)] = logps(trainer, [rows[i] for i in places], progress)
    return together.summed(torch.from_numpy(found)).numpy()


def _tokens(tokenizer: Any, given: Sequence[Sequence[tuple[Row, float]]]) -> list[list[Tokens]]:
    """Tokens and labels of each example's rows, ``good``, and PROMPT in the first."""
    flat = [(row, label) for example in given for row, label in example]
    tokens = iter(tokenise_all(tokenizer, [row for row, _ in flat]))
    made = []
    for example in given:
        made.append([{**next(tokens), "good": label, **_broken(row)} for row, label in example])
        made[-1][0][PROMPT] = prompt_of(example[0][0])
    return made


def _told_apart(examples: list[list[Tokens]], facts: dict[str, Any]) -> list[list[Tokens]]:
    """The examples without pairs that the template writes alike (many drop spaces around a reply), which are counted as
    ``equal_pairs``. Raises DataError where no other is left."""
    made = [example for example in examples if len(example) == 1 or example[0]["input_ids"] != example[1]["input_ids"]]
    if not made:
        what = "the chat template writes chosen and rejected alike in every row"
        raise DataError("training data", None, what, next="give replies that differ in more than spaces")
    if same := len(examples) - len(made):
        facts["equal_pairs"] = facts.get("equal_pairs", 0) + same
        log.warning("%d of %d pairs are left out: the chat template writes both replies alike", same, len(examples))
    return made


def _broken(row: Row) -> dict[str, str]:
    return {BREAKS: row[BREAKS]} if BREAKS in row else {}
