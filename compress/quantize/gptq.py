"""Stage ``quantize.gptq``: hf -> gptq, block by block, in the AutoGPTQ checkpoint format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from compress.artifact import write_json
from compress.blocks import ModelFolder
from compress.calibrate import Calibration
from compress.errors import ArtifactError, UsageError
from compress.quantize.grids import IntGrid
from compress.quantize.packing import PARTS, PERIOD, quantization_config, to_checkpoint
from compress.stage import CalibratedParams, Job, Needs, Stage
from compress.weights import TensorSpec, Weights, copy_side_files, spec_of, write_model, write_tensors

if TYPE_CHECKING:
    import torch

    from compress.quantize.gptq_math import Solution


class GptqParams(CalibratedParams):
    """Parameters of ``quantize.gptq``."""

    bits: Literal[2, 3, 4, 8] = 4
    """Bits per weight of the block linears (embeddings, norms and head stay as they are)."""
    group_size: Literal[-1, 32, 64, 128] = 128
    """Inputs that share a scale; -1: all of an output channel's."""
    sym: bool = True
    """Fixed zero point in the middle (what most kernels want) instead of one per group."""
    act_order: bool = True
    """Quantize important inputs first, groups kept together (no g_idx shuffling, no cost at inference)."""
    damp: float = Field(0.01, gt=0, le=1)
    """Damping, as a fraction of the Hessian's mean diagonal; raised and reported where it does not suffice."""
    mse: int = Field(16, ge=1, le=100)
    """Ranges tried in the scale search that minimises the Hessian-weighted squared error; 1 turns it off."""


class Gptq(Stage[GptqParams]):
    """Reads the calibration pass of its input; see docs/compression.md for the format it writes."""

    Params = GptqParams
    accepts = frozenset({"hf"})
    produces = "gptq"
    calibrates = True
    modules: ClassVar[frozenset[str]] = frozenset({"torch"})
    libraries: ClassVar[frozenset[str]] = frozenset({"torch"})

    def needs(self, job: Job[GptqParams]) -> Needs:
        """The output (twice, with its checkpoints) and some copies of the widest Hessian."""
        if not job.inputs:
            return Needs()
        config = ModelFolder(job.input.path).config
        widest = max(int(config["hidden_size"]), int(config["intermediate_size"]))
        return Needs(disk_bytes=job.input.size_bytes(), ram_bytes=(400 << 20) + 20 * widest * widest)

    def check(self, job: Job[GptqParams]) -> None:
        """Known architecture, and shapes that the format can hold."""
        model = ModelFolder(job.input.path)
        for name in model.linears():
            check_shape(name, model.weights.spec(f"{name}.weight").shape, job.params.group_size)

    def run(self, job: Job[GptqParams]) -> Mapping[str, Any]:
        """Solve block by block; finished blocks are kept in the scratch folder."""
        import torch

        from compress.hessian import fast_products

        torch.set_num_threads(job.threads)
        if job.calibration is None:
            raise UsageError("quantize.gptq needs a calibration pass", next="give calibration data (JSONL)")
        model, calibration = ModelFolder(job.input.path), Calibration(job.calibration.path)
        with torch.inference_mode(), fast_products():
            for block in range(model.blocks):
                job.progress(block, model.blocks, f"GPTQ block {block}")
                file = _block_path(job.scratch, block)
                if not (file.is_file() and file.with_suffix(".json").is_file()):
                    _quantize_block(model, calibration, job.params, block, file)
        _write_folder(model, job)
        job.progress(model.blocks, model.blocks, "GPTQ written")
        return _facts(model, job)


def check_shape(name: str, shape: tuple[int, ...], group_size: int) -> None:
    """Raise UsageError explaining what would fit if a linear ``[out, in]`` cannot be packed in such groups."""
    out, width = shape
    if width % PERIOD or out % PERIOD:
        raise UsageError(
            f"{name} is {out} × {width}; the GPTQ format packs 32 codes at a time in both directions",
            next="use a model whose widths are multiples of 32",
        )
    if group_size != -1 and width % group_size:
        fits = [str(g) for g in (128, 64, 32) if width % g == 0]
        raise UsageError(
            f"{name} has {width} inputs, which group_size {group_size} does not divide",
            next=f"group_size that fits: {', '.join([*fits, '-1 (one group per channel)'])}",
        )


def _block_path(scratch: Path, block: int) -> Path:
    return scratch / f"block-{block:03d}.safetensors"


