"""Stage ``prune.width``: hf -> hf with narrower FFNs and fewer KV groups, compensated in closed form and recovered."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from compress.calibrate.reading import calibration_of
from compress.costs import WORKER, Work
from compress.model.blocks import ModelFolder
from compress.model.layout import Part
from compress.outline import Outline, Shape, folder_outline
from compress.prune.folder import Edit, write_edited
from compress.prune.recovery import RecoveredParams, pruning_needs, recover_pruned, training_rows
from compress.prune.width_math import kept_width, members, removed_count, rounded
from compress.stage import Job, JobOutline, Needs, Stage

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


class WidthParams(RecoveredParams):
    """Parameters of ``prune.width``."""

    ffn: float | None = Field(0.25, gt=0, lt=1)
    """Fraction of FFN channels to remove, the same in every block; null: none."""
    kv_groups: float | None = Field(None, gt=0)
    """KV heads to remove from every block, each with its query heads: a number, or below 1 a fraction."""
    multiple_of: int = Field(256, ge=1)
    """The remaining FFN width is a multiple of this (K-quants and GPTQ groups want 256 or 128)."""
    method: Literal["activations", "magnitude", "random"] = "activations"
    """How channels and groups are ranked: by calibration activations, or by a baseline to compare with."""
    compensate: bool = True
    """Whether the columns kept in the down and output projections are solved anew to make up for the others."""
    damp: float = Field(0.01, gt=0)
    """Added to a Hessian's diagonal, as a fraction of its mean."""

    @model_validator(mode="after")
    def _something_to_cut(self) -> WidthParams:
        if self.ffn is None and self.kv_groups is None:
            raise ValueError("nothing to remove: set ffn or kv_groups")
        return self


