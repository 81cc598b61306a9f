"""The tensors that make a model, of those that a folder holds: what every reader agrees on before it reads one.

The weights decide: a head of its own is one whatever ``tie_word_embeddings`` says, as in transformers. A tensor that
config.json switches off, that belongs to nothing, or that has another size is refused by name, so that no stage
computes with what another leaves out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError
from compress.json_files import AGAIN
from compress.model.coded import PARTS, check_coded
from compress.model.config import read_config
from compress.model.families import LAYOUTS
from compress.model.files import INDEX, SINGLE, read_entries, same_bytes
from compress.model.layout import BlockLayout, Settings
from compress.model.safetensors_header import Entry

FLOATS: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""safetensors type -> how numpy reads it (bfloat16 as its bits)."""
_CONSTANTS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
"""What older folders store beside the weights; the model computes it anew."""
_ADAPTERS = re.compile(r"\.(lora_\w+|base_layer|modules_to_save|prompt_encoder)(\.|$)")

_WRAPPERS = re.compile(r"(^|\.)((?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)")


@dataclass(frozen=True)
class Held:
    """A model folder's tensors by name, without what transformers drops."""

    config: Mapping[str, Any]
    """config.json, with ``tie_word_embeddings`` as the weights mean it."""
    entries: Mapping[str, Entry]
    """``lm_head`` is among them unless the head is the embedding."""


def held(folder: Path) -> Held:
    """What ``folder`` holds of a model of its config.json, float or GPTQ.

    Raises ArtifactError naming the tensor that is missing, left over, switched off or of another size or type. Models
    of a type without a row in LAYOUTS are not checked: whoever reads them refuses them.
    """
    config, entries = read_config(folder), read_entries(folder)
    entries = {name: entry for name, entry in entries.items() if not name.endswith(_CONSTANTS)}
    _require_settings(folder, config, entries)
    row = LAYOUTS.get(str(config.get("model_type")))
    if row is None:
        return Held(config, entries)
    settings = row.settings(config)
    row = row.spelled(entries)
    tied, entries = _tie(row, settings, entries)
    entries = _check(folder, row, settings, entries, tied)
    check_coded(folder, config, entries)
    flagged = bool(settings["tie_word_embeddings"])
    return Held(config if flagged == tied else {**config, "tie_word_embeddings": tied}, entries)


def _require_settings(folder: Path, config: Mapping[str, Any], entries: Mapping[str, Entry]) -> None:
    """Codes mean nothing without their bits, which transformers reads from config.json alone; and the weights must not
    stand in a file of another name. Nobody knows what they are without a model_type."""
    if not config.get("model_type"):
        raise ArtifactError(
            f"{folder / 'config.json'} has no model_type, by which transformers knows a model",
            next='add it, for example "model_type": "llama"',
        )
    named = config.get("transformers_weights")
    if named not in (None, SINGLE, INDEX):
        raise ArtifactError(
            f"{folder / 'config.json'}: transformers_weights is {named!r}, and only {SINGLE} or {INDEX} is read",
            next=f"name the file {SINGLE} and remove that key",
        )
    packed = next((name for name in entries if name.endswith(".qweight")), None)
    if packed is None or config.get("quantization_config"):
        return
    beside = (folder / "quantize_config.json").is_file()
    raise ArtifactError(
        f"{folder} holds quantized weights ({packed}), and its config.json has no quantization_config"
        + ("; quantize_config.json, which transformers does not read, has the settings" if beside else ""),
        next='put them into config.json as "quantization_config", with "quant_method": "gptq"',
    )


def _tie(row: BlockLayout, settings: Settings, entries: dict[str, Entry]) -> tuple[bool, dict[str, Entry]]:
    """Whether the head is the embedding, and the entries with the one tensor of both under the embedding's name.

    As transformers has it: the flag ties a head that is absent or equal, and an embedding that is absent; it does not
    tie two tensors that differ.
    """
    head, embedding = f"{row.head}.weight", f"{row.embed}.weight"
    if not settings["tie_word_embeddings"] or f"{row.head}.qweight" in entries:
        return False, entries
    if head not in entries:
        return True, entries
    if embedding in entries and not _equal(entries[head], entries[embedding], _changed(entries, head, embedding)):
        return False, entries
    rest = {name: entry for name, entry in entries.items() if name != head}
    return True, {embedding: entries[head], **rest}


def _changed(entries: Mapping[str, Entry], *names: str) -> tuple[int, ...]:
    return tuple(entries[name].path.stat().st_mtime_ns for name in names)


@lru_cache(maxsize=8)
def _equal(one: Entry, other: Entry, changed: Any) -> bool:
    """Whether two tensors hold the same values, in whatever types."""
    del changed
    if one.dtype == other.dtype or one.shape != other.shape or not {one.dtype, other.dtype} <= FLOATS.keys():
        return same_bytes(one, other)
    size, step = math.prod(one.shape), 1 << 22
    return all(
        np.array_equal(read_floats(one, at, min(step, size - at)), read_floats(other, at, min(step, size - at)))
        for at in range(0, size, step)
    )


def read_floats(entry: Entry, first: int, count: int) -> npt.NDArray[np.float32]:
    """``count`` values of a float tensor from flat index ``first``, as float32."""
    return as_float32(read_stored(entry, FLOATS[entry.dtype], first, count), entry.dtype)


def read_stored(entry: Entry, kind: str, first: int, count: int) -> npt.NDArray[Any]:
    """``count`` stored values of NumPy's type ``kind`` from flat index ``first``."""
    stored = np.dtype(kind)
    with open(entry.path, "rb") as handle:
        handle.seek(entry.start + first * stored.itemsize)
        values = np.fromfile(handle, dtype=stored, count=count)
    if values.size != count:
        raise ArtifactError(f"{entry.path} ended while it was read", next=AGAIN)
    return values


