"""Weights for block formats, their values computed plainly, and the readers that exist of them."""

import ctypes

import gguf
import torch

from compress.quantize.kformats import FORMATS
from export.gguf import ggml

GGML = [kind for kind in FORMATS if not kind.startswith("NF4")]
OUT = 96


def values(codes, grid, steps):
    """scale · level(code) + offset, period by period; float32 ``[in, out]``."""
    rows = []
    for part, s in zip(codes.split(grid.period), steps, strict=True):
        level = part.float() if grid.levels is None else grid.levels[part.long()]
        level = level.view(s.scale.shape[0], -1, level.shape[1])
        rows.append((s.scale[:, None] * level + s.offset[:, None]).view(part.shape))
    return torch.cat(rows)


def nearest(w, grid, steps):
    """Codes of least distance among all, uint8 ``[in, out]``."""
    every = torch.stack([values(torch.full(w.shape, c, dtype=torch.uint8), grid, steps) for c in range(grid.top + 1)])
    return (every - w).abs_().argmin(0).to(torch.uint8)


def fit(w, h, grid):
    return [grid.fit(a, b) for a, b in zip(w.split(grid.period), h.split(grid.period), strict=True)]


def read(packed, kind):
    """As the gguf package reads it: float32 ``[in, out]``."""
    return torch.from_numpy(gguf.quants.dequantize(packed.numpy(), gguf.GGMLQuantizationType[kind])).T


def read_by_ggml(packed, kind, inputs):
    """As ggml itself reads it: float32 ``[in, out]``."""
    name = kind.lower().replace("_k", "_K")
    function = getattr(ggml.library(), f"dequantize_row_{name}")
    function.restype, function.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    result = torch.empty(packed.shape[0], inputs)
    function(packed.data_ptr(), result.data_ptr(), result.numel())
    return result.T


def weights(name, shared_data=None):
    g = torch.Generator().manual_seed(7)
    if name == "gaussian":
        return torch.randn(256, OUT, generator=g) * 0.02
    if name == "heavy":  # Student's t of three degrees of freedom
        return torch.randn(256, OUT, generator=g) / torch.randn(3, 256, OUT, generator=g).square_().mean(0).sqrt_() / 50
    from safetensors import safe_open

    with safe_open(shared_data / "models" / "m7" / "model.safetensors", "pt") as file:
        names = [f"model.layers.{i}.{n}.weight" for i in (0, 7) for n in ("mlp.gate_proj", "self_attn.o_proj")]
        return torch.cat([file.get_tensor(n)[:OUT].float() for n in names]).T.contiguous()


def importance(inputs, seed=0):
    return torch.randn(inputs, generator=torch.Generator().manual_seed(seed)).exp_()


def error(value, w, h):
    return float(((value - w).square() * h[:, None]).sum())
