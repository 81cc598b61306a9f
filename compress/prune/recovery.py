"""What the pruning stages share: how much is recovered from what rows, and what a stage takes for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from compress.errors import UsageError
from compress.outline import ModelOutline, Split, read_split
from compress.recover.costs import recovery
from compress.recover.params import Recover
from compress.stage import CalibratedParams, Job, JobOutline, Needs

RECOVER_ABOVE = 0.1


class RecoveredParams(CalibratedParams):
    """Parameters of a pruning stage that can recover what it cut."""

    recover: Recover | Literal["auto"] | None = "auto"
    """Training after pruning; by default distillation when more than 10 % is removed; null: off."""
    rows: Path | None = None
    """JSONL of ``{"messages"}`` or ``{"text"}`` rows to recover on; by default the pipeline's training rows."""

    def recovery(self, removed: float) -> Recover | None:
        """The recovery to run after a share ``removed`` (0 to 1) of the model's channels, groups or blocks went."""
        if self.recover == "auto":
            return Recover() if removed > RECOVER_ABOVE else None
        return self.recover

    def required_rows(self, removed: float) -> frozenset[str]:
        """The split of the data that recovery cannot do without, if any; ``removed`` as above, or a count of 1 or more
        whose share is not known yet."""
        return frozenset({"train"}) if self.rows is None and self.recovery(removed) else frozenset()


def training_rows(job: Job[Any]) -> Path:
    """The parameter ``rows``, or train.jsonl of the job's data; UsageError if there is neither."""
    path = job.params.rows
    if path is None and job.data is not None:
        path = job.data.path / "train.jsonl"
    if path is None or not path.is_file():
        raise UsageError(
            "recovery after pruning needs training rows and there are none",
            next="set data: {train: FILE.jsonl}, with: {rows: FILE.jsonl}, or with: {recover: null}",
        )
    return path


def pruning_needs(job: JobOutline[Any], student: ModelOutline, removed: float, cutting: Needs) -> Needs:
    """What cutting takes and, where a share ``removed`` wants it, the recovery after it: the larger memory."""
    recover: Recover | None = job.params.recovery(removed)
    if recover is None:
        return cutting
    split = _rows_outline(job)
    then = recovery(recover, job.input.sizes, student, split)
    return Needs(cutting.disk_bytes + then.disk_bytes, max(cutting.ram_bytes, then.ram_bytes), cutting.work + then.work)


def _rows_outline(job: JobOutline[Any]) -> Split:
    """The rows that ``training_rows`` will find."""
    return read_split(job.params.rows) if job.params.rows is not None else job.split("train")


def recover_pruned(job: Job[Any], removed: float, blocks: Sequence[int] | None = None) -> dict[str, Any]:
    """Recover the model in ``job.out`` if the parameters want it: ``{"recovery": facts}`` or {}.

    ``blocks``: the teacher's block whose output each of the student's blocks should give; by default its own.
    """
    recover = job.params.recovery(removed)
    if recover is None:
        return {}
    from compress.recover.folder import recover_folder

    facts = recover_folder(
        student=job.out,
        teacher=job.input.path,
        rows=training_rows(job),
        recover=recover,
        scratch=job.scratch,
        seed=job.seed,
        progress=job.progress,
        blocks=blocks,
    )
    return {"recovery": facts}
