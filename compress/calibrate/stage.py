"""The calibration pass: one walk through the model, block by block, that feeds pruning, GPTQ and importance matrices.

Output folder::

    calibration.json         tokens, windows, length, which Hessian serves which linear, block similarities
    block-000.safetensors    hessian.<linear> float32 [in, in] and diagonal.<linear> float32 [in], one per shared input
    …
    head.safetensors         the same for the input of the output head
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compress.calibrate.reading import INDEX, calibration_source
from compress.calibrate.streaming import BATCH_BYTES, HEAD_FILE, StreamingPass, block_file
from compress.costs import WORKER, Work, forward, touched
from compress.errors import ArtifactError
from compress.json_files import write_json
from compress.model.blocks import ModelFolder
from compress.model.weights import Weights
from compress.outline import ModelOutline, Outline
from compress.stage import CalibratedParams, Job, JobOutline, Needs, Stage

if TYPE_CHECKING:
    import torch


PASSES = 4.0
"""Times that the pass reads and writes what its operations touch."""
TEXT_S, BLOCK_S = 0.6, 0.03
"""Seconds of the interpreter: reading and tokenising the text; a block."""
LIBRARIES = 20_000_000
"""Bytes of tokenizer and kernels."""


def hessians(model: ModelOutline) -> int:
    """Bytes of one block's Hessians, float32."""
    return 4 * sum(width * width for width, _ in model.inputs)


class Calibrate(Stage[CalibratedParams]):
    """hf -> calibration."""

    Params = CalibratedParams
    version = 2
    accepts = frozenset({"hf"})
    produces = "calibration"
    uses = frozenset({"calibration"})
    modules: ClassVar[frozenset[str]] = frozenset({"torch", "tokenizers", "transformers"})
    libraries: ClassVar[frozenset[str]] = frozenset({"torch", "tokenizers", "transformers"})

    def outline(self, job: JobOutline[CalibratedParams]) -> Outline:
        """A Hessian for each tensor that linears read, and one for the head."""
        model = job.input.sizes
        return Outline("calibration", model.shape.blocks * hessians(model) + 4 * model.shape.hidden**2)

    def needs(self, job: JobOutline[CalibratedParams]) -> Needs:
        """Memory: the embedding, later one block and its Hessians (summed, then scaled), and a batch.

        Work: one pass without the head, and xᵀ x of every input x.
        """
        model, p = job.input.sizes, job.params
        tokens, states = p.calibration_tokens, 8 * p.calibration_tokens * model.shape.hidden
        squares = tokens * model.shape.blocks * hessians(model) / 2
        work = Work(
            bfloat16=forward(model, tokens, p.calibration_length, 0) + squares,
            moved=PASSES * touched(model, tokens) + 3 * model.shape.blocks * hessians(model),
            python=TEXT_S + BLOCK_S * model.shape.blocks,
        )
        block = max(4 * model.block + 2 * hessians(model), (8 + model.weight_bytes) * model.head)
        memory = WORKER + LIBRARIES + block + 5 * BATCH_BYTES
        return Needs(self.outline(job).disk_bytes + states, int(memory), work)

    def check(self, job: Job[CalibratedParams]) -> None:
        """Known architecture, readable text."""
        ModelFolder(job.input.path).check()
        calibration_source(job)

    def run(self, job: Job[CalibratedParams]) -> Mapping[str, Any]:
        """Stream the model once; resume after the last finished block."""
        import torch

        from compress.windows import calibration_windows

        torch.set_num_threads(job.threads)
        params = job.params
        model = ModelFolder(job.input.path)
        windows = calibration_windows(
            model.path, calibration_source(job), params.calibration_tokens, params.calibration_length
        )
        _check_ids(model, windows)
        StreamingPass(model, windows, job.scratch, job.progress).run()
        publish(job.scratch, job.out, model.blocks)
        index = index_of(model, windows, job.out)
        write_json(job.out / INDEX, index)
        wanted = params.calibration_tokens // index["length"]
        facts = {key: index[key] for key in ("tokens", "windows", "length", "similarity")}
        return {**facts, "windows_wanted": wanted}


def _check_ids(model: ModelFolder, windows: torch.Tensor) -> None:
    if int(windows.max()) >= model.shape.vocab:
        raise ArtifactError(
            f"the tokenizer of {model.path} gives token {int(windows.max())}, and the embedding has "
            f"{model.shape.vocab} rows",
            next="resize the embedding to the tokenizer (model.resize_token_embeddings) and save again",
        )


def publish(scratch: Path, out: Path, blocks: int) -> None:
    """Link (or copy) the finished files: the scratch keeps them until the artifact is in the store."""
    for name in [*(block_file(block) for block in range(blocks)), HEAD_FILE]:
        try:
            os.link(scratch / name, out / name)
        except OSError:
            shutil.copyfile(scratch / name, out / name)


def index_of(model: ModelFolder, windows: torch.Tensor, out: Path) -> dict[str, Any]:
    layout = model.layout
    inputs: dict[str, tuple[str, str]] = {model.head_name: (HEAD_FILE, model.head_name)}
    for block in range(model.blocks):
        for group in layout.inputs:
            for linear in group:
                inputs[model.name(block, linear)] = (block_file(block), group[0])
    similarity = [float(Weights(out / block_file(block)).load("similarity")) for block in range(model.blocks)]
    return {
        "format": 1,
        "model_type": model.config["model_type"],
        "tokens": windows.numel(),
        "windows": windows.shape[0],
        "length": windows.shape[1],
        "inputs": inputs,
        "similarity": similarity,
    }
