"""A model folder that somebody else wrote: checked, then taken into the store.

Weights are read as safetensors only: a pickle (``pytorch_model.bin``) can run code when it is opened.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from compress.chat_files import copy_named_templates
from compress.errors import ArtifactError, UsageError
from compress.model.files import INDEX, is_indexed, weight_files
from compress.model.tensors import held
from compress.model.weights import SIDE_FILES
from compress.stage import Job

KEPT = ("config.json", *SIDE_FILES)
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def check_model_folder(folder: Path) -> list[Path]:
    """The weight files of a usable model folder, in order: those that transformers would load.

    Raises saying what is missing, left over or refused.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", next="give source.path the folder that holds config.json")
    _check_config(folder / "config.json")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ArtifactError(f"{folder} has no tokenizer", next="add tokenizer.json (tokenizer.save_pretrained)")
    weights = weight_files(folder)
    held(folder)
    return weights


def _check_config(path: Path) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing", next="give a Hugging Face model folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read ({error})", next="download that file again") from None
    if not isinstance(config, dict) or not (config.get("architectures") or config.get("model_type")):
        raise ArtifactError(f"{path} names no architecture", next='it needs "model_type"')
    if config.get("quantization_config"):
        raise ArtifactError(f"{path}: the model is already quantized", next="start from the full-precision model")


def take(folder: Path, weights: list[Path], job: Job[Any]) -> dict[str, Any]:
    """Copy what is needed into the artifact: configuration, tokenizer, weights, licence; never code."""
    kept = [*KEPT, INDEX] if is_indexed(folder) else KEPT
    files = [folder / name for name in kept if (folder / name).is_file()] + weights
    for done, path in enumerate(files):
        job.progress(done, len(files), path.name)
        shutil.copyfile(path, job.out / path.name)
    copy_named_templates(folder, job.out)
    job.progress(len(files), len(files))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {
        "architecture": (config.get("architectures") or [config.get("model_type")])[0],
        "weight_files": len(weights),
    }
