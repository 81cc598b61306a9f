"""One way to ask any artifact for greedy replies and logits, whatever runs it.

======  ==================================================================================
kind    runner
======  ==================================================================================
hf      torch, float32 on the CPU (the checkpoint's own type on a CUDA device)
gptq    the same, on exactly dequantized weights: no kernel for the packed ones is needed
gguf    the runtime that ships (llama.cpp)
onnx    the runtime that ships (onnxruntime-genai)
bundle  the runtime that ships
======  ==================================================================================
"""

from __future__ import annotations

from pathlib import Path

from compress.errors import ArtifactError
from compress.validate.in_runtime import RuntimeRunner
from compress.validate.in_torch import GptqRunner, HfRunner
from compress.validate.runner import Runner
from runtime.engine.backends import BACKENDS

TORCH: dict[str, type[HfRunner]] = {"gptq": GptqRunner, "hf": HfRunner}
RUNTIME = ("bundle", *BACKENDS)


def open_runner(
    kind: str, path: Path, *, threads: int | None = None, many: bool = False, context: int | None = None
) -> Runner:
    """The runner for an artifact of ``kind`` at ``path``.

    ``many``: it will answer batches. ``context``: tokens that its prompts and replies are expected to need (a bundle
    opens at full size: it tests itself with prompts of its own).
    """
    if kind in TORCH:
        return TORCH[kind](path, threads=threads, many=many)
    if kind in RUNTIME:
        return RuntimeRunner(path, threads=threads, context=None if kind == "bundle" else context)
    raise ArtifactError(
        f"{path} is a {kind!r} artifact, which does not answer prompts",
        next=f"give one of {', '.join(sorted([*TORCH, *RUNTIME]))}",
    )
