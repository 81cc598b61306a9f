"""What tests of pruned folders share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def load(folder: Path) -> Any:
    """The folder in transformers, float32; every tensor of it is used and none is missing."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model.eval()


def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """Float32 ``[windows, positions, vocabulary]`` by transformers."""
    with torch.no_grad():
        return load(folder)(ids).logits


def altered(folder: Path, target: Path, change: Any) -> Path:
    """A copy of a model folder with ``change`` applied to its dict of tensors."""
    from safetensors.torch import load_file, save_file

    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def perplexity(folder: Path, text: Path, windows: int = 16, length: int = 256) -> float:
    """By transformers, on the first windows of a JSONL file."""
    from compress.windows import calibration_windows

    ids = calibration_windows(folder, text, windows * length, length)
    model = load(folder)
    with torch.no_grad():
        return float(torch.stack([model(i[None], labels=i[None]).loss for i in ids]).mean().exp())
