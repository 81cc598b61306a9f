"""Stage ``finetune.dpo``: direct preference optimization, merged into a full-precision model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from compress.stage import Job
from finetune.train import preference
from finetune.train.params import DpoParams
from finetune.train.preferring import Preferring
from finetune.train.tuning import Tuning

if TYPE_CHECKING:
    from torch import Tensor


class Dpo(Tuning[DpoParams]):
    """Learns to prefer the chosen reply of each pair; the reference is the model before training."""

    Params = DpoParams
    version = 8
    rows = 2
    referenced = True
    rates: ClassVar = {"qlora": 5e-5, "lora": 5e-5, "full": 5e-6}

    def objective(self, job: Job[DpoParams]) -> tuple[Preferring, dict[str, Any]]:
        return Pairs(job), {}


class Pairs(Preferring):
    def losses(self, replies: preference.Replies, inputs: dict[str, Any]) -> Tensor:
        p = self.p
        losses = preference.dpo(replies, beta=p.beta, kind=p.loss, smoothing=p.label_smoothing)
        return self.with_chosen(losses, replies)
