"""What a GPTQ folder says of its codes, held against the tensors that hold them.

Readers trust config.json for the width of a code and the tensors for everything else; where the two differ, one of
them would compute with other weights than the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError
from compress.model.safetensors_header import Entry

PARTS: tuple[str, ...] = ("qweight", "qzeros", "scales", "g_idx")
"""What a GPTQ folder stores of a linear."""
WIDTHS = (2, 3, 4, 8)
FORMATS = ("gptq", "gptq_v2")
FLOAT = 0
"""Instead of bits: the linear stays as it is."""
_INTEGERS, _SCALES = ("I32",), ("F16", "BF16", "F32")
_AGAIN = "give the config.json of these very weights, or quantize the model again"


def bits_in(config: Mapping[str, Any], module: str) -> int:
    """Bits of a module by a checkpoint's ``quantization_config`` (``dynamic`` as GPTQModel reads it), or FLOAT."""
    import re2

    for pattern, override in (config.get("dynamic") or {}).items():
        if re2.match(pattern.removeprefix("+:").removeprefix("-:"), module):
            return FLOAT if pattern.startswith("-:") else int(override.get("bits") or config["bits"])
    return int(config["bits"])


def check_coded(folder: Path, config: Mapping[str, Any], entries: Mapping[str, Entry]) -> None:
    """Raise ArtifactError unless the settings are GPTQ's and every linear of codes has its parts in the sizes that
    they say. Folders that another method quantized are refused by whoever reads them."""
    settings = config.get("quantization_config")
    if not isinstance(settings, Mapping) or settings.get("quant_method") != "gptq":
        return
    _check_settings(folder, settings)
    for name in sorted(entries):
        if name.endswith(".qweight"):
            _check_module(folder, settings, name.removesuffix(".qweight"), entries)


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    def fail(key: str, what: str) -> None:
        place = f"{folder / 'config.json'}: quantization_config.{key}"
        raise ArtifactError(f"{place} is {settings.get(key)!r:.80}, not {what}", next=_AGAIN)

    if settings.get("checkpoint_format") not in (None, *FORMATS):
        fail("checkpoint_format", f"{' or '.join(FORMATS)}: codes stored in another order cannot be read")
    if type(settings.get("bits")) is not int or settings["bits"] not in WIDTHS:
        fail("bits", f"one of {', '.join(map(str, WIDTHS))}")
    dynamic = settings.get("dynamic") or {}
    if not isinstance(dynamic, Mapping) or not all(map(_is_override, dynamic.items())):
        fail("dynamic", 'an object of patterns (regular expressions) with settings such as {"bits": 8}')


def _is_override(item: tuple[Any, Any]) -> bool:
    import re2

    pattern, override = item
    try:
        re2.compile(pattern.removeprefix("+:").removeprefix("-:"))
    except re2.error:
        return False
    return isinstance(override, Mapping) and (override.get("bits") is None or override["bits"] in WIDTHS)


def _check_module(folder: Path, settings: Mapping[str, Any], module: str, entries: Mapping[str, Entry]) -> None:
    def part(name: str, rank: int, types: tuple[str, ...]) -> tuple[int, ...]:
        entry = entries.get(f"{module}.{name}")
        if entry is None:
            raise ArtifactError(f"{folder} lacks {module}.{name}", next="write the GPTQ folder again")
        if len(entry.shape) != rank or entry.dtype not in types:
            what = f"{module}.{name} is {entry.dtype} {list(entry.shape)}, not {' or '.join(types)} of rank {rank}"
            raise ArtifactError(f"{folder}: {what}", next="write the GPTQ folder again")
        return entry.shape

    out, _ = part("qweight", 2, _INTEGERS)[1], part("qzeros", 2, _INTEGERS)
    groups, inputs = part("scales", 2, _SCALES)[0], part("g_idx", 1, _INTEGERS)[0]
    bits = bits_in(settings, module)
    if bits == FLOAT:
        what = f"holds codes of {module}, which quantization_config.dynamic leaves as it is"
        raise ArtifactError(f"{folder} {what}", next=_AGAIN)
    wanted = {"qweight": (inputs * bits // 32, out), "qzeros": (groups, out * bits // 32), "scales": (groups, out)}
    for name, shape in wanted.items():
        found = entries[f"{module}.{name}"].shape
        if found != shape:
            said = f"{bits} bits of config.json and {inputs} inputs want {list(shape)}"
            raise ArtifactError(f"{folder}: {module}.{name} has shape {list(found)}; {said}", next=_AGAIN)


def require_groups(module: str, least: int, most: int, groups: int) -> None:
    """Raise ArtifactError unless ``g_idx`` of a linear, from ``least`` to ``most``, names groups that it has."""
    if least < 0 or most >= groups:
        wrong = least if least < 0 else most
        raise ArtifactError(
            f"{module}.g_idx names group {wrong}, and there are {groups}", next="write the GPTQ folder again"
        )
