"""Stage ``finetune.simpo``: preference optimization without a reference, merged into a full-precision model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from compress.stage import Job
from finetune.train import preference
from finetune.train.params import SimpoParams
from finetune.train.preferring import Preferring
from finetune.train.tuning import Tuning

if TYPE_CHECKING:
    from torch import Tensor


class Simpo(Tuning[SimpoParams]):
    """Learns to prefer the chosen reply by a margin of its mean log-probability, without a reference."""

    Params = SimpoParams
    version = 8
    rows = 2
    referenced = False
    rates: ClassVar = {"qlora": 5e-5, "lora": 5e-5, "full": 5e-6}

    def objective(self, job: Job[SimpoParams]) -> tuple[Preferring, dict[str, Any]]:
        return Margins(job), {}


class Margins(Preferring):
    with_reference = False

    def losses(self, replies: preference.Replies, inputs: dict[str, Any]) -> Tensor:
        losses = preference.simpo(replies, beta=self.p.beta, gamma=self.p.gamma)
        return self.with_chosen(losses, replies)
