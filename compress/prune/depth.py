"""Stage ``prune.depth``: hf -> hf with fewer blocks, recovered from the unpruned model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from compress.calibrate.reading import calibration_of, calibration_source
from compress.costs import WORKER, Work, forward, touched
from compress.model.blocks import ModelFolder
from compress.outline import Outline, folder_outline
from compress.prune.depth_math import least_influential, random_blocks, stand_ins
from compress.prune.folder import write_blocks
from compress.prune.recovery import RecoveredParams, pruning_needs, recover_pruned, training_rows
from compress.prune.width_math import removed_count, rounded
from compress.stage import Job, JobOutline, Needs, Stage

log = logging.getLogger(__name__)


class DepthParams(RecoveredParams):
    """Parameters of ``prune.depth``."""

    blocks: float = Field(0.25, gt=0)
    """Blocks to remove: a number, or below 1 a fraction."""
    method: Literal["influence", "perplexity", "random"] = "influence"
    """Blocks that change their input least; those without which calibration text is predicted best; or a baseline."""
    search_tokens: int = Field(4096, ge=256)
    """Tokens of calibration text that ``method: perplexity`` runs for every candidate."""


class DepthPrune(Stage[DepthParams]):
    """The result is a stock folder of the same architecture with the kept blocks renumbered."""

    Params = DepthParams
    version = 3
    accepts = frozenset({"hf"})
    produces = "hf"
    uses = frozenset({"train", "calibration"})
    calibrates = True
    modules: ClassVar[frozenset[str]] = frozenset({"torch", "transformers"})
    libraries: ClassVar[frozenset[str]] = frozenset({"torch", "transformers", "peft"})
    smaller = "recover: {lora: 16}, or a smaller recover.batch"

    def reads_calibration(self, params: DepthParams) -> bool:
        """The search runs text of its own through the model."""
        return params.method == "influence"

    def requires(self, params: DepthParams) -> frozenset[str]:
        """Text to search on, and rows to recover on where the share that goes wants it."""
        searched = frozenset({"calibration"}) if params.method == "perplexity" else frozenset()
        return searched | params.required_rows(params.blocks)

    def outline(self, job: JobOutline[DepthParams]) -> Outline:
        """The same folder with fewer blocks."""
        model = job.input.sizes
        kept = model.shape.blocks - removed_count(job.params.blocks, model.shape.blocks, "blocks")
        return folder_outline(replace(model, shape=replace(model.shape, blocks=kept)))

    def needs(self, job: JobOutline[DepthParams]) -> Needs:
        """Memory: while searching the hidden states without each block, one block and the head; or the recovery.

        Work of the search: for every block that goes, half of a pass for each that is left (its states start where it
        stands), and the head.
        """
        model, found, p = job.input.sizes, self.outline(job), job.params
        count = model.shape.blocks - found.sizes.shape.blocks
        memory, work = WORKER + 2 * model.weight_bytes * model.head, Work(moved=20 * found.disk_bytes, python=0.5)
        if p.method == "perplexity":
            memory += 4 * p.search_tokens * model.shape.hidden * (model.shape.blocks + 1) + 8 * model.block
            trials = count * model.shape.blocks / 2
            one = forward(model, p.search_tokens, p.calibration_length, 2 * p.search_tokens)
            work += Work(bfloat16=one, moved=4 * touched(model, p.search_tokens), python=0.01) * trials
        cutting = Needs(found.disk_bytes, int(memory), work)
        return pruning_needs(job, found.sizes, count / model.shape.blocks, cutting)

    def check(self, job: Job[DepthParams]) -> None:
        """Known architecture, a count that fits, text to search on, and training rows if recovery wants them."""
        model = ModelFolder(job.input.path)
        count = removed_count(job.params.blocks, model.blocks, "blocks")
        if job.params.method == "perplexity":
            calibration_source(job)
        if job.params.recovery(count / model.blocks) is not None:
            training_rows(job)

    def run(self, job: Job[DepthParams]) -> Mapping[str, Any]:
        """Choose, cut, recover."""
        import torch

        torch.set_num_threads(job.threads)
        model = ModelFolder(job.input.path)
        count = removed_count(job.params.blocks, model.blocks, "blocks")
        if (said := rounded(job.params.blocks, model.blocks, model.blocks - count, "blocks", "")) is not None:
            log.warning("prune.depth: %s", said)
        removed, facts = _choose(model, job, count)
        kept = [block for block in range(model.blocks) if block not in removed]
        write_blocks(model, job.out, kept)
        facts |= {"blocks_before": model.blocks, "blocks_after": len(kept), "removed": removed}
        facts |= recover_pruned(job, count / model.blocks, stand_ins(kept, model.blocks))
        return facts


def _choose(model: ModelFolder, job: Job[DepthParams], count: int) -> tuple[list[int], dict[str, Any]]:
    """Blocks to remove, first to go first, and the figures they were chosen by."""
    params = job.params
    if params.method == "random":
        return random_blocks(model.blocks, count, job.seed), {}
    if params.method == "influence":
        similarity = calibration_of(job, "prune.depth").similarity
        return least_influential(similarity, count), {"influence": [round(1 - s, 6) for s in similarity]}
    from compress.prune.depth_search import search
    from compress.windows import calibration_windows

    length = min(params.calibration_length, params.search_tokens)
    windows = calibration_windows(model.path, calibration_source(job), params.search_tokens, length)
    found = search(model, windows, count, job.progress)
    return found.removed, {"losses": [round(loss, 6) for loss in found.losses]}
