"""Stage ``finetune.orpo``: odds-ratio preference optimization, merged into a full-precision model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from compress.stage import Job
from finetune.train import preference
from finetune.train.params import OrpoParams
from finetune.train.preferring import Preferring
from finetune.train.tuning import Tuning

if TYPE_CHECKING:
    from torch import Tensor


class Orpo(Tuning[OrpoParams]):
    """Learns the chosen reply and to prefer it, without a reference."""

    Params = OrpoParams
    version = 7
    rows = 2
    referenced = False
    rates: ClassVar = {"qlora": 1e-4, "lora": 1e-4, "full": 1e-5}

    def objective(self, job: Job[OrpoParams]) -> tuple[Preferring, dict[str, Any]]:
        return Odds(job), {}


class Odds(Preferring):
    with_reference = False

    def losses(self, replies: preference.Replies, inputs: dict[str, Any]) -> Tensor:
        return preference.orpo(replies, weight=self.p.weight)
