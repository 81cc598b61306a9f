"""Optional dependencies: one wording for a missing one, their versions, and how folders are given to transformers."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from compress.errors import MissingExtra

LOCAL: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""How folders are given to transformers: nothing is fetched; code that lies in them is neither run nor asked about."""
# import name -> extra of this distribution that brings it
EXTRA_OF = {
    "accelerate": "train",
    "bitsandbytes": "train",
    "datasets": "train",
    "gguf": "gguf",
    "llama_cpp": "gguf",
    "mlflow": "logs",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxruntime_genai": "onnx",
    "optuna": "search",
    "peft": "train",
    "safetensors": "train",
    "sentencepiece": "train",
    "sqlalchemy": "logs",
    "starlette": "serve",
    "tensorboard": "logs",
    "tokenizers": "train",
    "torch": "train",
    "transformers": "train",
    "trl": "train",
    "uvicorn": "serve",
}
assert list(EXTRA_OF) == sorted(EXTRA_OF), "keep the table in order"


def need(module: str) -> ModuleType:
    """Import ``module`` or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == module.split(".")[0]:
            raise MissingExtra(module, EXTRA_OF[module.split(".")[0]]) from None
        raise


def versions_of(distributions: Iterable[str]) -> dict[str, str]:
    """Distribution -> the version that is installed, or ``absent``: part of a digest of what shapes bytes."""
    return {name: _version(name) for name in distributions}


def installed(distributions: Iterable[str]) -> dict[str, str]:
    """Distribution -> the version that is installed; absent ones are left out."""
    return {name: version for name, version in versions_of(distributions).items() if version != "absent"}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def missing(modules: frozenset[str]) -> list[str]:
    """The modules of ``modules`` that are not installed; imports nothing."""
    return sorted(name for name in modules if importlib.util.find_spec(name) is None)
