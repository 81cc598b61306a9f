"""Outlines of models from what stands in a folder: config.json, sizes of weight files, the tokenizer's vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compress.errors import UnsupportedArchitecture
from compress.json_files import read_json
from compress.model.blocks import layout_of
from compress.model.config import read_config
from compress.model.files import weight_files
from compress.model.layout import shape_of
from compress.outline import ModelOutline, Outline, Pieces, by_characters


def config_outline(
    config: Mapping[str, Any], path: Path, weight_bytes: float, tokens: Callable[[str], float] = by_characters
) -> ModelOutline:
    """A model by its config.json (at ``path``). Raises UnsupportedArchitecture for a family without a row."""
    layout = layout_of(config, path)
    settings = layout.settings(config)
    return ModelOutline(shape_of(settings), bool(settings["tie_word_embeddings"]), weight_bytes, layout.gated, tokens)


def folder_outline(folder: Path, kind: str = "hf") -> Outline:
    """A Hugging Face or GPTQ folder. Bytes per weight follow from the files' sizes, less a float head or embedding.

    A family without a row in ``families.py`` (which some stages take all the same) has no sizes.
    """
    sizes = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    weights = sum(path.stat().st_size for path in weight_files(folder))
    config = read_config(folder)
    try:
        model = config_outline(config, folder, 0.0, folder_tokens(folder))
    except UnsupportedArchitecture:
        return Outline(kind, sizes)
    rest = model.parameters - model.linears
    stored = 4 if str(config.get("dtype") or config.get("torch_dtype")) == "float32" else 2
    share = weights / model.parameters if kind == "hf" else max(0.0, weights - stored * rest) / model.linears
    return Outline(kind, sizes, ModelOutline(model.shape, model.tied, share, model.gated, model.tokens))


def folder_tokens(folder: Path) -> Callable[[str], float]:
    """Counts tokens by the pieces of tokenizer.json; by characters where there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return by_characters
    pieces = (read_json(path).get("model") or {}).get("vocab") or []
    return Pieces(pieces if isinstance(pieces, dict) else [entry[0] for entry in pieces])
