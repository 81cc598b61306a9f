"""Stage ``export.imatrix``: the calibration pass as an importance matrix that llama-quantize reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.calibrate.reading import Calibration
from compress.costs import WORKER, Work
from compress.outline import Outline
from compress.stage import CalibratedParams, Job, JobOutline, Needs, Stage
from export.checkpoint import open_checkpoint
from export.gguf.imatrix import FILE, matrix_of, write_matrix
from export.gguf.layout import layout_of
from export.gguf.tensors import Tensor, tensors_of


class ExportImatrix(Stage[CalibratedParams]):
    """hf -> imatrix: the calibration's squared inputs as ``imatrix.gguf``, for llama-quantize or another export."""

    Params = CalibratedParams
    accepts = frozenset({"hf"})
    produces = "imatrix"
    uses = frozenset({"calibration"})
    calibrates = True
    modules = frozenset({"gguf"})
    libraries = frozenset({"gguf"})

    def outline(self, job: JobOutline[CalibratedParams]) -> Outline:
        """Two float32 per input of each linear, and names."""
        model = job.input.sizes
        count = model.shape.blocks * sum(3 * width for width, _ in model.inputs)
        return Outline("imatrix", 8 * count + 100_000)

    def needs(self, job: JobOutline[CalibratedParams]) -> Needs:
        """Only diagonals are read."""
        found = self.outline(job)
        work = Work(python=0.3 + 0.005 * job.input.sizes.shape.blocks)
        return Needs(found.disk_bytes, WORKER + 2 * found.disk_bytes, work)

    def check(self, job: Job[CalibratedParams]) -> None:
        """Refuse an architecture without a row."""
        if job.inputs:
            self._tensors(job)

    @staticmethod
    def _tensors(job: Job[CalibratedParams]) -> list[Tensor]:
        checkpoint = open_checkpoint(job.input.path)
        return tensors_of(layout_of(checkpoint.config), checkpoint)

    def run(self, job: Job[CalibratedParams]) -> Mapping[str, Any]:
        """Write the file."""

        assert job.calibration is not None, "the pipeline makes the pass"
        text = job.params.calibration
        datasets = [text.name if text else "calibration.jsonl"]
        matrix = matrix_of(Calibration(job.calibration.path), self._tensors(job), datasets)
        write_matrix(job.out / FILE, matrix)
        return {"tensors": len(matrix.entries), "chunks": matrix.chunks, "chunk_size": matrix.length}
