"""Reading and writing safetensors one tensor at a time, so that memory stays at a tensor and not at a model.

The format (https://github.com/huggingface/safetensors#format): 8 bytes little-endian header length,
a JSON header ``{name: {dtype, shape, data_offsets}}``, then the raw tensors. Tensors are read with plain
file reads rather than a memory map, whose touched pages would count as resident memory.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from compress.chat_files import copy_named_templates
from compress.errors import ArtifactError
from compress.json_files import AGAIN
from compress.model.files import INDEX, SINGLE, read_entries
from compress.model.safetensors_header import Entry, read_header

if TYPE_CHECKING:
    import torch

DTYPES = {
    "BF16": "bfloat16",
    "BOOL": "bool",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "I8": "int8",
    "U8": "uint8",
}
FLOATS = ("F64", "F32", "F16", "BF16")
SHARD_BYTES = 2 << 30
SIDE_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "LICENSE",
    "LICENSE.txt",
    "merges.txt",
    "NOTICE",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
"""What a model folder holds beside its weights and config.json."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, safetensors dtype (``BF16``, ``I32``…) and shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count

    @property
    def size(self) -> int:
        """Bytes."""
        return self.elements * _item_size(self.dtype)


def _item_size(dtype: str) -> int:
    return 1 if dtype in {"BOOL", "U8", "I8"} else int(dtype.lstrip("BFIU")) // 8


def _torch_dtype(dtype: str) -> torch.dtype:
    import torch

    return getattr(torch, DTYPES[dtype])


class Weights:
    """The tensors of a model folder (or of one ``.safetensors`` file), read by name.

    Raises ArtifactError if there are none, a shard of the index is missing or a header is damaged.
    """

    def __init__(self, path: Path, places: Mapping[str, Entry] | None = None) -> None:
        """``places``: where the tensors lie, if that is known; ``compress.model.tensors`` says which are a model's."""
        self.path = path
        if places is None:
            places = read_header(path) if path.is_file() else read_entries(path)
        self._places = places
        for name, place in self._places.items():
            if place.dtype not in DTYPES:
                raise ArtifactError(
                    f"tensor {name!r} of {place.path} has the type {place.dtype}, which is not read here",
                    next="save the model in bfloat16",
                )

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def names(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._places)

    def spec(self, name: str) -> TensorSpec:
        """Dtype and shape of ``name``; ArtifactError if the folder has no such tensor."""
        place = self._place(name)
        return TensorSpec(name, place.dtype, place.shape)

    def _place(self, name: str) -> Entry:
        if name not in self._places:
            raise ArtifactError(f"{self.path} has no tensor {name!r}", next="check that the folder is complete")
        return self._places[name]

    def load(self, name: str) -> torch.Tensor:
        """The tensor as it is stored."""
        import torch

        place = self._place(name)
        tensor = torch.empty(place.shape, dtype=_torch_dtype(place.dtype))
        with open(place.path, "rb") as handle:
            handle.seek(place.start)
            if not read_into(handle, tensor):
                raise ArtifactError(f"{place.path} ends before tensor {name!r}", next=AGAIN)
        return tensor

    def load_finite(self, name: str) -> torch.Tensor:
        """The tensor in float32; ArtifactError naming it if it is not stored in floats, or holds NaN or Inf."""
        place = self._place(name)
        if place.dtype not in FLOATS:
            raise ArtifactError(
                f"tensor {name!r} of {place.path} has the type {place.dtype}; weights must be {', '.join(FLOATS)}",
                next="save the model in bfloat16",
            )
        return self._finite(name, self.load(name).float())

    def load_sound(self, name: str) -> torch.Tensor:
        """The tensor as it is stored; ArtifactError naming it if it holds NaN or Inf."""
        return self._finite(name, self.load(name))

    def _finite(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ArtifactError(
                f"tensor {name!r} of {self.path} holds NaN or Inf", next="repair or fetch the model again"
            )
        return tensor


def spec_of(name: str, tensor: torch.Tensor) -> TensorSpec:
    """The spec of a tensor in memory."""
    kind = str(tensor.dtype).removeprefix("torch.")
    return TensorSpec(name, next(k for k, v in DTYPES.items() if v == kind), tuple(tensor.shape))


def write_file(
    file: Path, specs: Sequence[TensorSpec], load: Callable[[str], torch.Tensor], *, durable: bool = True
) -> None:
    """Write one ``.safetensors`` file atomically; ``load(name)`` is asked for one tensor at a time, in order.

    ``durable``: it must outlive a power failure, too.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for spec in specs:
        header[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [end, end + spec.size]}
        end += spec.size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    temporary = file.with_name(f".{file.name}.tmp")
    with open(temporary, "wb") as handle:
        handle.write(struct.pack("<Q", len(head)) + head)
        for spec in specs:
            tensor = load(spec.name)
            assert spec_of(spec.name, tensor) == spec, (spec, tensor.shape, tensor.dtype)
            append(handle, tensor)
        if durable:
            handle.flush()
            os.fsync(handle.fileno())
    os.replace(temporary, file)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    import torch

    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def read_into(handle: BinaryIO, tensor: torch.Tensor) -> bool:
    """Fill a contiguous tensor from a file; False if the file ends before.

    The memory is torch's own, hence aligned: products over unaligned memory may round differently from run to run.
    """
    return not tensor.numel() or handle.readinto(_bytes_of(tensor)) == tensor.nbytes  # type: ignore[attr-defined]


def append(handle: BinaryIO, tensor: torch.Tensor) -> None:
    """Write a tensor's raw bytes."""
    if tensor.numel():
        handle.write(_bytes_of(tensor))


def write_state(file: Path, state: Mapping[str, Any]) -> None:
    """Write a training's checkpoint (``torch.save``) atomically: a half-written one never has its name."""
    import torch

    temporary = file.with_suffix(".tmp")
    with open(temporary, "wb") as handle:
        torch.save(state, handle)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, file)


def write_tensors(file: Path, tensors: dict[str, torch.Tensor], *, durable: bool = True) -> None:
    """Write a dict of tensors as one file, names sorted."""
    specs = [spec_of(name, tensors[name]) for name in sorted(tensors)]
    write_file(file, specs, tensors.__getitem__, durable=durable)


def write_model(
    folder: Path,
    specs: Sequence[TensorSpec],
    load: Callable[[str], torch.Tensor],
    shard_bytes: int = SHARD_BYTES,
    *,
    resume: bool = False,
) -> None:
    """Write ``model.safetensors``, or shards with their index when the tensors exceed ``shard_bytes``.

    ``resume``: files that are there are whole and of this very model, and stay.
    """
    shards = _cut(sorted(specs, key=lambda spec: spec.name), shard_bytes)
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else SINGLE
        if not (resume and (folder / name).is_file()):
            write_file(folder / name, shard, load)
        weight_map.update({spec.name: name for spec in shard})
    if len(shards) == 1:
        return
    index = {"metadata": {"total_size": sum(spec.size for spec in specs)}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _cut(specs: Sequence[TensorSpec], shard_bytes: int) -> list[list[TensorSpec]]:
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.size > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.size
    return shards


def copy_side_files(source: Path, target: Path) -> None:
    """Copy tokenizer, chat templates, generation config and licence from one model folder to another."""
    for name in SIDE_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    copy_named_templates(source, target)
