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
from compress.calibrate.streaming import HEAD_FILE, StreamingPass, block_file
from compress.errors import ArtifactError, DataError
from compress.json_files import write_json
from compress.model.blocks import ModelFolder
from compress.model.weights import Weights
from compress.stage import CalibratedParams, Job, Needs, Stage

if TYPE_CHECKING:
    import torch


class Calibrate(Stage[CalibratedParams]):
    """hf -> calibration."""

    Params = CalibratedParams
    version = 2
    accepts = frozenset({"hf"})
    produces = "calibration"
    uses = frozenset({"calibration"})
    modules: ClassVar[frozenset[str]] = frozenset({"torch", "tokenizers", "transformers"})
    libraries: ClassVar[frozenset[str]] = frozenset({"torch", "tokenizers", "transformers"})

    def needs(self, job: Job[CalibratedParams]) -> Needs:
        """Hessians on disk, and one block with its Hessians in memory."""
        if not job.inputs:
            return Needs()
        shape = ModelFolder(job.input.path).shape
        hidden, ffn = shape.hidden, shape.ffn
        block = 4 * (3 * hidden * hidden + ffn * ffn)
        weights = 4 * (4 * hidden * hidden + 3 * hidden * ffn)
        activations = 8 * job.params.calibration_tokens * hidden
        return Needs(disk_bytes=block * shape.blocks + activations, ram_bytes=(400 << 20) + block + weights)

    def check(self, job: Job[CalibratedParams]) -> None:
        """Known architecture, readable text."""
        ModelFolder(job.input.path).check()
        source = calibration_source(job)
        if not source.is_file():
            raise DataError(source, None, "no such calibration file", next="check the path")

    def run(self, job: Job[CalibratedParams]) -> Mapping[str, Any]:
        """Stream the model once; resume after the last finished block."""
        import torch

        from compress.calibrate.windows import calibration_windows

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
        wanted = params.calibration_tokens // params.calibration_length
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