def _quantize_block(model: ModelFolder, calibration: Calibration, params: GptqParams, block: int, file: Path) -> None:
    tensors: dict[str, torch.Tensor] = {}
    report: dict[str, Any] = {}
    for group in model.layout.inputs:
        names = [model.name(block, linear) for linear in group]
        for name, solution in zip(names, _solve_group(model, calibration, params, names), strict=True):
            for part, tensor in to_checkpoint(solution, params.bits).items():
                tensors[f"{name}.{part}"] = tensor
            report[name] = {
                "damp": solution.damp,
                "error": float(solution.error.sum()),
                "energy": float(solution.energy.sum()),
            }
    write_tensors(file, tensors)
    write_json(file.with_suffix(".json"), report)


def _solve_group(model: ModelFolder, calibration: Calibration, params: GptqParams, names: list[str]) -> list[Solution]:
    """Linears that read one input, solved side by side and taken apart again."""
    import torch

    from compress.quantize.gptq_math import Solution, solve

    H = calibration.hessian(names[0])
    if not bool(H.isfinite().all()):
        raise ArtifactError(f"the Hessian of {names[0]} holds NaN or Inf", next="calibrate again")
    rows = [model.weights.load_finite(f"{name}.weight") for name in names]
    W = torch.cat(rows).T.contiguous()
    group = W.shape[0] if params.group_size == -1 else params.group_size
    grid = IntGrid(params.bits, params.sym, params.mse)
    whole = solve(W, H, grid, group, damp=params.damp, act_order=params.act_order)
    sizes = [row.shape[0] for row in rows]
    fields = (whole.codes, whole.scales, whole.zeros, whole.error, whole.energy)
    parts = zip(*(field.split(sizes, dim=-1) for field in fields), strict=True)
    return [
        Solution(codes.contiguous(), scales.contiguous(), zeros.contiguous(), whole.damp, error, energy)
        for codes, scales, zeros, error, energy in parts
    ]


def _write_folder(model: ModelFolder, job: Job[GptqParams]) -> None:
    """Assemble the model: packed linears from the scratch files, everything else as the source stores it."""
    packed = {f"{name}.weight" for name in model.linears()}
    places: dict[str, tuple[Weights, TensorSpec]] = {
        name: (model.weights, model.weights.spec(name)) for name in model.weights.names() if name not in packed
    }
    for block in range(model.blocks):
        weights = Weights(_block_path(job.scratch, block))
        places.update({name: (weights, weights.spec(name)) for name in weights.names()})
    write_model(job.out, [spec for _, spec in places.values()], lambda name: places[name][0].load(name))
    p = job.params
    quantization = quantization_config(p.bits, p.group_size, p.sym, p.damp)
    write_json(job.out / "config.json", {**model.config, "quantization_config": quantization})
    write_json(job.out / "quantize_config.json", quantization)
    copy_side_files(model.path, job.out)
    _read_back(job.out, places)


def _read_back(folder: Path, places: Mapping[str, tuple[Weights, TensorSpec]]) -> None:
    """The folder must hold exactly the solver's packed tensors."""
    import torch

    written = Weights(folder)
    for name, (source, spec) in places.items():
        tensor = written.load(name)
        assert spec_of(name, tensor) == spec, name
        if name.rpartition(".")[2] in PARTS and not torch.equal(tensor, source.load(name)):
            raise ArtifactError(f"{name} in {folder} differs from what was solved", next="check the disk and run again")


def _facts(model: ModelFolder, job: Job[GptqParams]) -> dict[str, Any]:
    report: dict[str, Any] = {}
    bits = weights = 0
    for block in range(model.blocks):
        file = _block_path(job.scratch, block)
        report.update(json.loads(file.with_suffix(".json").read_text()))
        packed = Weights(file)
        bits += sum(8 * packed.spec(name).size for name in packed.names() if not name.endswith(".g_idx"))
    for name in model.linears():
        weights += model.weights.spec(f"{name}.weight").elements
    kinds: dict[str, list[dict[str, float]]] = {}
    for name, entry in report.items():
        kinds.setdefault(name.rpartition(".")[2], []).append(entry)
    return {
        "bits_per_weight": round(bits / weights, 4),
        "relative_output_error": {kind: _relative(entries) for kind, entries in sorted(kinds.items())},
        "healed_damping": {n: e["damp"] for n, e in sorted(report.items()) if e["damp"] > job.params.damp},
    }


def _relative(entries: list[dict[str, float]]) -> float:
    """Mean over linears of ‖(W − Ŵ)X‖² / ‖WX‖², six digits."""
    return round(sum(e["error"] / max(e["energy"], 1e-30) for e in entries) / len(entries), 6)
