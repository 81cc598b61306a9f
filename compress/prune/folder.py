"""Writing a changed copy of a model folder, one tensor at a time; dtypes stay as they were stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from compress.json_files import write_json
from compress.model.blocks import ModelFolder
from compress.model.weights import TensorSpec, copy_side_files, write_model

if TYPE_CHECKING:
    import torch


class Edit(NamedTuple):
    """A linear's new weight: ``apply`` maps float32 ``[out, in]`` to float32 ``shape``, which is ``[out, in]``, too."""

    shape: tuple[int, int]
    apply: Callable[[torch.Tensor], torch.Tensor]
    rows: torch.Tensor | None = None
    """Outputs that are kept, where the bias loses some; int64."""


def write_edited(model: ModelFolder, out: Path, config: Mapping[str, Any], edits: Mapping[str, Edit]) -> None:
    """Write ``model`` into ``out`` with ``config`` and the linears named in ``edits`` changed."""

    def load(name: str) -> torch.Tensor:
        linear, _, kind = name.rpartition(".")
        stored = model.weights.load_sound(name)
        if linear not in edits or kind not in {"weight", "bias"}:
            return stored
        if kind == "bias":
            rows = edits[linear].rows
            return stored if rows is None else stored[rows]
        return model.stored(linear, edits[linear].apply(model.weight(linear))).to(stored.dtype)

    specs = [_edited_spec(model, model.weights.spec(name), edits) for name in model.weights.names()]
    write_model(out, specs, load)
    _write_rest(model, out, config)


def _edited_spec(model: ModelFolder, spec: TensorSpec, edits: Mapping[str, Edit]) -> TensorSpec:
    import torch

    linear, _, kind = spec.name.rpartition(".")
    edit = edits.get(linear)
    if edit is not None and kind == "weight":
        return replace(spec, shape=tuple(model.stored(linear, torch.empty(edit.shape, device="meta")).shape))
    if edit is not None and kind == "bias" and edit.rows is not None:
        return replace(spec, shape=(len(edit.rows),))
    return spec


def write_blocks(model: ModelFolder, out: Path, kept: Sequence[int]) -> None:
    """Write ``model`` into ``out`` with the blocks ``kept`` only, renumbered in their order."""
    renamed = {}
    number = {block: i for i, block in enumerate(kept)}
    stack = f"{model.layout.blocks}."
    for name in model.weights.names():
        block, _, rest = name.removeprefix(stack).partition(".")
        if not name.startswith(stack):
            renamed[name] = name
        elif int(block) in number:
            renamed[f"{stack}{number[int(block)]}.{rest}"] = name
    specs = [replace(model.weights.spec(source), name=name) for name, source in renamed.items()]
    write_model(out, specs, lambda name: model.weights.load_sound(renamed[name]))
    _write_rest(model, out, model.narrowed_config(blocks=kept))


def _write_rest(model: ModelFolder, out: Path, config: Mapping[str, Any]) -> None:
    write_json(out / "config.json", dict(config))
    copy_side_files(model.path, out)
