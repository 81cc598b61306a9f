"""The AutoGPTQ checkpoint, version 1 (``checkpoint_format: gptq``), of one linear of ``in`` inputs, ``out`` outputs.

========  ========  ==========================  ==========================================================
tensor    dtype     shape                       holds
========  ========  ==========================  ==========================================================
qweight   int32     [in · bits / 32, out]       codes, a little-endian bit stream down each column
qzeros    int32     [groups, out · bits / 32]   zero − 1, a little-endian bit stream along each row
scales    float16   [groups, out]
g_idx     int32     [in]                        group of each input: i // group_size but for desc_act
========  ========  ==========================  ==========================================================

weight[o, i] = scales[g, o] · (code[i, o] − zero[g, o]). A 3-bit code may straddle two words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import ArtifactError
from compress.model.coded import PARTS, bits_in, require_groups
from compress.model.families import LAYOUTS
from compress.model.tensors import held
from compress.model.weights import Weights
from compress.quantize.grids import IntGrid
from compress.quantize.problem import Solution

if TYPE_CHECKING:
    import torch

PERIOD = 32
"""Codes after which the bit stream is at a word boundary, whatever the bits."""


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 ``[n, m]``, n a multiple of 32 -> int32 ``[n · bits / 32, m]``."""
    import torch

    n, m = codes.shape
    assert n % PERIOD == 0, n
    periods = codes.view(-1, PERIOD, m)
    words = torch.zeros(n // PERIOD, bits, m, dtype=torch.int64)
    for i in range(PERIOD):
        word, shift = divmod(i * bits, 32)
        code = periods[:, i].long()
        words[:, word] |= code << shift
        if shift + bits > 32:
            words[:, word + 1] |= code >> (32 - shift)
    words &= 0xFFFFFFFF
    words -= (words >> 31) << 32  # the same 32 bits as a signed number
    return words.view(-1, m).to(torch.int32)


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of ``pack``: int32 ``[n · bits / 32, m]`` -> uint8 ``[n, m]``."""
    import torch

    m = words.shape[1]
    wide = (words.long() & 0xFFFFFFFF).view(-1, bits, m)
    codes = torch.empty(wide.shape[0], PERIOD, m, dtype=torch.uint8)
    for i in range(PERIOD):
        word, shift = divmod(i * bits, 32)
        code = wide[:, word] >> shift
        if shift + bits > 32:
            code = code | (wide[:, word + 1] << (32 - shift))
        codes[:, i] = (code & (2**bits - 1)).to(torch.uint8)
    return codes.view(-1, m)


def to_checkpoint(solution: Solution) -> dict[str, torch.Tensor]:
    """The four tensors of a linear; read back, they are asserted to be the solver's codes, zeros and scales."""
    import torch

    assert isinstance(solution.grid, IntGrid)
    bits, scales, index = solution.grid.bits, solution.steps.scale, solution.index
    zeros = solution.steps.fields[0].to(torch.uint8)
    assert int(zeros.min()) >= 1, "a stored zero of -1 is read in two ways"
    tensors = {
        "qweight": pack(solution.codes.cpu(), bits),
        "qzeros": pack((zeros - 1).T.contiguous().cpu(), bits).T.contiguous(),
        "scales": scales.half().cpu(),
        "g_idx": index.to(torch.int32).cpu(),
    }
    assert torch.equal(unpack(tensors["qweight"], bits), solution.codes.cpu()), "packed codes differ"
    assert torch.equal(unpack(tensors["qzeros"].T.contiguous(), bits).T + 1, zeros.cpu()), "packed zeros differ"
    assert torch.equal(tensors["scales"].float(), scales.cpu()), "stored scales differ"
    return tensors


def stored_weights(solution: Solution) -> torch.Tensor:
    """What ``from_checkpoint`` makes of the solution, float32 ``[out, in]``."""
    zeros, scales = solution.steps.fields[0], solution.steps.scale
    return (solution.codes - zeros[solution.index]).mul_(scales[solution.index]).T.contiguous()


def from_checkpoint(tensors: Mapping[str, torch.Tensor], bits: int) -> torch.Tensor:
    """The weight that the four tensors stand for, float32 ``[out, in]``, exact."""
    codes = unpack(tensors["qweight"], bits)
    zeros = unpack(tensors["qzeros"].T.contiguous(), bits).T + 1
    scales, index = tensors["scales"].float(), tensors["g_idx"].long()
    return (codes.float() - zeros.float()[index]).mul_(scales[index]).T.contiguous()


def read_quantization(folder: Path) -> dict[str, Any]:
    """The quantization config of a GPTQ folder; ArtifactError if it is none or of another format."""
    file = folder / "config.json"
    config = json.loads(file.read_text()).get("quantization_config") if file.is_file() else None
    if not config or config.get("quant_method") != "gptq" or config.get("checkpoint_format", "gptq") != "gptq":
        raise ArtifactError(f"{folder} is not a GPTQ folder (AutoGPTQ format, version 1)", next="quantize it first")
    return dict(config)


def dequantize_folder(path: Path) -> dict[str, torch.Tensor]:
    """Every weight of a GPTQ folder in float32, keyed and oriented as in the unquantized model.

    Quantized linears are decoded exactly; other tensors are widened. For judging a GPTQ artifact in torch
    where no kernel for it is installed, and for exporting it.
    """
    model, config = held(path), read_quantization(path)
    weights, row = Weights(path, model.entries), LAYOUTS.get(str(model.config.get("model_type")))
    result: dict[str, torch.Tensor] = {}
    for name in weights.names():
        module, _, part = name.rpartition(".")
        if part == "qweight":
            parts = {p: weights.load_sound(f"{module}.{p}") for p in PARTS}
            index = parts["g_idx"]
            require_groups(module, int(index.min()), int(index.max()), len(parts["scales"]))
            W = from_checkpoint(parts, bits_in(config, module))
            turned = row is not None and row.conv1d and module != row.head
            result[f"{module}.weight"] = W.T.contiguous() if turned else W
        elif part not in PARTS:
            result[name] = weights.load_finite(name)
    return result
