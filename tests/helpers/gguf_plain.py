"""Files without a tokenizer, and changes to a file's header that write it anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from export.checkpoint import Checkpoint
from export.gguf.layout import layout_of
from export.gguf.params import GgufParams
from export.gguf.plan import padded, plan_tensors
from export.gguf.write import pieces, write_header
from runtime.engine.gguf_file import GgufTensor, read_gguf


class NoVocabulary:
    """llama.cpp's tokenizer "none": token ids only."""

    def write(self, writer: Any) -> None:
        writer.add_tokenizer_model("none")

    def model_name(self, wanted: str) -> str:
        return wanted


def write_plain(folder: Path, place: Path, kind: str = "F32") -> Path:
    """A .gguf of a folder, whatever its tokenizer is."""
    checkpoint = Checkpoint(folder)
    layout = layout_of(checkpoint.config)
    plan = plan_tensors(checkpoint, layout, kind, {})
    with open(place / "plain.gguf", "wb") as file:
        file.write(write_header(place / "header", layout, NoVocabulary(), plan, GgufParams(type=kind)))
        for planned in plan:
            stored = b"".join(piece.tobytes() for piece in pieces(planned, checkpoint, 1, None))
            file.write(stored.ljust(padded(len(stored)), b"\0"))
    return place / "plain.gguf"


Tensors = dict[str, tuple[str, tuple[int, ...], np.ndarray]]
"""Name -> (type, shape as GGUF writes it, bytes)."""


def rewrite(
    path: Path, target: Path, *, keys: dict[str, Any] | None = None, tensors: Callable[[Tensors], None] | None = None,
    parts: int = 1,
) -> list[Path]:  # fmt: skip
    """The file anew with other ``keys`` (None leaves one out) and ``tensors``, split in ``parts`` as llama.cpp does."""
    import gguf

    header = read_gguf(path)
    data: Tensors = {t.name: (t.kind, t.shape, _raw(path, t)) for t in header.tensors.values()}
    if tensors:
        tensors(data)
    values = {**header.metadata, **(keys or {})}
    most = -(-len(data) // parts) if parts > 1 else 0
    writer = gguf.GGUFWriter(target, str(values.pop("general.architecture")), split_max_tensors=most)
    for key, value in values.items():
        if value is not None:
            kind = header.types.get(key, "")
            writer.add_key_value(key, list(value) if kind.startswith("arr") else value, *_types(kind, value))
    for name, (kind, shape, raw) in data.items():
        number = gguf.GGMLQuantizationType[kind]
        rows = raw.reshape(*shape[:0:-1], -1)
        writer.add_tensor(name, rows.view(np.float32) if kind == "F32" else rows, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(target.parent.glob(f"{target.stem}*.gguf"))


def _raw(path: Path, tensor: GgufTensor) -> np.ndarray:
    return np.fromfile(path, np.uint8, tensor.nbytes, offset=tensor.start)


_GGUF = {"u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "u64": 10}


def _types(kind: str, value: Any) -> tuple[Any, ...]:
    import gguf

    if kind.startswith("arr"):
        return gguf.GGUFValueType.ARRAY, gguf.GGUFValueType(_GGUF[kind[4:-1]])
    guess = {bool: "bool", int: "u32", float: "f32", str: "str"}[type(value)]
    return (gguf.GGUFValueType(_GGUF[kind or guess]),)
