"""Writes a GGUF file: the header, then tensor after tensor in slabs of rows, resumable after the last one noted."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError
from compress.json_files import digest_json
from compress.quantize.feedback import Feedback, slab_rows
from export.checkpoint import Checkpoint
from export.gguf import ggml, mix
from export.gguf.layout import Layout, write_settings
from export.gguf.plan import Planned, padded
from export.gguf.tensors import permute_rotary

if TYPE_CHECKING:
    from compress.stage import Job
    from export.gguf.params import GgufParams

SLAB = 4 * 2**20
"""Weights held at a time (16 MiB as float32)."""
SAVE_EVERY = 64 * 2**20
"""Bytes after which finished tensors are flushed to disk and noted, so that a killed run loses no more."""


def write_header(path: Path, layout: Layout, vocabulary: Any, plan: Sequence[Planned], params: GgufParams) -> bytes:
    """All bytes before the tensors' data: settings, vocabulary, and the tensors' names, shapes and offsets."""
    import gguf

    writer = gguf.GGUFWriter(path, layout.row.gguf)
    total = sum(math.prod(p.shape) for p in plan)
    writer.add_type("model")
    writer.add_name(vocabulary.model_name(params.name or f"{layout.row.gguf} {_label(total)}"))
    writer.add_size_label(_label(total))
    writer.add_file_type(mix.FILE_TYPES[params.type][0])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_settings(writer, layout)
    vocabulary.write(writer)
    for p in plan:
        kind = gguf.GGMLQuantizationType(ggml.TYPE_IDS[p.kind])
        writer.add_tensor_info(p.name, p.shape, np.dtype(np.float32), p.nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    header = path.read_bytes()
    path.unlink()
    return header.ljust(padded(len(header)), b"\0")


def _label(parameters: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M")):
        if parameters >= unit:
            return f"{parameters / unit:.1f}{name}"
    return f"{parameters / 1e3:.0f}K"


def stream(
    part: Path,
    header: bytes,
    plan: Sequence[Planned],
    checkpoint: Checkpoint,
    job: Job[GgufParams],
    feedback: Feedback | None = None,
) -> None:
    """Write the tensors after those that an earlier, killed run finished; ``feedback`` quantizes what it covers."""
    mark = part.with_suffix(".done")
    stamp = digest_json({"header": header.hex()})
    done = _resume(part, mark, stamp)
    with open(part, "r+b" if done else "wb") as file:
        if not done:
            file.write(header)
        file.seek(len(header) + sum(p.stored_bytes for p in plan[:done]))
        file.truncate()
        unsaved = 0
        for number, planned in enumerate(plan[done:], done + 1):
            for piece in pieces(planned, checkpoint, job.threads, feedback):
                file.write(piece.tobytes())
            file.write(bytes(planned.stored_bytes - planned.nbytes))
            unsaved += planned.nbytes
            if unsaved >= SAVE_EVERY or number == len(plan):
                _save(file, mark, stamp, number)
                unsaved = 0
            job.progress(number, len(plan), planned.name)


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


def pieces(
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
        if solved:
            yield solved.quantize(slab, kind, module)
            continue
        try:
            yield ggml.quantize(slab, kind, planned.importance, threads=threads)
        except ArtifactError as error:
            raise ArtifactError(f"{tensor.source}: {error.what}", next=error.next) from None
