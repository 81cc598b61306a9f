"""Stage ``quantize.gptq``: hf -> gptq, block by block, in the AutoGPTQ checkpoint format."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from compress.calibrate.reading import Calibration, calibration_of, calibration_source
from compress.costs import WORKER, Work
from compress.errors import UsageError
from compress.json_files import write_json
from compress.model.blocks import ModelFolder
from compress.model.coded import FLOAT
from compress.outline import SIDE_BYTES, Outline
from compress.quantize.costs import sensitivity, solver_bytes, solving, upstream
from compress.quantize.folder import fitting, relative_errors, write_folder
from compress.quantize.params import GptqParams
from compress.quantize.recipe import Recipe, special_bits
from compress.stage import Job, JobOutline, Needs, Stage

log = logging.getLogger(__name__)
LIBRARIES = 30_000_000
"""Bytes of kernels and of what is packed."""


class Gptq(Stage[GptqParams]):
    """See docs/compression.md for what it does and the format it writes."""

    Params = GptqParams
    version = 4
    accepts = frozenset({"hf"})
    produces = "gptq"
    uses = frozenset({"calibration"})
    calibrates = True
    modules: ClassVar[frozenset[str]] = frozenset({"torch", "tokenizers", "transformers"})
    libraries: ClassVar[frozenset[str]] = frozenset({"torch", "tokenizers", "transformers"})

    def reads_calibration(self, params: GptqParams) -> bool:
        """The Hessians of the float model: when the stage does not measure its own, and to choose bits."""
        return not params.own_streams or params.budgeted

    def outline(self, job: JobOutline[GptqParams]) -> Outline:
        """Codes, a float16 scale and packed zeros per group, the group of each input; the rest stays as it is."""
        p, model = job.params, job.input.sizes
        group = p.group_size if p.group_size > 0 else model.shape.hidden
        bits = p.bits_per_weight or p.bits + (16 + p.bits) / group
        if p.budget_mb is not None:
            bits = max(1.0, 8e6 * p.budget_mb / model.parameters)
        floats = (model.parameters - model.linears) * model.weight_bytes
        index = 4 * model.shape.blocks * sum(width * 2 for width, _ in model.inputs)
        size = model.linears * bits / 8 + floats + index + SIDE_BYTES * model.shape.vocab
        return Outline("gptq", int(size), replace(model, weight_bytes=bits / 8))

    def needs(self, job: JobOutline[GptqParams]) -> Needs:
        """Disk: the output (twice, with its checkpoints) and the streams; memory: the solver, and the embedding while
        it is written."""
        p, model, found = job.params, job.input.sizes, self.outline(job)
        work = solving(model, p.sweeps_at(p.bits)) + Work(moved=30 * found.disk_bytes)
        states = 0
        if p.own_streams:
            work += upstream(model, p.calibration_tokens, p.calibration_length)
            states = 8 * p.calibration_tokens * (3 * model.shape.hidden + model.shape.ffn)
        if p.budgeted:  # rounding to every width, and a pass forward and back over the calibration text
            work += Work(moved=100.0 * len(p.choose) * model.linears) + sensitivity(model, p.calibration_tokens)
        memory = WORKER + LIBRARIES + solver_bytes(model) + 2 * model.weight_bytes * model.head
        return Needs(2 * found.disk_bytes + states, int(memory), work)

    def check(self, job: Job[GptqParams]) -> None:
        """Known architecture, shapes that the format can hold, a head of its own if it is wanted."""
        model, params = ModelFolder(job.input.path), job.params
        special = special_bits(params.dynamic, linears(model, params))
        for name in linears(model, params):
            if special.get(name) != FLOAT:
                out, width = model.linear_shape(name)
                fitting(name, out, width, params.group_size)
        if params.own_streams:
            calibration_source(job)

    def run(self, job: Job[GptqParams]) -> Mapping[str, Any]:
        """Solve block by block; finished blocks are kept in the scratch folder."""
        import torch

        from compress.model.compute import fast_products
        from compress.quantize.gptq_walk import GptqWalk

        torch.set_num_threads(job.threads)
        model, params = ModelFolder(job.input.path), job.params
        calibration = calibration_of(job, "quantize.gptq") if self.reads_calibration(params) else None
        with torch.inference_mode(), fast_products():
            recipe = _recipe(model, job, calibration)
        walk = GptqWalk(model, job, recipe, calibration)
        walk.run(head=recipe.lm_head)
        write_folder(model, recipe, walk.files(), job.out)
        job.progress(model.blocks, model.blocks, "GPTQ written")
        return {**relative_errors(model, recipe, walk.files()), **_chosen(recipe, linears(model, params))}


def linears(model: ModelFolder, params: GptqParams) -> list[str]:
    """Full names of what is quantized; UsageError if a tied head is asked for."""
    if not params.lm_head:
        return model.linears()
    if model.head_weight != f"{model.head_name}.weight":
        raise UsageError(
            f"lm_head: the head of {model.path} is the token embedding, which must stay readable row by row",
            next="drop lm_head (export.gguf quantizes tied embeddings)",
        )
    return [*model.linears(), model.head_name]


def _recipe(model: ModelFolder, job: Job[GptqParams], calibration: Calibration | None) -> Recipe:
    """Bits of every linear: as given, or chosen within the budget (once; kept in the scratch folder)."""
    params = job.params
    special = special_bits(params.dynamic, linears(model, params))
    if params.budgeted:
        file = job.scratch / "bits.json"
        if not file.is_file():
            from compress.quantize.choose import choose_bits

            assert calibration is not None
            names = [name for name in linears(model, params) if name not in special]
            write_json(file, {**special, **choose_bits(model, job, calibration, names)})
        special = json.loads(file.read_text())
    return Recipe(params.bits, params.group_size, params.sym, params.desc_act, params.damp, params.lm_head, special)


def _chosen(recipe: Recipe, names: list[str]) -> dict[str, Any]:
    """Names by bits, where they differ."""
    if not recipe.special:
        return {}
    by_bits: dict[str, list[str]] = {}
    for name in names:
        by_bits.setdefault(str(recipe.bits_of(name) or "float"), []).append(name)
    return {"chosen_bits": {bits: len(members) for bits, members in sorted(by_bits.items())}}
