"""The AutoGPTQ checkpoint, version 1 (``checkpoint_format: gptq``), of one linear of ``in`` inputs, ``out`` outputs.

========  ========  ==========================  ==========================================================
tensor    dtype     shape                       holds
========  ========  ==========================  ==========================================================
qweight   int32     [in · bits / 32, out]       codes, a little-endian bit stream down each column
qzeros    int32     [groups, out · bits / 32]   zero − 1, a little-endian bit stream along each row
scales    float16   [groups, out]
g_idx     int32     [in]                        group of each input: i // group_size
========  ========  ==========================  ==========================================================

weight[o, i] = scales[g, o] · (code[i, o] − zero[g, o]). A 3-bit code may straddle two words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import ArtifactError
from compress.quantize.gptq_math import Solution, decode
from compress.weights import Weights

if TYPE_CHECKING:
    import torch

PARTS = ("g_idx", "qweight", "qzeros", "scales")
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


def to_checkpoint(solution: Solution, bits: int) -> dict[str, torch.Tensor]:
    """The four tensors of a linear; what they decode to is asserted to be the solver's weights, bit for bit."""
    import torch

    inputs, groups = solution.codes.shape[0], solution.scales.shape[0]
    assert int(solution.zeros.min()) >= 1, "a stored zero of -1 is read in two ways"
    tensors = {
        "qweight": pack(solution.codes, bits),
        "qzeros": pack((solution.zeros - 1).T.contiguous(), bits).T.contiguous(),
        "scales": solution.scales.half(),
        "g_idx": (torch.arange(inputs) // (inputs // groups)).to(torch.int32),
    }
    assert torch.equal(from_checkpoint(tensors, bits), solution.weights().T), "packed weights differ"
    return tensors


def from_checkpoint(tensors: Mapping[str, torch.Tensor], bits: int) -> torch.Tensor:
    """The weight that the four tensors stand for, float32 ``[out, in]``, exact."""
    import torch

    codes = unpack(tensors["qweight"], bits)
    zeros = unpack(tensors["qzeros"].T.contiguous(), bits).T + 1
    scales, index = tensors["scales"].float(), tensors["g_idx"].long()
    groups = scales.shape[0]
    if torch.equal(index, torch.arange(len(index)) // (len(index) // groups)):
        return decode(codes, scales, zeros).T.contiguous()
    return ((codes.float() - zeros.float()[index]) * scales[index]).T.contiguous()


def quantization_config(bits: int, group_size: int, sym: bool, damp: float) -> dict[str, Any]:
    """What config.json (``quantization_config``) and quantize_config.json say."""
    return {
        "bits": bits,
        "checkpoint_format": "gptq",
        "damp_percent": damp,
        "desc_act": False,
        "group_size": group_size,
        "lm_head": False,
        "quant_method": "gptq",
        "sym": sym,
    }


def read_quantization(folder: Path) -> dict[str, Any]:
    """The quantization config of a GPTQ folder; ArtifactError if it is none or of another format."""
    file = folder / "config.json"
    config = json.loads(file.read_text()).get("quantization_config") if file.is_file() else None
    if not config or config.get("quant_method") != "gptq" or config.get("checkpoint_format", "gptq") != "gptq":
        raise ArtifactError(f"{folder} is not a GPTQ folder (AutoGPTQ format, version 1)", next="quantize it first")
    return dict(config)


def dequantize_folder(path: Path) -> dict[str, torch.Tensor]:
    """Every weight of a GPTQ folder in float32, keyed as in the unquantized model.

    Quantized linears are decoded exactly; other tensors are widened. For judging a GPTQ artifact in torch
    where no kernel for it is installed, and for exporting it.
    """
    weights = Weights(Path(path))
    bits = int(read_quantization(Path(path))["bits"])
    result: dict[str, torch.Tensor] = {}
    for name in weights.names():
        module, _, part = name.rpartition(".")
        if part == "qweight":
            result[f"{module}.weight"] = from_checkpoint({p: weights.load(f"{module}.{p}") for p in PARTS}, bits)
        elif part not in PARTS:
            result[name] = weights.load(name).float()
    return result
