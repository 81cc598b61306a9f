"""Stage ``finetune.ulma``: unified alignment by demonstrations and labels, merged into a full-precision model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from compress.stage import Job
from finetune.train import preference
from finetune.train.params import UlmaParams
from finetune.train.preferring import Preferring
from finetune.train.tuning import Tuning

if TYPE_CHECKING:
    from torch import Tensor


class Ulma(Tuning[UlmaParams]):
    """Learns wanted replies as demonstrations, and away from the others."""

    Params = UlmaParams
    version = 7
    rows = 2
    referenced = True
    rates: ClassVar = {"qlora": 1e-4, "lora": 1e-4, "full": 1e-5}

    def objective(self, job: Job[UlmaParams]) -> tuple[Preferring, dict[str, Any]]:
        return Points(job), {}


class Points(Preferring):
    pairwise = False

    def losses(self, replies: preference.Replies, inputs: dict[str, Any]) -> Tensor:
        if self.p.labels == "continuous":
            return preference.ulma_continuous(replies, beta=self.p.beta, offset=self.p.offset)
        return preference.ulma(replies, beta=self.p.beta, log_z=self.p.log_z)
