"""``export.gguf``: a Hugging Face or GPTQ folder as one quantized ``model.gguf``.

One streaming pass: rows come from safetensors, are quantized by ggml itself and go straight into the
file. Nothing is stored in between, and memory holds a slab of one tensor. A run that was killed goes
on after the last tensor it finished, and ends with the same bytes.
"""

from __future__ import annotations

import collections
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import field_validator

from compress.artifact import digest_json
from compress.errors import ArtifactError, UsageError
from compress.quantize.feedback import KINDS, Feedback, UpstreamBlocks, slab_rows
from compress.stage import CalibratedParams, Job, Needs, Stage
from export import _ggml, gguf_mix
from export.checkpoint import Checkpoint, open_checkpoint
from export.gguf_layout import Layout, layout_of, write_settings
from export.gguf_rope import rope_tensors
from export.gguf_tensors import Tensor, permute_rotary, tensors_of
from export.imatrix import by_module, matrix_of, read_matrix

FILE = "model.gguf"
SLAB = 16 * 2**20
"""Weights held at a time (64 MiB as float32)."""
SAVE_EVERY = 64 * 2**20
"""Bytes after which finished tensors are flushed to disk and noted, so that a killed run loses no more."""
ALIGNMENT = 32


class GgufParams(CalibratedParams):
    """Parameters of ``export.gguf``."""

    type: str = "Q4_K_M"
    """Named type of the file; most tensors get it, the sensitive ones more bits, as llama.cpp mixes them."""
    imatrix: bool | Path = True
    """Weigh rounding errors by the calibration's mean squared inputs (the importance matrix), or by those in a file
    of llama-imatrix or ``export.imatrix``. Such a file has no Hessians, so errors are not fed back."""
    feedback: Literal["upstream", "shared", "off"] = "upstream"
    """GPTQ's error feedback inside the block formats, where a calibration pass is read: less error, more time.
    ``upstream`` calibrates each linear behind the ones already quantized, ``shared`` on the float model."""
    name: str = ""
    """``general.name`` in the file; by default architecture and size."""

    @field_validator("feedback", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false

    @field_validator("type")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in gguf_mix.FILE_TYPES:
            raise ValueError(f"unknown type; known: {', '.join(gguf_mix.FILE_TYPES)}")
        return value


class ExportGguf(Stage[GgufParams]):
    """Writes ``model.gguf``."""

    Params = GgufParams
    version = 3
    accepts = frozenset({"hf", "gptq"})
    produces = "gguf"
    uses = frozenset({"calibration"})
    calibrates = True
    modules = frozenset({"gguf", "llama_cpp", "transformers"})
    libraries = frozenset({"gguf", "llama-cpp-python"})

    def reads_calibration(self, params: GgufParams) -> bool:
        """Not for types that keep floats, or when the importance matrix is turned off or a file."""
        return params.imatrix is True and gguf_mix.FILE_TYPES[params.type][1] not in _ggml.PLAIN

    def needs(self, job: Job[GgufParams]) -> Needs:
        """Disk: the bits of the type over 16; memory: slabs."""
        size = sum(a.size_bytes() for a in job.inputs)
        return Needs(disk_bytes=int(size * _bits(job.params.type) / 16), ram_bytes=16 * SLAB)

    def check(self, job: Job[GgufParams]) -> None:
        """Refuse an architecture without a row, and a model whose files or shapes are wrong."""
        if job.inputs:
            checkpoint = open_checkpoint(job.input.path)
            tensors_of(layout_of(checkpoint.config), checkpoint)

    def run(self, job: Job[GgufParams]) -> Mapping[str, Any]:
        """Write the file, then let llama.cpp and Hugging Face split the same texts."""
        from export.probes import check_vocabulary
        from export.tokenizer import load_tokenizer, read_vocabulary

        checkpoint = open_checkpoint(job.input.path)
        layout = layout_of(checkpoint.config)
        importance = _importance(job, layout, checkpoint)
        plan = plan_tensors(checkpoint, layout, job.params.type, importance)
        tokenizer = load_tokenizer(job.input.path)
        vocabulary = read_vocabulary(job.input.path, tokenizer, layout.vocab)
        part = job.scratch / f"{FILE}.part"
        header = write_header(job.scratch / "header", layout, vocabulary, plan, job.params)
        _stream(part, header, plan, checkpoint, job)
        probes = check_vocabulary(part, vocabulary, tokenizer)
        shutil.move(part, job.out / FILE)
        return _facts(job, layout, plan, vocabulary, probes)


@dataclass(frozen=True)
class Planned:
    """One tensor of the file: where it comes from and how it is stored."""

    name: str
    shape: tuple[int, ...]
    kind: str
    tensor: Tensor | None = None
    values: npt.NDArray[np.float32] | None = None
    importance: npt.NDArray[np.float32] | None = None

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def nbytes(self) -> int:
        return self.rows * _ggml.row_bytes(self.kind, self.columns)


def _bits(file_type: str) -> float:
    kind = gguf_mix.FILE_TYPES[file_type][1]
    return _ggml.row_bytes(kind, 256) * 8 / 256


def _importance(job: Job[GgufParams], layout: Layout, checkpoint: Checkpoint) -> dict[str, npt.NDArray[np.float32]]:
    """GGUF importance by Hugging Face module name; empty when it is not wanted or would change nothing."""
    wanted = job.params.imatrix
    if wanted is False or gguf_mix.FILE_TYPES[job.params.type][1] in _ggml.PLAIN:
        return {}
    tensors = tensors_of(layout, checkpoint)
    if isinstance(wanted, Path):
        return by_module(wanted, read_matrix(wanted), tensors)
    if job.calibration is None:
        raise UsageError(
            "the importance matrix needs a calibration pass",
            next="add --with calibration=FILE.jsonl, or turn it off: --with imatrix=false",
        )
    from compress.calibrate import Calibration

    return by_module(job.calibration.path, matrix_of(Calibration(job.calibration.path), tensors, ()), tensors)


def plan_tensors(
    checkpoint: Checkpoint, layout: Layout, file_type: str, importance: Mapping[str, npt.NDArray[np.float32]]
) -> list[Planned]:
    """Type and place of every tensor, in the order of the file.

    ``importance``: Hugging Face module name -> float32 [in]; empty for plain rounding.
    """
    tensors = tensors_of(layout, checkpoint)
    model = gguf_mix.Model(
        layers=layout.layers,
        heads_per_kv=layout.heads // layout.kv_heads,
        tied=all(t.name != "output.weight" for t in tensors),
        importance=bool(importance),
        seventy=gguf_mix.is_seventy(layout.row.gguf, layout.layers, layout.heads, layout.kv_heads),
    )
    planned = []
    for tensor in tensors:
        kind = gguf_mix.choose(tensor.name, tensor.shape, file_type, model)
        weights = importance.get(tensor.module) if len(tensor.shape) == 2 else None
        _require(tensor, kind, file_type, weights)
        planned.append(Planned(tensor.name, tensor.shape, kind, tensor, None, weights))
    divisors = rope_tensors(layout.rope, layout.turned) if layout.turned else {}
    return planned + [Planned(name, values.shape, "F32", values=values) for name, values in divisors.items()]


def _require(tensor: Tensor, kind: str, file_type: str, weights: npt.NDArray[np.float32] | None) -> None:
    if weights is None and gguf_mix.needs_importance(tensor.name, kind, file_type):
        raise UsageError(
            f"{file_type} stores {tensor.name} in {kind}, which is useless without an importance matrix",
            next="set imatrix: true and give calibration data, or choose Q2_K or larger",
        )
    if weights is not None and (weights.shape != (tensor.shape[-1],) or not np.isfinite(weights).all()):
        raise ArtifactError(
            f"the calibration of {tensor.source} does not fit: {weights.shape} for {tensor.shape[-1]} inputs, "
            "or values that are not finite",
            next="run the calibration again on this very model",
        )


def write_header(path: Path, layout: Layout, vocabulary: Any, plan: Sequence[Planned], params: GgufParams) -> bytes:
    """All bytes before the tensors' data: settings, vocabulary, and the tensors' names, shapes and offsets."""
    import gguf

    writer = gguf.GGUFWriter(path, layout.row.gguf)
    total = sum(math.prod(p.shape) for p in plan)
    writer.add_type("model")
    writer.add_name(params.name or f"{layout.row.gguf} {_label(total)}".replace("phi3", "phi 3"))
    writer.add_size_label(_label(total))
    writer.add_file_type(gguf_mix.FILE_TYPES[params.type][0])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_settings(writer, layout)
    vocabulary.write(writer)
    for p in plan:
        kind = gguf.GGMLQuantizationType(_ggml.TYPE_IDS[p.kind])
        writer.add_tensor_info(p.name, p.shape, np.dtype(np.float32), p.nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    header = path.read_bytes()
    path.unlink()
    return header + bytes(-len(header) % ALIGNMENT)


def _label(parameters: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M")):
        if parameters >= unit:
            return f"{parameters / unit:.1f}{name}"
    return f"{parameters / 1e3:.0f}K"


def _stream(part: Path, header: bytes, plan: Sequence[Planned], checkpoint: Checkpoint, job: Job[GgufParams]) -> None:
    """Write the tensors after those that an earlier, killed run finished."""
    feedback = _feedback(job, plan)
    mark = part.with_suffix(".done")
    stamp = digest_json({"header": header.hex()})
    done = _resume(part, mark, stamp)
    with open(part, "r+b" if done else "wb") as file:
        if not done:
            file.write(header)
        file.seek(len(header) + sum(_padded(p.nbytes) for p in plan[:done]))
        file.truncate()
        unsaved = 0
        for number, planned in enumerate(plan[done:], done + 1):
            for piece in _pieces(planned, checkpoint, job.threads, feedback):
                file.write(piece.tobytes())
            file.write(bytes(_padded(planned.nbytes) - planned.nbytes))
            unsaved += planned.nbytes
            if unsaved >= SAVE_EVERY or number == len(plan):
                _save(file, mark, stamp, number)
                unsaved = 0
            job.progress(number, len(plan), planned.name)


def _padded(size: int) -> int:
    return math.ceil(size / ALIGNMENT) * ALIGNMENT


def _resume(part: Path, mark: Path, stamp: str) -> int:
    """How many tensors of a file with this very header are whole."""
    if not (part.is_file() and mark.is_file()):
        return 0
    written, _, count = mark.read_text().partition(" ")
    return int(count) if written == stamp else 0


def _save(file: IO[bytes], mark: Path, stamp: str, number: int) -> None:
    file.flush()
    os.fsync(file.fileno())
    temporary = mark.with_suffix(".tmp")
    temporary.write_text(f"{stamp} {number}")
    os.replace(temporary, mark)


def _feedback(job: Job[GgufParams], plan: Sequence[Planned]) -> Feedback | None:
    """What quantizes linears, with the blocks behind one another already done if so wished."""
    if job.calibration is None or job.params.feedback == "off" or not ExportGguf().reads_calibration(job.params):
        return None
    from compress.calibrate import Calibration

    feedback = Feedback(Calibration(job.calibration.path), job.threads, job.scratch / "solved")
    kinds: dict[str, str] = {}
    for tensor, kind in ((p.tensor, p.kind) for p in plan if p.tensor and p.name.startswith("blk.")):
        whole = kinds.get(tensor.module, kind) == kind and tensor.factor == 1
        kinds[tensor.module] = kind if whole else ""  # packed rows can be moved, not scaled or mixed
    if job.params.feedback == "upstream" and KINDS & set(kinds.values()):
        UpstreamBlocks(job, kinds, job.scratch / "solved").run()
    return feedback


def _pieces(
    planned: Planned, checkpoint: Checkpoint, threads: int, feedback: Feedback | None
) -> Iterator[npt.NDArray[np.uint8]]:
    """A tensor's stored bytes, slab by slab."""
    if planned.values is not None:
        yield planned.values.view(np.uint8)
        return
    assert planned.tensor is not None
    tensor, module, kind = planned.tensor, planned.tensor.module, planned.kind
    group = tensor.head_dim if planned.rows > 1 else 1
    solved = feedback if feedback and len(planned.shape) == 2 and feedback.covers(module, kind) else None
    step = slab_rows(planned.columns, group) if solved else max(1, SLAB // (planned.columns * group)) * group
    for start in range(0, planned.rows, step):
        stop = min(start + step, planned.rows)
        ready = solved.ready(module, tensor.first + start, tensor.first + stop) if solved else None
        if ready is not None:
            yield permute_rotary(ready, tensor.head_dim) if tensor.head_dim > 1 else ready
            continue
        slab = tensor.values(checkpoint, start, stop)
        if not np.isfinite(slab).all():
            raise ArtifactError(f"{tensor.source} holds NaN or infinity", next="train or merge the model again")
        if solved:
            yield solved.quantize(slab, kind, module)
            continue
        try:
            yield _ggml.quantize(slab, kind, planned.importance, threads=threads)
        except ArtifactError as error:
            raise ArtifactError(f"{tensor.source}: {error.what}", next=error.next) from None


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
        "importance_matrix": bool(weighed),
        "importance_from": (wanted.name if isinstance(wanted, Path) else "calibration") if weighed else None,
        "feedback": job.params.feedback if fed else "off",
        "parameters": parameters,
        "bits_per_weight": round(sum(p.nbytes for p in plan) * 8 / parameters, 3),
        "tensor_types": dict(sorted(kinds.items())),
        "tokenizer": {"model": vocabulary.model, "pre": vocabulary.pre, "probes_equal": probes},
    }
