"""Stage ``prune.sparse``: hf -> hf of the same shape with zeros among the weights of the block linears."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from compress.calibrate.reading import Calibration, calibration_of
from compress.costs import WORKER, Work
from compress.model.blocks import ModelFolder
from compress.outline import Outline, folder_outline
from compress.prune.folder import Edit, write_edited
from compress.prune.sparse_math import PATTERNS, Pattern, check_pattern
from compress.stage import CalibratedParams, Job, JobOutline, Needs, Stage

if TYPE_CHECKING:
    import torch

SPEED = "no CPU gain in GGUF or ONNX: zeros are stored and multiplied like other weights"


class SparseParams(CalibratedParams):
    """Parameters of ``prune.sparse``."""

    method: Literal["magnitude", "wanda", "sparsegpt"] = "sparsegpt"
    """How weights are chosen; SparseGPT also updates the others to make up for them."""
    pattern: Literal["unstructured", "2:4", "4:8"] = "unstructured"
    """Where zeros may be: anywhere, or n of every m consecutive inputs of an output."""
    sparsity: float | None = Field(None, gt=0, lt=1)
    """Share of zeros, by default a half; a pattern says it itself."""
    damp: float = Field(0.01, gt=0)
    """Added to a Hessian's diagonal, as a fraction of its mean (SparseGPT)."""

    @model_validator(mode="after")
    def _pattern_is_the_share(self) -> SparseParams:
        if self.pattern != "unstructured" and self.sparsity not in {None, 0.5}:
            raise ValueError(f"pattern {self.pattern} means half of the weights: leave sparsity out")
        return self

    def target(self) -> float | Pattern:
        """What ``choose_mask`` is asked for."""
        return PATTERNS.get(self.pattern, 0.5 if self.sparsity is None else self.sparsity)


class SparsePrune(Stage[SparseParams]):
    """The result is a stock folder: zeros are exact in the stored dtype."""

    Params = SparseParams
    version = 2
    accepts = frozenset({"hf"})
    produces = "hf"
    uses = frozenset({"calibration"})
    calibrates = True
    modules: ClassVar[frozenset[str]] = frozenset({"torch"})
    libraries: ClassVar[frozenset[str]] = frozenset({"torch"})

    def reads_calibration(self, params: SparseParams) -> bool:
        """Magnitude needs no data."""
        return params.method != "magnitude"

    def requires(self, params: SparseParams) -> frozenset[str]:
        """Nothing beside the calibration pass, where one is read."""
        return frozenset()

    def outline(self, job: JobOutline[SparseParams]) -> Outline:
        """Of the same size: zeros are stored."""
        return folder_outline(job.input.sizes)

    def needs(self, job: JobOutline[SparseParams]) -> Needs:
        """Memory: the widest linear with the Hessian of its inputs, its factor and what is in between.

        Work for n inputs and m outputs: a factor (about 2 n³) and, with updates, n² m; some passes over every weight.
        """
        model, found = job.input.sizes, self.outline(job)
        widest = max(width for width, _ in model.inputs)
        memory = WORKER + 4 * widest * (4 * widest + 6 * model.shape.hidden) + 2 * model.weight_bytes * model.head
        solved = job.params.method == "sparsegpt"
        products = sum(2 * width**3 + width * width * out for width, out in model.inputs) * model.shape.blocks
        work = Work(float32=2 * products if solved else 0, moved=120 * model.linears, python=0.05 * model.shape.blocks)
        return Needs(found.disk_bytes, int(memory), work)

    def check(self, job: Job[SparseParams]) -> None:
        """Known architecture, and widths that the pattern divides."""
        model, target = ModelFolder(job.input.path), job.params.target()
        if isinstance(target, Pattern):
            shape = model.shape
            heads = shape.heads * shape.head_dim
            for linears, inputs in zip(
                model.layout.inputs, (shape.hidden, heads, shape.hidden, shape.ffn), strict=True
            ):
                check_pattern(inputs, target, linears[0])

    def run(self, job: Job[SparseParams]) -> Mapping[str, Any]:
        """Zero weights linear by linear, then count them in what was written."""
        import torch

        torch.set_num_threads(job.threads)
        model = ModelFolder(job.input.path)
        pruner = _Pruner(model, job)
        write_edited(model, job.out, model.held.config, pruner.edits())
        return {"speed": SPEED, **counted_zeros(job.out), **pruner.facts()}


