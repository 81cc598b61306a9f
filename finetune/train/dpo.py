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
    version = 4
    rows = 2
    referenced = True
    rates: ClassVar = {"qlora": 5e-5, "lora": 5e-5, "full": 5e-6}

    def objective(self, job: Job[DpoParams]) -> tuple[Preferring, dict[str, Any]]:
        return Pairs(job), {}


SFT_WEIGHT = 1.0
"""Where the rejected replies are mutations."""


class Pairs(Preferring):
    def losses(self, replies: preference.Replies, inputs: dict[str, Any]) -> Tensor:
        p = self.p
        losses = preference.dpo(replies, beta=p.beta, kind=p.loss, smoothing=p.label_smoothing)
        weight = p.sft_weight if p.sft_weight is not None else SFT_WEIGHT * bool(self.rules)
        if weight:
            losses = losses - weight * (replies.logps / replies.lengths)[0::2]
        return losses
