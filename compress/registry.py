"""The one table of stages: name -> dotted class. Imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from compress.errors import UsageError

if TYPE_CHECKING:
    from compress.stage import Stage

STAGES = {
    "calibrate": "compress.calibrate.stage:Calibrate",
    "data.files": "finetune.data.stage:FilesData",
    "data.world": "finetune.world.stage:WorldData",
    "export.bundle": "export.bundle.stage:ExportBundle",
    "export.gguf": "export.gguf.stage:ExportGguf",
    "export.imatrix": "export.gguf.imatrix_stage:ExportImatrix",
    "export.onnx": "export.onnx.stage:ExportOnnx",
    "export.parity": "export.parity.stage:ExportParity",
    "finetune.dpo": "finetune.train.dpo:Dpo",
    "finetune.kto": "finetune.train.kto:Kto",
    "finetune.orpo": "finetune.train.orpo:Orpo",
    "finetune.reinforce": "finetune.reinforce.stage:Reinforce",
    "finetune.sft": "finetune.train.sft:Sft",
    "finetune.simpo": "finetune.train.simpo:Simpo",
    "finetune.ulma": "finetune.train.ulma:Ulma",
    "finetune.vocabulary": "finetune.train.vocabulary:Vocabulary",
    "prune.depth": "compress.prune.depth:DepthPrune",
    "prune.sparse": "compress.prune.sparse:SparsePrune",
    "prune.width": "compress.prune.width:WidthPrune",
    "quantize.gptq": "compress.quantize.gptq:Gptq",
    "source.gguf": "finetune.source.gguf.stage:GgufSource",
    "source.hf": "finetune.source.hf:HubSource",
    "source.package": "finetune.source.gguf.package:PackageSource",
    "source.path": "finetune.source.path:PathSource",
    "source.tiny": "finetune.source.tiny:TinySource",
    "validate": "compress.validate.stage:Validate",
}
assert list(STAGES) == sorted(STAGES), "keep the table in order"


def nearest(word: str, known: list[str]) -> str:
    """`` (did you mean 'x'?)`` or an empty string."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1) or [name for name in known if name in word.split("_")]
    return f" (did you mean {close[0]!r}?)" if close else ""


def load_stage(name: str) -> Stage[Any]:
    """The stage called ``name``."""
    if name not in STAGES:
        raise UsageError(f"unknown stage {name!r}{nearest(name, list(STAGES))}", next="known: " + ", ".join(STAGES))
    module, _, attribute = STAGES[name].partition(":")
    stage: Stage[Any] = getattr(importlib.import_module(module), attribute)()
    return stage