@dataclass(frozen=True)
class Site:
    """What is cut together in one block: ``groups`` groups of outputs of ``parts``, which ``projection`` reads."""

    kind: str
    parts: tuple[Part, ...]
    projection: str
    groups: int
    kept: int
    seed: int

    @property
    def size(self) -> int:
        """Inputs of the projection per group."""
        return (self.parts[0].stop - self.parts[0].start) // self.groups

    def rows(self, part: Part, keep: torch.Tensor) -> torch.Tensor:
        """Rows of ``part``'s linear that belong to the groups ``keep``."""
        return part.start + members(keep, (part.stop - part.start) // self.groups)


class WidthPrune(Stage[WidthParams]):
    """The result is a stock folder of the same architecture with smaller sizes in config.json."""

    Params = WidthParams
    version = 4
    accepts = frozenset({"hf"})
    produces = "hf"
    uses = frozenset({"train"})
    calibrates = True
    modules: ClassVar[frozenset[str]] = frozenset({"torch", "transformers"})
    libraries: ClassVar[frozenset[str]] = frozenset({"torch", "transformers", "peft"})
    smaller = "recover: {lora: 16}, or a smaller recover.batch"

    def reads_calibration(self, params: WidthParams) -> bool:
        """The baselines without compensation need no data."""
        return params.method == "activations" or params.compensate

    def requires(self, params: WidthParams) -> frozenset[str]:
        """Rows to recover on, where the share that goes wants it."""
        return params.required_rows(max(params.ffn or 0.0, params.kv_groups or 0.0))

    def outline(self, job: JobOutline[WidthParams]) -> Outline:
        """The same folder with narrower blocks."""
        model = job.input.sizes
        sizes = new_sizes(model.shape, job.params)
        kept = {key: value for key, value in sizes._asdict().items() if value is not None}
        return folder_outline(replace(model, shape=replace(model.shape, **kept)))

    def needs(self, job: JobOutline[WidthParams]) -> Needs:
        """Memory: a Hessian, its inverse and what is in between, and the weights that read it; or the recovery.

        Work, for each projection of n inputs: one inverse, and what elimination in rounds and least squares multiply,
        about CUBES n³.
        """
        model, found = job.input.sizes, self.outline(job)
        sizes, shape = new_sizes(model.shape, job.params), model.shape
        widths = [shape.ffn] * bool(sizes.ffn) + [shape.heads * shape.head_dim] * bool(sizes.kv_heads)
        cubes = shape.blocks * sum(CUBES * width**3 + 4 * width * width * shape.hidden for width in widths)
        memory = WORKER + 4 * max(widths) * (5 * max(widths) + 4 * shape.hidden) + 2 * model.weight_bytes * model.head
        work = Work(float32=cubes / SPEED, moved=ROUNDS_MOVED * cubes / CUBES, python=0.02 * shape.blocks)
        cutting = Needs(found.disk_bytes, int(memory), work)
        return pruning_needs(job, found.sizes, sizes.removed(shape), cutting)

    def check(self, job: Job[WidthParams]) -> None:
        """Known architecture, sizes that fit it, and training rows if recovery wants them."""
        model = ModelFolder(job.input.path)
        sizes = new_sizes(model.shape, job.params)
        sizes.config(model)
        if job.params.recovery(sizes.removed(model.shape)) is not None:
            training_rows(job)

    def run(self, job: Job[WidthParams]) -> Mapping[str, Any]:
        """Rank, cut, compensate, recover."""
        import torch

        torch.set_num_threads(job.threads)
        model = ModelFolder(job.input.path)
        sizes = new_sizes(model.shape, job.params)
        say_rounded(model.shape, sizes, job.params)
        cutter = _Cutter(model, job)
        edits = cutter.edits(sizes)
        write_edited(model, job.out, sizes.config(model), edits)
        facts: dict[str, Any] = {
            "ffn_before": model.shape.ffn,
            "ffn_after": sizes.ffn or model.shape.ffn,
            "kv_groups_before": model.shape.kv_heads,
            "kv_groups_after": sizes.kv_heads or model.shape.kv_heads,
            "output_error": {kind: round(sum(e) / len(e), 6) for kind, e in sorted(cutter.errors.items())},
        }
        facts |= recover_pruned(job, sizes.removed(model.shape))
        return facts


CUBES, SPEED, ROUNDS_MOVED = 8, 0.5, 0.2
"""Products in n³ of a projection, their share of the probe's speed, bytes moved per n³ (by copies in 32 rounds)."""


class Sizes(NamedTuple):
    """What a model's sizes become; None where one stays."""

    ffn: int | None
    heads: int | None
    kv_heads: int | None

    def config(self, model: ModelFolder) -> dict[str, Any]:
        """The narrowed model's config.json; UsageError where its family cannot say it."""
        return model.narrowed_config(ffn=self.ffn, heads=self.heads, kv_heads=self.kv_heads)

    def removed(self, shape: Shape) -> float:
        """The larger of the shares of FFN channels and KV groups that go."""
        return 1 - min((self.ffn or shape.ffn) / shape.ffn, (self.kv_heads or shape.kv_heads) / shape.kv_heads)


def new_sizes(shape: Shape, params: WidthParams) -> Sizes:
    """UsageError if an amount does not fit."""
    ffn = None if params.ffn is None else kept_width(shape.ffn, params.ffn, params.multiple_of)
    if params.kv_groups is None:
        return Sizes(ffn, None, None)
    kept = shape.kv_heads - removed_count(params.kv_groups, shape.kv_heads, "KV groups")
    return Sizes(ffn, kept * (shape.heads // shape.kv_heads), kept)


def say_rounded(shape: Shape, sizes: Sizes, params: WidthParams) -> None:
    """Warn where another share goes than was asked for."""
    steps = f" (a multiple of {params.multiple_of}; multiple_of sets the step)"
    for said in (
        rounded(params.ffn, shape.ffn, sizes.ffn or shape.ffn, "FFN channels", steps),
        rounded(params.kv_groups, shape.kv_heads, sizes.kv_heads or shape.kv_heads, "KV groups", ""),
    ):
        if said is not None:
            log.warning("prune.width: %s", said)


def sites(model: ModelFolder, sizes: Sizes, seed: int) -> Iterator[Site]:
    """The FFN and the attention of every block, where their size changes."""
    shape = model.shape
    for block in range(model.blocks):
        if sizes.ffn:
            roles = ("gate", "up") if model.has_gate else ("up",)
            parts = tuple(model.part(block, role) for role in roles)
            yield Site("ffn", parts, model.down_name(block), shape.ffn, sizes.ffn, seed * 1_000_003 + block)
        if sizes.kv_heads:
            parts = tuple(model.part(block, role) for role in "qkv")
            salt = seed * 1_000_003 + model.blocks + block
            yield Site("attention", parts, model.out_name(block), shape.kv_heads, sizes.kv_heads, salt)


class _Cutter:
    """Chooses what stays at every site and says how the linears change."""

    def __init__(self, model: ModelFolder, job: Job[WidthParams]) -> None:
        self.model, self.job, self.params = model, job, job.params
        self.errors: dict[str, list[float]] = {}
        """Relative squared error of the projections' outputs by kind of site, filled while the weights are written."""
        wanted = self.params.method == "activations" or self.params.compensate
        self.calibration = calibration_of(job, "prune.width") if wanted or job.calibration else None

    def edits(self, sizes: Sizes) -> dict[str, Edit]:
        """Linear name -> its change."""
        edits: dict[str, Edit] = {}
        every = list(sites(self.model, sizes, self.job.seed))
        for done, site in enumerate(every):
            self.job.progress(done, len(every), f"ranking {site.projection}")
            keep = self._kept_groups(site)
            edits |= self._cut_outputs(site, keep)
            edits[site.projection] = self._cut_inputs(site, members(keep, site.size))
        return edits

    def _kept_groups(self, site: Site) -> torch.Tensor:
        from compress.prune.obs_math import survivors
        from compress.prune.width_math import activation_importance, keep_most, magnitude_importance, random_importance

        if self.params.method == "random":
            return keep_most(random_importance(site.groups, site.seed), site.kept)
        projection = self.model.weight(site.projection)
        if self.params.method == "magnitude":
            rows = [self.model.weight(part.name)[part.start : part.stop] for part in site.parts]
            return keep_most(magnitude_importance(rows, projection, site.groups), site.kept)
        H = self._hessian(site)
        if self.params.compensate:
            return survivors(projection, H, site.kept, size=site.size, damp=self.params.damp)
        return keep_most(activation_importance(projection, H, site.size), site.kept)

    def _hessian(self, site: Site) -> torch.Tensor:
        assert self.calibration is not None
        return self.calibration.hessian(site.projection)

    def _cut_outputs(self, site: Site, keep: torch.Tensor) -> dict[str, Edit]:
        """Parts of one fused linear are cut together, in their order."""
        import torch

        rows: dict[str, list[torch.Tensor]] = {}
        for part in site.parts:
            rows.setdefault(part.name, []).append(site.rows(part, keep))
        return {name: _keep_rows(torch.cat(pieces), self.model.shape.hidden) for name, pieces in rows.items()}

    def _cut_inputs(self, site: Site, keep: torch.Tensor) -> Edit:
        from compress.prune.obs_math import compensated, output_error

        def apply(W: torch.Tensor) -> torch.Tensor:
            if self.calibration is None:
                return W[:, keep]
            H = self._hessian(site)
            kept = compensated(W, H, keep, self.params.damp) if self.params.compensate else W[:, keep]
            self.errors.setdefault(site.kind, []).append(output_error(W, H, keep, kept))
            return kept

        return Edit((self.model.shape.hidden, len(keep)), apply)


def _keep_rows(rows: torch.Tensor, inputs: int) -> Edit:
    return Edit((len(rows), inputs), lambda W: W[rows], rows)
