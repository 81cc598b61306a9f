"""A model folder that somebody else wrote: checked, then taken into the store.

Weights are read as safetensors only: a pickle (``pytorch_model.bin``) can run code when it is opened.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.chat_files import copy_named_templates
from compress.errors import ArtifactError, UsageError
from compress.stage import Job

KEPT = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
    "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "model.safetensors.index.json",
    "LICENSE", "LICENSE.txt", "NOTICE",
)  # fmt: skip
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def check_model_folder(folder: Path) -> list[Path]:
    """The weight files of a usable model folder, in order. Raises saying what is missing or refused."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", next="give source.path the folder that holds config.json")
    _check_config(folder / "config.json")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ArtifactError(f"{folder} has no tokenizer", next="add tokenizer.json (tokenizer.save_pretrained)")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
        if pickles:
            raise ArtifactError(
                f"{folder} holds pickled weights ({pickles[0]}), which can run code when opened; they are not read",
                next="convert them where you trust them: model.save_pretrained(folder, safe_serialization=True)",
            )
        raise ArtifactError(f"{folder} has no *.safetensors", next="finish the download or save the model again")
    _check_complete(folder, weights)
    return weights


def _check_config(path: Path) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing", next="give a Hugging Face model folder") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read ({error})", next="download that file again") from None
    if not isinstance(config, dict) or not (config.get("architectures") or config.get("model_type")):
        raise ArtifactError(f"{path} names no architecture", next='it needs "model_type" and "architectures"')
    if config.get("quantization_config"):
        raise ArtifactError(f"{path}: the model is already quantized", next="start from the full-precision model")


def _check_complete(folder: Path, weights: list[Path]) -> None:
    index = folder / "model.safetensors.index.json"
    wanted: Mapping[str, str] = json.loads(index.read_text())["weight_map"] if index.is_file() else {}
    missing = sorted(set(wanted.values()) - {path.name for path in weights})
    if missing:
        raise ArtifactError(f"{folder} lacks {', '.join(missing)}, named in {index.name}", next="finish the download")
    held = {name for path in weights for name in tensor_names(path)}
    absent = sorted(set(wanted) - held)
    if absent:
        raise ArtifactError(
            f"{folder}: tensor {absent[0]} of {index.name} is in no file", next="download the weights again"
        )


def tensor_names(path: Path) -> list[str]:
    """Names in a safetensors file; checks that the file is as long as its header says."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(length)) if length <= size else None
        entries = {k: v for k, v in (header or {}).items() if k != "__metadata__"}
        end = 8 + length + max((v["data_offsets"][1] for v in entries.values()), default=0)
    except (struct.error, ValueError, KeyError, TypeError, IndexError):
        entries, end = {}, -1
    if end != size:
        raise ArtifactError(f"{path} is cut short or is not a safetensors file", next="download that file again")
    return sorted(entries)


def take(folder: Path, weights: list[Path], job: Job[Any]) -> dict[str, Any]:
    """Copy what is needed into the artifact: configuration, tokenizer, weights, licence; never code."""
    files = [folder / name for name in KEPT if (folder / name).is_file()] + weights
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
