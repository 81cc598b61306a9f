"""Stage ``finetune.kto``: Kahneman-Tversky optimization, merged into a full-precision model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from compress.errors import UsageError
from compress.stage import Job
from finetune.train import preference, together
from finetune.train.objective import IGNORED, Example
from finetune.train.objective import Row as Tokens
from finetune.train.params import KtoParams
from finetune.train.preferring import Preferring, all_logps
from finetune.train.tuning import Tuning

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
EVEN = (1.0, 4 / 3)
"""What the wanted replies should weigh together, over the others (Ethayarajh et al. 2024)."""
UNEVEN = 2.0
"""How far beyond that a warning is due."""


class Kto(Tuning[KtoParams]):
    """Learns from replies that are wanted and replies that are not; the reference is the model before training."""

    Params = KtoParams
    version = 7
    rows = 2
    referenced = True
    rates: ClassVar = {"qlora": 5e-5, "lora": 5e-5, "full": 5e-6}

    def objective(self, job: Job[KtoParams]) -> tuple[Preferring, dict[str, Any]]:
        return Points(job), {}


class Points(Preferring):
    pairwise = False

    def losses(self, replies: preference.Replies, inputs: dict[str, Any]) -> Tensor:
        kl = inputs["kl"][0]
        return preference.kto(replies, beta=self.p.beta, kl=kl, wanted=self.p.wanted, unwanted=self.p.unwanted)

    def examples(self, tokenizer: Any) -> Sequence[Example]:
        made = super().examples(tokenizer)
        good = sum(row["good"] for row in self.flat)
        _tell_of_weights(int(good), len(self.flat) - int(good), self.p.wanted, self.p.unwanted)
        if len(self.flat) < 2 or self.p.batch * self.rows < 2:
            raise UsageError("finetune.kto needs at least two replies in a batch", next="raise batch")
        return made

    def more_rows(self) -> list[Tokens]:
        """The prompts of every batch with the reply of the row behind, whose log-ratios estimate the KL divergence."""
        order = [int(number) for number in self.trainer.train_dataset["number"]]
        size = self.p.batch * self.rows
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        self.mixed = {pair: i for i, pair in enumerate(dict.fromkeys(p for batch in batches for p in _next(batch)))}
        return [crossed(self.flat[i], self.flat[j]) for i, j in self.mixed]

    def begin(self, trainer: Any) -> None:
        self.trainer = trainer
        self.crossed = self.more_rows()
        super().begin(trainer)

    def prepare(self, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        """With ``kl`` = max(0, mean log-ratio of the crossed replies), one number for the whole batch."""
        numbers = [int(number) for number in together.gathered(inputs["number"])]
        places = [self.mixed[pair] for pair in _next(numbers)]
        now = all_logps(self.trainer, [self.crossed[place] for place in places])
        kl = max(0.0, float((now - self.more_reference[places]).mean()))
        inputs = super().prepare(model, inputs)
        return {**inputs, "kl": inputs["reference"].new_full((len(inputs["labels"]),), kl)}


def _tell_of_weights(good: int, bad: int, wanted: float, unwanted: float) -> None:
    """Warn where one kind of replies outweighs the other."""
    low, high = EVEN
    if not good or not bad or low / UNEVEN <= (ratio := good * wanted / (bad * unwanted)) <= high * UNEVEN:
        return
    name, value = ("wanted", bad * unwanted / good) if ratio < low else ("unwanted", good * wanted / bad)
    said = "%d replies are wanted and %d are not: by their weights one kind counts %.3g times as much; %s: %.2g is even"
    log.warning(said, good, bad, max(ratio, 1 / ratio), name, value)


def _next(batch: Sequence[int]) -> list[tuple[int, int]]:
    """Each row with the one behind it, the last with the first."""
    return list(zip(batch, [*batch[1:], *batch[:1]], strict=True))


def crossed(asked: Tokens, answered: Tokens) -> Tokens:
    """The prompt of one row with the reply of another."""
    prompt = asked["input_ids"][: _start(asked)]
    reply = answered["input_ids"][_start(answered) :]
    return {"input_ids": [*prompt, *reply], "labels": [IGNORED] * len(prompt) + list(reply)}


def _start(row: Tokens) -> int:
    """Where the reply begins."""
    return next(i for i, label in enumerate(row["labels"]) if label != IGNORED)
