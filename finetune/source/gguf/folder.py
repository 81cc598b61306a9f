"""A GGUF model as a Hugging Face folder, for the stages that find one: checked whole before anything is written."""

from __future__ import annotations

import collections
import itertools
import math
import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from compress.costs import WORKER, Work
from compress.model.outline import config_outline
from compress.model.weights import write_model
from compress.outline import Outline, Pieces, folder_outline
from compress.stage import Job, JobOutline, Needs, Params, Stage
from export.gguf.ggml import PLAIN
from export.gguf.layout import Layout
from finetune.source.gguf import tokenizer
from finetune.source.gguf.backend import check
from finetune.source.gguf.config import config_of
from finetune.source.gguf.parts import GgufParts, part_files, read_parts
from finetune.source.gguf.weights import EXACT, SLAB, Origin, load, origins, slabs, survives

DTYPES = {"bfloat16": "BF16", "float32": "F32"}
ENTRY_S = 6e-5
"""Seconds of the interpreter for an entry of the vocabulary: read, written, and asked of llama.cpp."""
WEIGHT_MOVED = 40
"""Bytes moved for a weight: dequantized twice, looked at, rounded, written, hashed."""


class GgufFileParams(Params):
    """What the stages that read a GGUF have in common."""

    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """How weights are stored. ``auto``: bfloat16, but float32 where the file keeps floats that bfloat16 would round."""


@dataclass(frozen=True)
class GgufModel:
    """A file (or its parts) whose header makes a model that is known here."""

    parts: GgufParts
    config: Mapping[str, Any]
    layout: Layout
    origins: list[Origin]


def open_model(path: Path) -> GgufModel:
    """Read and check all but the values of the weights. Raises ArtifactError or UnsupportedArchitecture."""
    parts = read_parts(path)
    config, layout = config_of(parts)
    check(parts, layout.vocab)
    return GgufModel(parts, config, layout, origins(parts, layout))


def outline(path: Path, params: GgufFileParams) -> Outline:
    """The folder by the header. Under ``auto`` a file of floats counts as float32: its values are not looked at."""
    parts = read_parts(path)
    config, _ = config_of(parts)
    check(parts, config["vocab_size"])
    wide = params.dtype == "float32" or (params.dtype == "auto" and mostly(parts) in EXACT)
    pieces = Pieces(parts.metadata["tokenizer.ggml.tokens"])
    return folder_outline(config_outline(config, path, 4.0 if wide else 2.0, pieces))


def needs(path: Path, params: GgufFileParams) -> Needs:
    """Memory: the largest tensor as it is stored, twice, and a slab of float32."""
    found = outline(path, params)
    model = found.sizes
    largest = max(math.prod(tensor.shape) for _, tensor in read_parts(path).tensors.values())
    work = Work(python=ENTRY_S * model.shape.vocab, moved=WEIGHT_MOVED * model.parameters)
    return Needs(found.disk_bytes, int(WORKER + 2 * model.weight_bytes * largest + 4 * SLAB), work)


def mostly(parts: GgufParts) -> str:
    """The type that holds most weights."""
    weights = collections.Counter[str]()
    for _, tensor in parts.tensors.values():
        weights[tensor.kind] += math.prod(tensor.shape)
    return weights.most_common(1)[0][0]


def write_folder(path: Path, job: Job[Any]) -> dict[str, Any]:
    """Write the folder of ``path`` into ``job.out`` and return its facts.

    Configuration and tokenizer come first, and the tokenizer must split texts as llama.cpp splits them with this very
    file; then every weight is looked at; only then are weights written, shard by shard: a run that was killed goes on
    after the last whole one.
    """
    model = open_model(path)
    folder = job.scratch / "folder"
    folder.mkdir(exist_ok=True)
    dtype = survey(model, job)
    tokens = tokenizer.write(model.parts, folder, model.config, dtype)
    _write_weights(model, folder, dtype, job)
    for file in sorted(folder.iterdir()):
        shutil.move(file, job.out / file.name)
    return _facts(model, dtype) | {"tokenizer": tokens}


def survey(model: GgufModel, job: Job[Any]) -> str:
    """Look at every weight once and return the type to store them in. Raises ArtifactError for NaN and infinity."""
    wanted: str = job.params.dtype
    exact = wanted == "auto" and mostly(model.parts) in EXACT
    rounds = False
    for number, origin in enumerate(model.origins, 1):
        for _, values in slabs(model.parts, origin, job.threads) if origin.stored else ():
            rounds = rounds or (exact and not survives(values))
        job.progress(number, 2 * len(model.origins), f"looking at {origin.stored or origin.name}")
    return wanted if wanted != "auto" else "float32" if rounds else "bfloat16"


def _write_weights(model: GgufModel, folder: Path, dtype: str, job: Job[Any]) -> None:
    import torch

    by_name, count = {origin.name: origin for origin in model.origins}, len(model.origins)
    steps = itertools.count(count + 1)

    def read(name: str) -> torch.Tensor:
        job.progress(next(steps), 2 * count, name)
        return load(model.parts, by_name[name], getattr(torch, dtype), job.threads)

    specs = [origin.spec(DTYPES[dtype]) for origin in model.origins]
    write_model(folder, specs, read, resume=True)


def _facts(model: GgufModel, dtype: str) -> dict[str, Any]:
    tensors = [tensor for _, tensor in model.parts.tensors.values()]
    weights = sum(math.prod(tensor.shape) for tensor in tensors)
    return {
        "architecture": model.config["architectures"][0],
        "parameters": sum(math.prod(origin.shape) for origin in model.origins),
        "dtype": dtype,
        "from": {
            "architecture": model.parts.architecture,
            "files": [file.name for file in model.parts.files],
            "name": model.parts.metadata.get("general.name"),
            "licence": model.parts.metadata.get("general.license"),
            "tensor_types": dict(sorted(collections.Counter(tensor.kind for tensor in tensors).items())),
            "bits_per_weight": round(sum(tensor.nbytes for tensor in tensors) * 8 / weights, 3),
            "rounded": any(tensor.kind not in PLAIN for tensor in tensors),
        },
    }


P = TypeVar("P", bound=GgufFileParams)


class FileSource(Stage[P]):
    """Turns the GGUF model that ``find`` names into a Hugging Face folder."""

    accepts = frozenset()
    produces = "hf"
    modules = frozenset({"llama_cpp", "torch", "transformers"})
    libraries = frozenset({"llama-cpp-python"})

    @abstractmethod
    def find(self, params: P) -> Path:
        """The file, or a part of one that is split."""

    def files(self, params: P) -> Sequence[Path]:
        """The parts."""
        return part_files(self.find(params))

    def outline(self, job: JobOutline[P]) -> Outline:
        return outline(self.find(job.params), job.params)

    def needs(self, job: JobOutline[P]) -> Needs:
        return needs(self.find(job.params), job.params)

    def check(self, job: Job[P]) -> None:
        open_model(self.find(job.params))

    def run(self, job: Job[P]) -> Mapping[str, Any]:
        return write_folder(self.find(job.params), job)
