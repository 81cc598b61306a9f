"""Stage ``quantize.gptq``: hf -> gptq, block by block, in the AutoGPTQ checkpoint format."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from compress.calibrate.reading import Calibration, calibration_source
from compress.errors import UsageError
from compress.json_files import write_json
from compress.model.blocks import ModelFolder
from compress.quantize.folder import fitting, relative_errors, write_folder
from compress.quantize.params import GptqParams
from compress.quantize.recipe import FLOAT, Recipe, special_bits
from compress.stage import Job, Needs, Stage

log = logging.getLogger(__name__)


class Gptq(Stage[GptqParams]):
    """See docs/compression.md for what it does and the format it writes."""

    Params = GptqParams
    version = 3
    accepts = frozenset({"hf"})
    produces = "gptq"
    uses = frozenset({"calibration"})
    calibrates = True
    modules: ClassVar[frozenset[str]] = frozenset({"torch", "tokenizers", "transformers"})
    libraries: ClassVar[frozenset[str]] = frozenset({"torch", "tokenizers", "transformers"})

    def reads_calibration(self, params: GptqParams) -> bool:
        """The Hessians of the float model: when the stage does not measure its own, and to choose bits."""
        return not params.own_streams or params.budgeted

    def needs(self, job: Job[GptqParams]) -> Needs:
        """The output (twice, with its checkpoints), the states, one block twice and four of its widest matrices."""
        if not job.inputs:
            return Needs()
        shape = ModelFolder(job.input.path).shape
        widest = max(shape.hidden, shape.ffn)
        weights = 4 * (4 * shape.hidden**2 + 3 * shape.hidden * shape.ffn)
        states = 8 * job.params.calibration_tokens * (3 * shape.hidden + shape.ffn)
        return Needs(
            disk_bytes=job.input.size_bytes() + states, ram_bytes=(400 << 20) + 2 * weights + 16 * widest * widest
        )

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
        calibration = _calibration(job) if self.reads_calibration(params) else None
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


def _calibration(job: Job[GptqParams]) -> Calibration:
    if job.calibration is None:
        raise UsageError("quantize.gptq needs a calibration pass", next="give calibration data (JSONL)")
    return Calibration(job.calibration.path)


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
