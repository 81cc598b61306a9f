"""The one table of inference backends: kind of model -> where its class is. Imported on first use."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import NamedTuple

from ...errors import ArtifactError, MissingExtra, UsageError
from .base import Backend


class Row(NamedTuple):
    """One backend."""

    module: str
    """In this package."""
    attribute: str
    """Its class."""
    needs: str
    """Import name of its engine."""
    extra: str
    """What brings the engine."""
    engine: str
    distributions: tuple[str, ...]
    """Whose versions shape what it answers, the engine's first."""


BACKENDS = {
    "gguf": Row("llama", "LlamaBackend", "llama_cpp", "gguf", "llama.cpp", ("llama-cpp-python",)),
    "onnx": Row(
        "genai",
        "GenaiBackend",
        "onnxruntime_genai",
        "onnx",
        "onnxruntime-genai",
        ("onnxruntime-genai", "onnxruntime"),
    ),
}
"""Kind of model -> its backend."""
assert list(BACKENDS) == sorted(BACKENDS), "keep the table in order"


def open_backend(
    kind: str, path: Path, *, threads: int | None, slots: int, context: int | None, **more: str
) -> Backend:
    """Load the model at ``path``; ``more``: what this kind of backend alone takes (``kv`` of llama.cpp).
    MissingExtra names the pip command when the engine is not installed."""
    if kind not in BACKENDS:
        raise ArtifactError(f"no backend runs a model of kind {kind!r}", next="known: " + ", ".join(BACKENDS))
    row = BACKENDS[kind]
    if more and kind != "gguf":
        raise UsageError(f"{row.engine} has no setting {', '.join(more)}", next="leave it out; it is llama.cpp's")
    # Read when the engine's OpenMP loads: threads that spin long at a barrier starve on a machine that does other
    # work too (a 361-token prompt on two cores beside one busy process: 12 s, with this 0.3 to 1.2 s).
    # The active policy keeps a short spin where the application has OpenMP threads of its own.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")
    try:
        importlib.import_module(row.needs)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == row.needs:
            raise MissingExtra(row.needs, row.extra) from None
        raise
    module = importlib.import_module(f".{row.module}", __name__)
    backend: Backend = getattr(module, row.attribute)(path, threads=threads, slots=slots, context=context, **more)
    return backend
