"""Types of a model's block linears within a budget of bytes, each priced by what it costs in KL divergence."""

from __future__ import annotations

import collections
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.json_files import write_json
from compress.quantize.budget import budget_bytes_of
from compress.quantize.choose import choose_kinds
from export.gguf import ggml, mix
from export.gguf.plan import Planned

if TYPE_CHECKING:
    import torch

    from compress.stage import Job
    from export.gguf.params import GgufParams

SLAB = 2**22
"""Weights rounded at a time."""


def mixed(job: Job[GgufParams], plan: Sequence[Planned], header_bytes: int) -> list[Planned]:
    """``plan`` with other types for the block linears, as the job's budget allows; chosen once, kept in the scratch
    folder. Without a budget the linears take the bytes that they take in ``plan``."""
    file = job.scratch / "types.json"
    if not file.is_file():
        _choose(job, plan, header_bytes, file)
    kinds = json.loads(file.read_text())
    return [replace(p, kind=kinds.get(p.name, p.kind)) for p in plan]


def _choose(job: Job[GgufParams], plan: Sequence[Planned], header_bytes: int, file: Path) -> None:
    """Write tensor name -> type."""
    linears = _linears(plan)
    fixed = header_bytes + sum(p.stored_bytes for p in plan) - sum(p.stored_bytes for p in linears.values())
    weights = sum(p.rows * p.columns for p in linears.values())
    params = job.params
    if params.budget_mb is None and params.bits_per_weight is None:
        budget = sum(p.nbytes for p in linears.values())
    else:
        budget = budget_bytes_of(params.budget_mb, params.bits_per_weight, weights, fixed)

    def offers(module: str) -> dict[str, Any]:
        planned = linears[module]
        kinds = dict.fromkeys(mix.fitting(kind, planned.columns) for kind in params.choose)
        return {
            kind: (partial(rounded, kind=kind, threads=job.threads), replace(planned, kind=kind).nbytes)
            for kind in kinds
        }

    chosen = choose_kinds(job, offers, list(linears), budget)
    write_json(file, {linears[module].name: kind for module, kind in chosen.items()})


def _linears(plan: Sequence[Planned]) -> dict[str, Planned]:
    """Hugging Face module -> tensor, of block linears that are one whole tensor of the file each."""
    inside = [(p.tensor.module, p) for p in plan if p.tensor and p.name.startswith("blk.") and len(p.shape) == 2]
    times = collections.Counter(module for module, _ in inside)
    return {module: p for module, p in inside if times[module] == 1 and p.importance is not None}


def rounded(W: torch.Tensor, h: torch.Tensor, *, kind: str, threads: int) -> torch.Tensor:
    """W float32 ``[out, in]`` as ggml rounds it to ``kind`` with the importance h float32 ``[in]``."""
    import torch
    from gguf import GGMLQuantizationType, quants

    importance, stored = np.ascontiguousarray(h.numpy()), GGMLQuantizationType(ggml.TYPE_IDS[kind])

    def part(rows: torch.Tensor) -> torch.Tensor:
        blocks = ggml.quantize(rows.numpy(), kind, importance, threads=threads)
        return torch.from_numpy(np.asarray(quants.dequantize(blocks, stored), dtype=np.float32)).reshape(rows.shape)

    return torch.cat([part(rows) for rows in W.split(max(1, SLAB // W.shape[1]))])
