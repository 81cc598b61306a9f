"""Which files of a folder hold its weights: those that transformers loads, and no other.

transformers takes ``model.safetensors`` where there is one, else the files that ``model.safetensors.index.json`` names.
Whatever lies beside them (``consolidated.safetensors``, an adapter, a twin in another dtype) is no part of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError
from compress.json_files import AGAIN, read_json
from compress.model.safetensors_header import Entry, read_header

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_PIECE = 1 << 24


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the model's tensors, in the order of their names.

    Raises ArtifactError if there are none, if the index is damaged or names one that is missing, and if the index
    names other weights than ``model.safetensors`` holds.
    """
    single, named = folder / SINGLE, _named(folder / INDEX)
    if not single.is_file():
        return _present(named) if named else _refuse_none(folder)
    if named and named != [single]:
        others = _present(named, f"; remove {INDEX} if {SINGLE} is the whole model")
        _require_same(single, tuple(others), _stamps([single, *others]))
    return [single]


def is_indexed(folder: Path) -> bool:
    """Whether the index says where the tensors are."""
    return not (folder / SINGLE).is_file()


def _named(index: Path) -> list[Path]:
    """Files of an index; none where there is no index."""
    return [index.parent / name for name in shard_names(index.parent)] if index.is_file() else []


def shard_names(folder: Path) -> list[str]:
    """Names of the files that the folder's index names, sorted."""
    return sorted(set(_weight_map(folder / INDEX).values()))


def _weight_map(index: Path) -> dict[str, str]:
    mapping = read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise ArtifactError(f"{index} has no valid weight_map", next=AGAIN)
    wrong = [value for value in mapping.values() if not _plain_name(value)]
    if wrong:
        what = f"the weight_map of {index} names {wrong[0]!r:.200}, which is no file beside it"
        raise ArtifactError(what, next="name files of the same folder, without a path")
    return mapping


def _plain_name(value: Any) -> bool:
    return isinstance(value, str) and Path(value).name == value and "\0" not in value


def _present(files: list[Path], instead: str = "") -> list[Path]:
    for file in files:
        if not file.is_file():
            what = f"{file} is missing: {INDEX} names it"
            raise ArtifactError(what, next=f"finish the download or copy it again{instead}")
    return files


def _refuse_none(folder: Path) -> list[Path]:
    """Say what is there instead."""
    folders = [name for name in (SINGLE, INDEX) if (folder / name).is_dir()]
    if folders:
        raise ArtifactError(f"{folder / folders[0]} is a folder, not the file of that name", next=AGAIN)
    others = sorted(path.name for path in folder.glob("*.safetensors") if path.is_file())
    if others and all(name.startswith("adapter_") for name in others):
        what = f"{folder} holds an adapter ({others[0]}) and no model"
        raise ArtifactError(what, next="merge it into its base model (finetune.sft does), or give the base model")
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if others:
        what = f"{folder} holds {', '.join(others[:3])}, and neither {SINGLE} nor {INDEX}"
        raise ArtifactError(what, next=f"name the file {SINGLE}, or save the model again with save_pretrained")
    if pickles:
        raise ArtifactError(
            f"{folder} holds pickled weights ({pickles[0]}), which can run code when opened; they are not read",
            next="convert them where you trust them: model.save_pretrained(folder, safe_serialization=True)",
        )
    raise ArtifactError(
        f"{folder} holds no *.safetensors file ({SINGLE})", next="finish the download or save the model again"
    )


def _stamps(files: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    """What changes when a file does."""
    return tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@lru_cache(maxsize=8)
def _require_same(single: Path, others: tuple[Path, ...], stamps: Any) -> None:
    """Two sets of weights in one folder must be one: transformers reads the first, other programs the second."""
    del stamps
    ours, theirs = read_header(single), _merged(list(others))
    differing = sorted(ours.keys() ^ theirs.keys())
    differing += [name for name in sorted(ours.keys() & theirs.keys()) if not same_bytes(ours[name], theirs[name])]
    if differing:
        raise ArtifactError(
            f"{single.parent} holds two models: {SINGLE} and the files of {INDEX} differ in {differing[0]}",
            next=f"remove {SINGLE}, or {INDEX} and its files",
        )


def same_bytes(one: Entry, other: Entry) -> bool:
    """Whether two tensors have one type and shape, and the same bytes."""
    if (one.dtype, one.shape, one.nbytes) != (other.dtype, other.shape, other.nbytes):
        return False
    with open(one.path, "rb") as first, open(other.path, "rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        left = one.nbytes
        while left > 0:
            piece = min(left, _PIECE)
            if first.read(piece) != second.read(piece):
                return False
            left -= piece
    return True


def read_entries(folder: Path) -> dict[str, Entry]:
    """The tensors of all weight files of a folder by name.

    Raises ArtifactError also for a name in two files, and for one that the index names and no file holds:
    transformers would fill it with random numbers.
    """
    found = _merged(weight_files(folder))
    if is_indexed(folder):
        absent = sorted(_weight_map(folder / INDEX).keys() - found.keys())
        if absent:
            raise ArtifactError(f"{folder}: tensor {absent[0]} of {INDEX} is in no file", next=AGAIN)
    return found


def _merged(files: Sequence[Path]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for path in files:
        for name, entry in read_header(path).items():
            if name in found:
                raise ArtifactError(f"{path} and {found[name].path} both hold {name}", next=AGAIN)
            found[name] = entry
    return found
