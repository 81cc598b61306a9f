"""``export.gguf``: a Hugging Face or GPTQ folder as one quantized ``model.gguf``.

One streaming pass: rows come from safetensors, are quantized by ggml itself and go straight into the
file. Nothing is stored in between, and memory holds a slab of one tensor. A run that was killed goes
on after the last tensor it finished, and ends with the same bytes.
"""

from __future__ import annotations

import collections
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import UsageError
from compress.quantize.feedback import KINDS, Feedback, UpstreamBlocks
from compress.stage import Job, Needs, Stage
from export.checkpoint import Checkpoint, open_checkpoint
from export.gguf import ggml, mix
from export.gguf.imatrix import by_module, matrix_of, read_matrix
from export.gguf.layout import Layout, layout_of
from export.gguf.params import GgufParams
from export.gguf.plan import Planned, plan_tensors
from export.gguf.tensors import tensors_of
from export.gguf.write import SLAB, stream, write_header

FILE = "model.gguf"
LIBRARIES, TORCH = 160 << 20, 200 << 20
"""Memory that they take by themselves, in bytes."""


class ExportGguf(Stage[GgufParams]):
    """Writes ``model.gguf``."""

    Params = GgufParams
    version = 4
    accepts = frozenset({"hf", "gptq"})
    produces = "gguf"
    uses = frozenset({"calibration"})
    calibrates = True
    modules = frozenset({"gguf", "llama_cpp", "transformers"})
    libraries = frozenset({"gguf", "llama-cpp-python"})

    def reads_calibration(self, params: GgufParams) -> bool:
        """Not for types that keep floats, or when the importance matrix is turned off or a file."""
        return params.imatrix is True and mix.FILE_TYPES[params.type][1] not in ggml.PLAIN

    def needs(self, job: Job[GgufParams]) -> Needs:
        """Disk: the bits of the type over 16; memory: libraries and slabs, with error feedback also torch, one block
        twice and four of its widest matrices."""
        size = sum(a.size_bytes() for a in job.inputs)
        memory = LIBRARIES + 8 * SLAB
        if job.inputs and job.params.feedback != "off" and self.reads_calibration(job.params):
            layout = layout_of(open_checkpoint(job.input.path).config)
            weights = 4 * (4 * layout.hidden**2 + 3 * layout.hidden * layout.ffn)
            memory += TORCH + 2 * weights + 16 * max(layout.hidden, layout.ffn) ** 2
        return Needs(disk_bytes=int(size * _bits(job.params.type) / 16), ram_bytes=memory)

    def check(self, job: Job[GgufParams]) -> None:
        """Refuse an architecture without a row, and a model whose files or shapes are wrong."""
        if job.inputs:
            checkpoint = open_checkpoint(job.input.path)
            tensors_of(layout_of(checkpoint.config), checkpoint)

    def run(self, job: Job[GgufParams]) -> Mapping[str, Any]:
        """Write the file, then let llama.cpp and Hugging Face split the same texts."""
        from export.tokenizers.probes import check_probes
        from export.tokenizers.translation import translate

        checkpoint = open_checkpoint(job.input.path)
        layout = layout_of(checkpoint.config)
        importance = _importance(job, layout, checkpoint)
        plan = plan_tensors(checkpoint, layout, job.params.type, importance)
        vocabulary, probes = translate(job.input.path, layout.vocab)
        part = job.scratch / f"{FILE}.part"
        header = write_header(job.scratch / "header", layout, vocabulary, plan, job.params)
        if job.params.mix == "measured":
            from export.gguf.budget import mixed

            plan = mixed(job, plan, len(header))
            header = write_header(job.scratch / "header", layout, vocabulary, plan, job.params)
        stream(part, header, plan, checkpoint, job, _feedback(job, plan))
        texts = check_probes(part, vocabulary, probes)
        shutil.move(part, job.out / FILE)
        return _facts(job, layout, plan, vocabulary, texts)


def _bits(file_type: str) -> float:
    kind = mix.FILE_TYPES[file_type][1]
    return ggml.row_bytes(kind, 256) * 8 / 256


def _importance(job: Job[GgufParams], layout: Layout, checkpoint: Checkpoint) -> dict[str, npt.NDArray[np.float32]]:
    """GGUF importance by Hugging Face module name; empty when it is not wanted or would change nothing."""
    wanted = job.params.imatrix
    if wanted is False or mix.FILE_TYPES[job.params.type][1] in ggml.PLAIN:
        return {}
    tensors = tensors_of(layout, checkpoint)
    if isinstance(wanted, Path):
        return by_module(wanted, read_matrix(wanted), tensors)
    if job.calibration is None:
        raise UsageError(
            "the importance matrix needs a calibration pass",
            next="add --with calibration=FILE.jsonl, or turn it off: --with imatrix=false",
        )
    from compress.calibrate.reading import Calibration

    return by_module(job.calibration.path, matrix_of(Calibration(job.calibration.path), tensors, ()), tensors)


def _feedback(job: Job[GgufParams], plan: Sequence[Planned]) -> Feedback | None:
    """What quantizes linears, with the blocks behind one another already done if so wished."""
    if job.calibration is None or job.params.feedback == "off" or not ExportGguf().reads_calibration(job.params):
        return None
    from compress.calibrate.reading import Calibration

    feedback = Feedback(Calibration(job.calibration.path), job.threads, job.scratch / "solved")
    kinds: dict[str, str] = {}
    for tensor, kind in ((p.tensor, p.kind) for p in plan if p.tensor and p.name.startswith("blk.")):
        whole = kinds.get(tensor.module, kind) == kind and tensor.factor == 1
        kinds[tensor.module] = kind if whole else ""  # packed rows can be moved, not scaled or mixed
    if job.params.feedback == "upstream" and KINDS & set(kinds.values()):
        UpstreamBlocks(job, kinds, job.scratch / "solved").run()
    return feedback


def _facts(
    job: Job[GgufParams], layout: Layout, plan: Sequence[Planned], vocabulary: Any, probes: int
) -> dict[str, Any]:
    parameters = sum(math.prod(p.shape) for p in plan)
    kinds = collections.Counter(p.kind for p in plan)
    wanted, weighed = job.params.imatrix, [p for p in plan if p.importance is not None]
    fed = wanted is True and any(p.kind in KINDS for p in weighed)
    return {
        "architecture": layout.row.gguf,
        "type": job.params.type,
        "mix": job.params.mix,
        "importance_matrix": bool(weighed),
        "importance_from": (wanted.name if isinstance(wanted, Path) else "calibration") if weighed else None,
        "feedback": job.params.feedback if fed else "off",
        "parameters": parameters,
        "bits_per_weight": round(sum(p.nbytes for p in plan) * 8 / parameters, 3),
        "tensor_types": dict(sorted(kinds.items())),
        "tokenizer": {"model": vocabulary.model, "pre": vocabulary.pre, "probes_equal": probes},
    }