def as_float32(raw: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    """Stored values -> float32; bfloat16 is the upper half of a float32."""
    if dtype == "BF16":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.astype(np.float32, copy=False)


def _check(
    folder: Path, row: BlockLayout, settings: Settings, entries: dict[str, Entry], tied: bool
) -> dict[str, Entry]:
    """The entries, once every tensor of the model is there in its size and no other is; less biases of zeros that
    config.json switches off."""
    names = _plain(entries)
    wanted, biases = row.tensors(settings, tied=tied)
    missing = [name for name in wanted if name not in names]
    if missing:
        _refuse_missing(folder, row, missing[0], names)
    known = wanted.keys() | biases.keys()
    strays = [name for name in sorted(names) if name not in known]
    dropped = {name for name in strays if name.endswith(".bias") and _zero(entries[name])}
    strays = [name for name in strays if name not in dropped]
    if strays:
        _refuse_stray(folder, row, settings, strays)
    for name, size in (wanted | biases).items():
        if name in names:
            _check_one(folder, name, names[name], row.stored(name, size, name not in entries), entries.get(name))
    return {name: entry for name, entry in entries.items() if name not in dropped}


def _plain(entries: Mapping[str, Entry]) -> dict[str, tuple[int, ...]]:
    """Name -> shape; the parts of a GPTQ linear stand for its weight, ``[out, in]``."""
    plain = {name: entry.shape for name, entry in entries.items()}
    for name in [name for name in plain if name.endswith(".qweight")]:
        module, shape = name.removesuffix("qweight"), plain[name]
        inputs = plain.get(f"{module}g_idx", ())
        for part in PARTS:
            plain.pop(module + part, None)
        plain[f"{module}weight"] = (shape[1], inputs[0]) if len(shape) == 2 and len(inputs) == 1 else shape
    return plain


def _zero(entry: Entry) -> bool:
    """Whether a small tensor holds nothing but zeros: adding it changes nothing."""
    if entry.dtype not in FLOATS or len(entry.shape) != 1:
        return False
    return not read_floats(entry, 0, entry.shape[0]).any()


def _check_one(folder: Path, name: str, found: tuple[int, ...], wanted: tuple[int, ...], entry: Entry | None) -> None:
    if found != wanted:
        raise ArtifactError(
            f"{folder}: {name} has shape {list(found)}; config.json says {list(wanted)}",
            next="give the config.json of these very weights",
        )
    if entry is not None and entry.dtype not in FLOATS:
        raise ArtifactError(
            f"{name} in {entry.path} has type {entry.dtype}; weights must be {', '.join(FLOATS)}",
            next="save the model in bfloat16",
        )


def _refuse_missing(folder: Path, row: BlockLayout, name: str, names: Iterable[str]) -> None:
    adapters = next((other for other in sorted(names) if _ADAPTERS.search(other)), None)
    if adapters:
        _refuse_adapter(folder, adapters)
    _refuse_wrapped(folder, row, name, names)
    if name == f"{row.head}.weight":
        raise ArtifactError(
            f"{folder}: {name} is missing and config.json does not tie it to the embedding",
            next="save the model again, or set tie_word_embeddings: true if the model was trained so",
        )
    raise ArtifactError(
        f"{folder}: the weights hold no {name}",
        next="save the model again, or give the config.json of these very weights",
    )


def _refuse_wrapped(folder: Path, row: BlockLayout, name: str, names: Iterable[str]) -> None:
    """Say so where ``name`` is there under the name that PEFT, torch.compile, DataParallel or FSDP gave it."""
    tail = name.removeprefix(row.prefix)
    for other in sorted(names):
        before = other.removesuffix(tail) if other.endswith(f".{tail}") else ""
        before = before.removesuffix(row.prefix) if before.endswith(f".{row.prefix}") else before
        inside = _WRAPPERS.search(other)
        wrapper = before or (inside[2] if inside and _WRAPPERS.sub(r"\1", other) in (name, tail) else "")
        if wrapper:
            raise ArtifactError(
                f"{folder}: {name} is called {other}; {wrapper!r} belongs to a wrapper around the model",
                next="save the model inside it (_orig_mod of a compiled model, merge_and_unload() of an adapter), or "
                "take it out of the names",
            )


def _refuse_adapter(folder: Path, name: str) -> None:
    raise ArtifactError(f"{folder} holds {name} of an adapter", next="merge adapters first (finetune.sft does)")


def _refuse_stray(folder: Path, row: BlockLayout, settings: Settings, strays: list[str]) -> None:
    name = strays[0]
    more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
    if _ADAPTERS.search(name):
        _refuse_adapter(folder, name)
    switch = row.switch_of(name)
    if switch:
        raise ArtifactError(
            f"{folder} holds {name}{more}, which config.json switches off ({switch} is {settings.get(switch)})",
            next=f"set {switch}: true if the model was trained with it, or remove it from the weights",
        )
    block = re.match(rf"{re.escape(row.blocks)}\.(\d+)\.", name)
    if block and int(block[1]) >= settings["num_hidden_layers"]:
        counted = f"config.json counts {settings['num_hidden_layers']} blocks"
        raise ArtifactError(
            f"{folder} holds {name}{more}; {counted}", next="give the config.json of these very weights"
        )
    raise ArtifactError(
        f"{folder} holds {name}{more}, which has no place in a {settings['model_type']} model; transformers ignores it",
        next="remove it from the weights, or give the config.json of these very weights",
    )
