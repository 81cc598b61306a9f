"""Stage ``prune.width``: hf -> hf with narrower FFNs, then recovered by distillation from the unpruned model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from compress.artifact import MEASUREMENTS, write_json
from compress.blocks import ModelFolder
from compress.calibrate import Calibration
from compress.distill import Recover
from compress.errors import UsageError
from compress.prune.width_math import kept_width
from compress.stage import CalibratedParams, Job, Needs, Stage
from compress.weights import TensorSpec, copy_side_files, write_model

if TYPE_CHECKING:
    import torch

RECOVER_ABOVE = 0.1


class WidthParams(CalibratedParams):
    """Parameters of ``prune.width``."""

    ffn: float = Field(0.25, gt=0, lt=1)
    """Fraction of FFN channels to remove, the same in every block."""
    multiple_of: int = Field(256, ge=1)
    """The remaining width is a multiple of this (K-quants and GPTQ groups want 256 or 128)."""
    method: Literal["activations", "magnitude", "random"] = "activations"
    """How channels are ranked: by calibration activations, or by a baseline to compare with."""
    recover: Recover | Literal["auto"] | None = "auto"
    """Distillation from the unpruned model; by default on when more than 10 % is removed; null: off."""

    def recovery(self) -> Recover | None:
        """The recovery to run, with the default resolved."""
        if self.recover == "auto":
            return Recover() if self.ffn > RECOVER_ABOVE else None
        return self.recover


class WidthPrune(Stage[WidthParams]):
    """The result is a stock folder of the same architecture with a smaller ``intermediate_size``."""

    Params = WidthParams
    accepts = frozenset({"hf"})
    produces = "hf"
    uses = frozenset({"train"})
    calibrates = True
    modules: ClassVar[frozenset[str]] = frozenset({"torch", "transformers"})
    libraries: ClassVar[frozenset[str]] = frozenset({"torch", "transformers"})

    def needs(self, job: Job[WidthParams]) -> Needs:
        """Teacher and student in float32, gradients and two moments."""
        size = job.input.size_bytes() if job.inputs else 0
        return Needs(disk_bytes=12 * size, ram_bytes=(900 << 20) + 24 * size)

    def check(self, job: Job[WidthParams]) -> None:
        """Known architecture, a width that fits, and training rows if recovery wants them."""
        model = ModelFolder(job.input.path)
        kept_width(int(model.config["intermediate_size"]), job.params.ffn, job.params.multiple_of)
        if job.params.recovery() is not None:
            training_rows(job)

    def run(self, job: Job[WidthParams]) -> Mapping[str, Any]:
        """Rank, cut, recover."""
        import torch

        torch.set_num_threads(job.threads)
        started = time.perf_counter()
        model = ModelFolder(job.input.path)
        width = int(model.config["intermediate_size"])
        kept = kept_width(width, job.params.ffn, job.params.multiple_of)
        energy = _prune(model, job, kept)
        facts: dict[str, Any] = {"ffn_before": width, "ffn_after": kept, "importance_kept": energy}
        recover = job.params.recovery()
        if recover is not None:
            from compress.distill import distill_folder

            facts["recovery"] = distill_folder(
                student=job.out,
                teacher=job.input.path,
                rows=training_rows(job),
                recover=recover,
                scratch=job.scratch,
                seed=job.seed,
                progress=job.progress,
            )
        write_json(job.out / MEASUREMENTS, {"seconds": time.perf_counter() - started})
        return facts


def training_rows(job: Job[WidthParams]) -> Path:
    """train.jsonl of the job's data; UsageError if there is none."""
    path = None if job.data is None else job.data.path / "train.jsonl"
    if path is None or not path.is_file():
        raise UsageError(
            "recovery after pruning needs training rows and there are none",
            next="set data: {train: FILE.jsonl}, or with: {recover: null}",
        )
    return path


def _prune(model: ModelFolder, job: Job[WidthParams], kept: int) -> float:
    """Write the narrowed model into job.out; mean share of the importance that the kept channels hold."""
    from compress.prune.width_math import keep_channels

    keep: dict[int, torch.Tensor] = {}
    shares = []
    for block in range(model.blocks):
        importance = _importance(model, job, block)
        keep[block] = keep_channels(importance, kept)
        shares.append(float(importance[keep[block]].sum() / importance.sum()))
    cuts = _cuts(model, keep)
    specs = [_narrowed(model.weights.spec(name), cuts.get(name), kept) for name in model.weights.names()]

    def load(name: str) -> torch.Tensor:
        tensor = model.weights.load(name)
        if name not in cuts:
            return tensor
        axis, index = cuts[name]
        return tensor.index_select(axis, index)

    write_model(job.out, specs, load)
    write_json(job.out / "config.json", {**model.config, "intermediate_size": kept})
    copy_side_files(model.path, job.out)
    return round(sum(shares) / len(shares), 6)


def _cuts(model: ModelFolder, keep: Mapping[int, torch.Tensor]) -> dict[str, tuple[int, torch.Tensor]]:
    """Tensor name -> (axis, kept indices) of every tensor with an FFN axis."""
    cuts: dict[str, tuple[int, torch.Tensor]] = {}
    for block, index in keep.items():
        cuts[f"{model.name(block, model.layout.down)}.weight"] = (1, index)
        for linear in model.layout.ffn:
            for part in ("weight", "bias"):
                cuts[f"{model.name(block, linear)}.{part}"] = (0, index)
    return {name: cut for name, cut in cuts.items() if name in model.weights}


def _narrowed(spec: TensorSpec, cut: tuple[int, torch.Tensor] | None, kept: int) -> TensorSpec:
    if cut is None:
        return spec
    shape = list(spec.shape)
    shape[cut[0]] = kept
    return TensorSpec(spec.name, spec.dtype, tuple(shape))


def _importance(model: ModelFolder, job: Job[WidthParams], block: int) -> torch.Tensor:
    import torch

    from compress.prune import width_math

    names = [model.name(block, linear) for linear in (*model.layout.ffn, model.layout.down)]
    if job.params.method == "random":
        width = model.weights.spec(f"{names[-1]}.weight").shape[1]
        return width_math.random_importance(width, job.seed * 1_000_003 + block)
    weights = [model.weights.load_finite(f"{name}.weight") for name in names]
    if job.params.method == "magnitude":
        gate, up, down = weights
        return width_math.magnitude_importance(gate, up, down)
    if job.calibration is None:
        raise UsageError("prune.width needs a calibration pass", next="give calibration data (JSONL)")
    mean_square = Calibration(job.calibration.path).diagonal(names[-1])
    return width_math.activation_importance(weights[-1], torch.as_tensor(mean_square))