def counted_zeros(folder: Path) -> dict[str, Any]:
    """Shares of zeros in the stored block linears: of each kind, of all of them, and of the whole folder's tensors."""
    from compress.prune.sparse_math import sparsity

    model = ModelFolder(folder)
    kinds, zeros, count = {}, 0.0, 0
    for linear in model.layout.linears():
        names = [f"{model.name(block, linear)}.weight" for block in range(model.blocks)]
        found = [sparsity(model.weights.load(name)) for name in names]
        kinds[linear] = round(sum(found) / len(found), 6)
        elements = model.weights.spec(names[0]).elements
        zeros, count = zeros + sum(found) * elements, count + len(found) * elements
    every = sum(model.weights.spec(name).elements for name in model.weights.names())
    return {"sparsity": kinds, "sparsity_linears": round(zeros / count, 6), "sparsity_model": round(zeros / every, 6)}


class _Pruner:
    """The edit of every block linear; linears that read the same input share one factor."""

    def __init__(self, model: ModelFolder, job: Job[SparseParams]) -> None:
        self.model, self.job, self.params = model, job, job.params
        self.healed: dict[str, float] = {}
        self._factor: tuple[str, torch.Tensor] | None = None
        self._done = 0
        self.calibration = None if self.params.method == "magnitude" else calibration_of(job, "prune.sparse")

    def edits(self) -> dict[str, Edit]:
        """Linear name -> its change."""
        edits = {}
        for block in range(self.model.blocks):
            for group in self.model.layout.inputs:
                for linear in group:
                    name = self.model.name(block, linear)
                    edits[name] = Edit(self._shape(name), self._apply(name, self.model.name(block, group[0])))
        return edits

    def facts(self) -> dict[str, Any]:
        """``healed``: the damping of those that took more than was asked for."""
        return {"healed": self.healed} if self.params.method == "sparsegpt" else {}

    def _shape(self, name: str) -> tuple[int, int]:
        rows, columns = self.model.weights.spec(f"{name}.weight").shape
        return (columns, rows) if self.model.layout.conv1d else (rows, columns)

    def _apply(self, name: str, group: str) -> Any:
        """Float32 ``[out, in]`` -> the same with zeros; the maths has it as ``[in, out]``."""

        def apply(W: torch.Tensor) -> torch.Tensor:
            self.job.progress(self._done, len(self.model.linears()), f"pruning {name}")
            self._done += 1
            return self._pruned(W.T.contiguous(), group).T

        return apply

    def _pruned(self, W: torch.Tensor, group: str) -> torch.Tensor:
        from compress.prune.sparse_math import choose_mask, sparsegpt, wanda_scores

        target = self.params.target()
        if self.calibration is None:
            return W.masked_fill_(choose_mask(W.abs(), target, per_output=False), 0.0)
        if self.params.method == "wanda":
            return W.masked_fill_(choose_mask(wanda_scores(W, self.calibration.diagonal(group)), target), 0.0)
        return sparsegpt(W, self._upper(self.calibration, group), target)

    def _upper(self, calibration: Calibration, group: str) -> torch.Tensor:
        """The factor U of the group's Hessian."""
        from compress.calibrate.factor import inverse_factor

        if self._factor is None or self._factor[0] != group:
            factor = inverse_factor(calibration.hessian(group), self.params.damp)
            if factor.damp != self.params.damp:
                self.healed[group] = factor.damp
            self._factor = group, factor.upper
        return self._factor[1]
