"""Writing and reading back a GPTQ folder, and what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import ArtifactError, UsageError
from compress.json_files import write_json
from compress.model.blocks import ModelFolder
from compress.model.coded import FLOAT, PARTS
from compress.model.weights import TensorSpec, Weights, copy_side_files, spec_of, write_model
from compress.quantize.packing import PERIOD
from compress.quantize.recipe import Recipe

if TYPE_CHECKING:
    Places = Mapping[str, tuple[Weights, TensorSpec]]


def fitting(name: str, out: int, width: int, group_size: int) -> None:
    """Raise UsageError explaining what would fit if a linear ``[out, in]`` cannot be packed in such groups."""
    leave = f'leave it as it is: dynamic: {{"{"*." * ("." in name)}{name.rpartition(".")[2]}": 0}}'
    if width % PERIOD or out % PERIOD:
        raise UsageError(
            f"{name} is {out} × {width}; the GPTQ format packs 32 codes at a time in both directions",
            next=f"use a model whose widths are multiples of 32, or {leave}",
        )
    if group_size != -1 and width % group_size:
        fits = [str(g) for g in (128, 64, 32) if width % g == 0]
        raise UsageError(
            f"{name} has {width} inputs, which group_size {group_size} does not divide",
            next=f"group_size that fits: {', '.join([*fits, '-1 (one group per channel)'])}; or {leave}",
        )


def write_folder(model: ModelFolder, recipe: Recipe, files: Sequence[Path], out: Path) -> None:
    """Assemble the model: packed linears from the finished files, everything else as the source stores it."""
    places: dict[str, tuple[Weights, TensorSpec]] = {}
    for file in files:
        weights = Weights(file)
        places.update({name: (weights, weights.spec(name)) for name in weights.names()})
    packed = {f"{name.removesuffix('.qweight')}.weight" for name in places if name.endswith(".qweight")}
    kept = [name for name in model.weights.names() if name not in packed]
    places.update({name: (model.weights, model.weights.spec(name)) for name in kept})
    write_model(out, [spec for _, spec in places.values()], lambda name: places[name][0].load_sound(name))
    write_json(out / "config.json", {**model.held.config, "quantization_config": recipe.config()})
    write_json(out / "quantize_config.json", recipe.config())
    copy_side_files(model.path, out)
    _read_back(out, places)


def _read_back(folder: Path, places: Places) -> None:
    """The folder must hold exactly the solver's packed tensors."""
    import torch

    written = Weights(folder)
    for name, (source, spec) in places.items():
        tensor = written.load(name)
        assert spec_of(name, tensor) == spec, name
        if name.rpartition(".")[2] in PARTS and not torch.equal(tensor, source.load(name)):
            raise ArtifactError(f"{name} in {folder} differs from what was solved", next="check the disk and run again")


def relative_errors(model: ModelFolder, recipe: Recipe, files: Sequence[Path]) -> dict[str, Any]:
    """Bits per quantized weight, mean ‖(W − Ŵ) X‖² / ‖W X‖² by kind of linear, and where the damping was raised."""
    report: dict[str, Any] = {}
    bits = weights = 0
    for file in files:
        report.update(json.loads(file.with_suffix(".json").read_text()))
        packed = Weights(file)
        bits += sum(8 * packed.spec(name).size for name in packed.names() if not name.endswith(".g_idx"))
    kinds: dict[str, list[float]] = {}
    for name, entry in report.items():
        weights += model.weights.spec(f"{name}.weight").elements
        kinds.setdefault(name.rpartition(".")[2], []).append(entry["error"])
    assert all(recipe.bits_of(name) != FLOAT for name in report)
    return {
        "bits_per_weight": round(bits / weights, 4) if weights else None,
        "relative_output_error": {kind: round(sum(e) / len(e), 6) for kind, e in sorted(kinds.items())},
        "healed_damping": {n: e["damp"] for n, e in sorted(report.items()) if e["damp"] > recipe.damp},
    }
