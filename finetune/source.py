"""Stages ``source.path`` and ``source.hf``: a base model from a folder or from the hub, checked before use.

Weights are read as safetensors only: a pickle (``pytorch_model.bin``) can run code when it is opened.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from compress.errors import ArtifactError, HoldfastError, UsageError
from compress.extras import need
from compress.stage import Job, Needs, Params, Stage

KEPT = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
    "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "model.safetensors.index.json",
    "LICENSE", "LICENSE.txt", "NOTICE",
)  # fmt: skip
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class PathParams(Params):
    path: Path
    """A Hugging Face folder: config.json, *.safetensors and a tokenizer."""


class PathSource(Stage[PathParams]):
    """Takes a model folder into the store."""

    Params = PathParams
    accepts = frozenset()
    produces = "hf"

    def needs(self, job: Job[PathParams]) -> Needs:
        return Needs(disk_bytes=sum(f.stat().st_size for f in job.params.path.glob("*.safetensors")))

    def check(self, job: Job[PathParams]) -> None:
        check_model_folder(job.params.path)

    def run(self, job: Job[PathParams]) -> Mapping[str, Any]:
        weights = check_model_folder(job.params.path)
        return take(job.params.path, weights, job)


class HubParams(Params):
    hf: str = Field(pattern=r"^[\w.\-]+/[\w.\-]+$")
    """Repository on the hub: ``organisation/name``."""
    revision: str = Field(min_length=1)
    """Commit, tag or branch. A commit makes the run repeatable."""


class HubSource(Stage[HubParams]):
    """Downloads configuration, tokenizer and safetensors of one revision."""

    Params = HubParams
    accepts = frozenset()
    produces = "hf"
    modules = frozenset({"transformers"})

    def run(self, job: Job[HubParams]) -> Mapping[str, Any]:
        folder = download(job.params.hf, job.params.revision, job.scratch / "hub")
        return take(folder, check_model_folder(folder), job) | {"repository": job.params.hf}


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
    job.progress(len(files), len(files))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {
        "architecture": (config.get("architectures") or [config.get("model_type")])[0],
        "weight_files": len(weights),
    }


def download(repository: str, revision: str, folder: Path) -> Path:
    """The files of one revision that are needed, resumable in ``folder``."""
    need("transformers")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(
            snapshot_download(repository, revision=revision, local_dir=folder, allow_patterns=[*KEPT, "*.safetensors"])
        )
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = f"{repository}@{revision} is not on the hub, or needs a login: {str(error).splitlines()[0]}"
        raise UsageError(what, next="check the name and the revision, or run: hf auth login") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        what = f"cannot fetch {repository}@{revision}: {type(error).__name__}: {str(error).splitlines()[0]}"
        hint = "check the network, or use source: {path: {path: FOLDER}} with a downloaded model"
        raise HoldfastError(what, next=hint) from None
