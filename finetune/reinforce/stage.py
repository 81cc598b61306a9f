"""Stage ``finetune.reinforce``: the checkers of the rule file as rewards, merged into a full-precision model.

The model answers training prompts in the runtime that ships; its replies are judged by the rules in force and by the
expected answer. The evaluation is read to make sure that none of its questions is among the prompts, and for nothing
else.
"""

from __future__ import annotations

from typing import Any, ClassVar

from compress import launch
from compress.errors import UsageError
from compress.stage import Job, JobOutline, Needs
from finetune.reinforce import costs, rewards
from finetune.reinforce.filtered import Kept
from finetune.reinforce.grpo import Grpo
from finetune.reinforce.params import ReinforceParams
from finetune.train.objective import Objective
from finetune.train.rows import training_rows
from finetune.train.tuning import Tuning
from runtime.rules import load_rules


class Reinforce(Tuning[ReinforceParams]):
    """Learns from its own replies."""

    Params = ReinforceParams
    version = 6
    uses = frozenset({"rules", "train", "eval"})
    modules = Tuning.modules | {"gguf", "llama_cpp"}
    libraries = Tuning.libraries | {"gguf", "llama-cpp-python"}
    rates: ClassVar = {"qlora": 1e-4, "lora": 1e-4, "full": 1e-5}

    def needs(self, job: JobOutline[ReinforceParams]) -> Needs:
        return costs.needs(job)

    def check(self, job: Job[ReinforceParams]) -> None:
        super().check(job)
        if job.rules is None:
            raise UsageError("finetune.reinforce has no rules to reward", next="name a rule file under rules:")
        if (world := launch.place().world) > 1:
            what = f"finetune.reinforce draws its replies in one process, and {world} were started"
            raise UsageError(what, next="run this stage without a launcher")

    def objective(self, job: Job[ReinforceParams]) -> tuple[Objective, dict[str, Any]]:
        assert job.rules is not None
        assert job.data is not None
        scored = rewards.Rewards.of(load_rules(job.rules), job.params)
        rows, counts = training_rows(job)
        rewards.require_apart(rows, job.data.path / "eval.jsonl")
        made = Grpo(job, rows, scored) if job.params.algorithm == "grpo" else Kept(job, rows, scored)
        return made, {"algorithm": job.params.algorithm, **counts}
