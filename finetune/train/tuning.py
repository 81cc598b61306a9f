"""What the methods of fine-tuning share: an ``hf`` folder in, a merged full-precision ``hf`` folder and an adapter out.

Training continues from its last whole checkpoint and ends with the same bytes as an undisturbed run.
"""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from compress import launch
from compress.artifact import MEASUREMENTS
from compress.errors import UsageError
from compress.extras import need
from compress.json_files import write_json
from compress.outline import Outline
from compress.stage import Job, JobOutline, Needs, Stage
from finetune.train import costs, gpu, merge, sharding, together, training, trials
from finetune.train.costs import PROBES
from finetune.train.objective import Objective
from finetune.train.params import TuningParams

WIDTH = 4096
P = TypeVar("P", bound=TuningParams)


class Tuning(Stage[P]):
    """Subclasses set ``Params``, ``rates`` and ``objective``."""

    accepts = frozenset({"hf"})
    produces = "hf"
    together = True
    uses = frozenset({"rules", "train"})
    modules = frozenset({"torch", "transformers", "peft", "trl", "bitsandbytes", "datasets"})
    libraries = frozenset({"torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate"})
    smaller = "a smaller batch or max_length, or a lower rank"
    rates: ClassVar[Mapping[str, float]]
    """Peak learning rates at hidden size ``WIDTH``; they grow as a model gets narrower (Yang et al., 2022)."""

    rows: ClassVar[int] = 1
    """Rows in the model for an example."""
    referenced: ClassVar[bool] = False
    """Whether each row is read once before training."""

    @abstractmethod
    def objective(self, job: Job[P]) -> tuple[Objective, dict[str, Any]]:
        """What is trained for, and facts of the data."""

    def outline(self, job: JobOutline[P]) -> Outline:
        return costs.outline(job)

    def needs(self, job: JobOutline[P]) -> Needs:
        found = costs.needs(job, costs.augmented(job), self.rows, referenced=self.referenced)
        p = job.params
        times = p.search.trials if p.search else p.cross_validation.folds + 1 if p.cross_validation else 1
        more = self.outline(job).disk_bytes if p.search else 0
        return replace(found, disk_bytes=found.disk_bytes + more, work=found.work * times)

    def check(self, job: Job[P]) -> None:
        if job.data is None or not (job.data.path / "train.jsonl").is_file():
            what = f"finetune.{type(self).__name__.lower()} has no training data"
            raise UsageError(what, next="give data.train in the pipeline file")
        together.share(job.params.batch)
        if together.cut():
            sharding.require(job.params)
        for module in ["optuna"] * (job.params.search is not None) + job.params.log_to:
            need(module)
        if job.params.optimizer.endswith("_8bit") and not need("torch").cuda.is_available():
            what = f"optimizer: {job.params.optimizer} needs a CUDA device"
            raise UsageError(what, next="set optimizer: adamw")
        p = job.params
        if p.optimizer == "sgd" and p.rate is None and "rate" not in (p.search.over if p.search else ()):
            what = "optimizer: sgd has no rate, and the rates that are known are those of adaptive optimizers"
            raise UsageError(what, next="give rate (0.1 is usual), or set optimizer: adamw")
        if job.inputs:
            merge.check_base(job.input.path)

    def run(self, job: Job[P]) -> Mapping[str, Any]:
        need("torch").set_num_threads(job.threads)
        merge.require_finite(job.input.path)
        if job.params.search is not None:
            return trials.search(self, job)
        folds = {} if job.params.cross_validation is None else trials.folds(self, job)
        result, facts = self.tune(job)
        return self.finish(job, result, facts | folds) if launch.place().leads else {}

    def tune(
        self, job: Job[P], judge: trials.Judge | None = None, fold: tuple[int, int] | None = None
    ) -> tuple[training.Result, dict[str, Any]]:
        """What training left, and its facts; ``judge`` and ``fold`` as in ``watching.Watch``."""
        p = job.params
        objective, counts = self.objective(job)
        result = training.train(
            job, objective, p.rate or self.default_rate(p.method, job.input.path), judge=judge, fold=fold
        )
        return result, {
            "method": p.method, "loss": round(result.loss, 4), "steps": result.steps, **counts, **result.facts
        }  # fmt: skip

    def finish(self, job: Job[P], result: training.Result, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the model and its adapter into ``job.out``, and the last word to other programs; the facts and more."""
        started, memory, facts = time.monotonic(), gpu.highest(), dict(facts)
        if job.params.method == "full":
            merge.save_merged(result.model, job.input.path, job.out, result.weights)
        else:
            facts["merge_max_logit_gap"] = _merge(job, result)
        seconds = result.seconds + time.monotonic() - started
        rate = round(result.tokens / result.seconds) if result.seconds else None
        write_json(job.out / MEASUREMENTS, {"seconds": round(seconds, 1), "train_tokens_per_second": rate, **memory})
        if result.logs is not None:
            result.logs.end(job.out, facts)
        return facts

    def default_rate(self, method: str, folder: Path) -> float:
        """Peak learning rate that suits the width of the model in ``folder``."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return self.rates[method] * WIDTH / int(config.get("hidden_size") or config["n_embd"])


def _merge(job: Job[P], result: training.Result) -> float:
    four_bit = job.params.method == "qlora"
    merged, gap = merge.merge(job.input.path, result.adapter, four_bit=four_bit, probes=result.probes[:PROBES])
    merge.check_gap(gap, job.params.max_logit_gap)
    merge.save_merged(merged, job.input.path, job.out)
    merge.save_adapter(result.adapter, job.out / "adapter")
    return float(f"{gap:.3g}")
