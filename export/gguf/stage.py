"""``export.gguf``: a Hugging Face or GPTQ folder as one quantized ``model.gguf``.

One streaming pass: rows come from safetensors, are quantized by ggml itself and go straight into the
file. Nothing is stored in between, and memory holds a slab of one tensor. A run that was killed goes
on after the last tensor it finished, and ends with the same bytes.
"""

from __future__ import annotations

import collections
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.costs import WORKER, Work
from compress.errors import UsageError
from compress.outline import ModelOutline, Outline
from compress.quantize.costs import sensitivity, solver_bytes, solving, upstream
from compress.quantize.feedback import KINDS, SWEEPS, Feedback, UpstreamBlocks
from compress.stage import Job, JobOutline, Needs, Stage
from export.checkpoint import Checkpoint, open_checkpoint
from export.gguf import ggml, mix
from export.gguf.fallback import MOSTLY, fallback_of
from export.gguf.imatrix import by_module, matrix_of, read_matrix
from export.gguf.layout import Layout, layout_of
from export.gguf.params import GgufParams
from export.gguf.plan import Planned, mix_model, plan_tensors
from export.gguf.tensors import tensors_of
from export.gguf.write import SLAB, stream, write_header

log = logging.getLogger(__name__)
FILE = "model.gguf"
VOCABULARY_BYTES = 40
"""Bytes in the header for an entry of the vocabulary and its merge."""
PROBES_S, ENTRY_S = 1.5, 4e-5
"""Seconds of the interpreter: splitting probes with both tokenizers; an entry of the vocabulary."""
WEIGHT_MOVED, FITTED_MOVED = 60, 16_000
"""Bytes moved for a weight: read, rounded, written, hashed; with error feedback, fitted to nested scales."""
FEEDBACK_BYTES, ENTRY_BYTES = 100_000_000, 1000
"""Bytes of what fits scales and packs codes; of two tokenizers for an entry of the vocabulary."""


class ExportGguf(Stage[GgufParams]):
    """Writes ``model.gguf``."""

    Params = GgufParams
    version = 7
    accepts = frozenset({"hf", "gptq"})
    produces = "gguf"
    uses = frozenset({"calibration"})
    calibrates = True
    modules = frozenset({"gguf", "llama_cpp", "transformers"})
    libraries = frozenset({"gguf", "llama-cpp-python"})
    smaller = "feedback: off"

    def reads_calibration(self, params: GgufParams) -> bool:
        """Not for types that keep floats, or when the importance matrix is turned off or a file."""
        return params.imatrix is True and mix.FILE_TYPES[params.type][1] not in ggml.PLAIN

    def requires(self, params: GgufParams) -> frozenset[str]:
        """Nothing beside the calibration pass, where one is read."""
        return frozenset()

    def outline(self, job: JobOutline[GgufParams]) -> Outline:
        """One file, each tensor in the type that it will get."""
        model, p = job.input.sizes, job.params
        linears = block_bytes(model, p.type) if p.bits_per_weight is None else model.linears * p.bits_per_weight / 8
        size = linears + outside_bytes(model, p.type) if p.budget_mb is None else 1e6 * p.budget_mb
        outlined = replace(model, weight_bytes=linears / model.linears)
        return Outline("gguf", int(size + VOCABULARY_BYTES * model.shape.vocab), outlined)

    def needs(self, job: JobOutline[GgufParams]) -> Needs:
        """Memory: slabs of one tensor; with error feedback also the solver. Work: the tokenizer's probes, every weight
        read and quantized, and where errors are fed back two streams and the solver."""
        model, p, found = job.input.sizes, job.params, self.outline(job)
        work = Work(python=PROBES_S + ENTRY_S * model.shape.vocab, moved=WEIGHT_MOVED * model.parameters)
        memory, disk = WORKER + 4 * SLAB + ENTRY_BYTES * model.shape.vocab, found.disk_bytes
        if p.feedback != "off" and self.reads_calibration(p) and mix.FILE_TYPES[p.type][1] in KINDS:
            work += solving(model, SWEEPS) + Work(moved=FITTED_MOVED * model.linears)
            memory += FEEDBACK_BYTES + int(solver_bytes(model) + (8 + model.weight_bytes) * model.head)
            disk += found.disk_bytes
            if p.feedback == "upstream":
                work += upstream(model, p.calibration_tokens, p.calibration_length)
                disk += 8 * p.calibration_tokens * (3 * model.shape.hidden + model.shape.ffn)
        if p.mix == "measured":
            work += sensitivity(model, p.calibration_tokens) + Work(moved=100.0 * len(p.choose) * model.linears)
        return Needs(disk, int(memory), work)

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
        fallback = fallback_of(plan, job.params.type, mix_model(layout, plan, importance=bool(importance)))
        if fallback and fallback.share >= MOSTLY:
            log.warning("%s", fallback.warning(job.params.type))
        vocabulary, probes = translate(job.input.path, layout.vocab)
        part = job.scratch / f"{FILE}.part"
        header = write_header(job.scratch / "header", layout, vocabulary, plan, job.params)
        if job.params.mix == "measured":
            from export.gguf.budget import mixed

            plan, fallback = mixed(job, plan, len(header)), None
            header = write_header(job.scratch / "header", layout, vocabulary, plan, job.params)
        stream(part, header, plan, checkpoint, job, _feedback(job, plan))
        texts = check_probes(part, vocabulary, probes)
        shutil.move(part, job.out / FILE)
        return _facts(job, layout, plan, vocabulary, texts) | {"fallback": fallback and fallback.facts()}


def block_bytes(model: ModelOutline, file_type: str) -> int:
    """Bytes of all block linears in a file of that type."""
    s, total = model.shape, 0
    known = mix.Model(s.blocks, s.heads // s.kv_heads, model.tied, importance=True)
    queries, keys = s.heads * s.head_dim, s.kv_heads * s.head_dim
    shapes = {"attn_q": (queries, s.hidden), "attn_k": (keys, s.hidden), "attn_v": (keys, s.hidden)}
    shapes |= {"attn_output": (s.hidden, queries), "ffn_up": (s.ffn, s.hidden), "ffn_down": (s.hidden, s.ffn)}
    shapes |= {"ffn_gate": (s.ffn, s.hidden)} if model.gated else {}
    for block in range(s.blocks):
        for part, shape in shapes.items():
            total += _stored(f"blk.{block}.{part}.weight", shape, file_type, known)
    return total


def outside_bytes(model: ModelOutline, file_type: str) -> int:
    """Bytes of the embedding and a head of its own."""
    s = model.shape
    known = mix.Model(s.blocks, s.heads // s.kv_heads, model.tied, importance=True)
    names = ["token_embd.weight", *([] if model.tied else ["output.weight"])]
    return sum(_stored(name, (s.vocab, s.hidden), file_type, known) for name in names)


def _stored(name: str, shape: tuple[int, int], file_type: str, known: mix.Model) -> int:
    return shape[0] * ggml.row_bytes(mix.choose(name, shape, file_type, known), shape[1])


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
