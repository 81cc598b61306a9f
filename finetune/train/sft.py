"""Stage ``finetune.sft``: supervised fine-tuning (QLoRA, LoRA or full), merged into a full-precision model.

The loss is on the replies alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from compress.stage import Job
from finetune.train.objective import Example, Labels
from finetune.train.params import SftParams
from finetune.train.rows import Row, tokenise, training_rows
from finetune.train.tuning import Tuning


class Sft(Tuning[SftParams]):
    """Fine-tunes on the training split and merges."""

    Params = SftParams
    version = 10
    rates: ClassVar = {"qlora": 2.5e-4, "lora": 2.5e-4, "full": 2e-5}

    def objective(self, job: Job[SftParams]) -> tuple[Labels, dict[str, Any]]:
        rows, counts = training_rows(job)
        return Conversations(rows, job.params), counts


class Conversations(Labels):
    """The replies of whole conversations."""

    def __init__(self, rows: list[Row], p: SftParams) -> None:
        self.given, self.p, self.facts = rows, p, dict[str, Any]()
        self.packed = p.packing

    def examples(self, tokenizer: Any) -> Sequence[Example]:
        every = self.p.loss_on == "all"
        return tokenise(tokenizer, self.given, self.p.max_length, every_turn=every, counts=self.facts)

    def end(self, trainer: Any) -> dict[str, Any]:
        return dict(self.facts)
