"""Round-to-nearest GPTQ folders in AutoGPTQ's layout (v1: qzeros hold z - 1), for tests of the exporters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np


def pack_rows(codes: np.ndarray, bits: int) -> np.ndarray:
    """[n, m] small codes -> int32 [n * bits / 32, m]; the first row lies in the lowest bits."""
    per = 32 // bits
    parts = (
        codes.reshape(-1, per, codes.shape[1]).astype(np.uint32) << (np.arange(per, dtype=np.uint32) * bits)[:, None]
    )
    return np.ascontiguousarray(np.bitwise_or.reduce(parts, axis=1)).view(np.int32)


def quantize(weight: np.ndarray, bits: int, group: int, symmetric: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """float32 [out, in] -> AutoGPTQ tensors and the float32 weight they stand for."""
    out, columns = weight.shape
    blocks = weight.reshape(out, columns // group, group)
    top = 2**bits - 1
    if symmetric:
        scale = 2 * np.abs(blocks).max(2) / top
        zero = np.full(scale.shape, 2 ** (bits - 1), dtype=np.int64)
    else:
        low, high = np.minimum(blocks.min(2), 0), np.maximum(blocks.max(2), 0)
        scale = (high - low) / top
        zero = np.clip(np.rint(-low / scale), 1, top).astype(np.int64)
    scale = scale.astype(np.float16)
    wide = scale.astype(np.float32)
    codes = np.clip(np.rint(blocks / wide[..., None]) + zero[..., None], 0, top).astype(np.int64)
    plain = ((codes - zero[..., None]) * wide[..., None]).reshape(out, columns).astype(np.float32)
    tensors = {
        "qweight": pack_rows(codes.reshape(out, columns).T, bits),
        "qzeros": np.ascontiguousarray(pack_rows(zero - 1, bits).T),
        "scales": np.ascontiguousarray(scale.T),
        "g_idx": (np.arange(columns) // group).astype(np.int32),
    }
    return tensors, plain


def write_gptq(
    source: Path, folder: Path, *, bits: int = 4, group: int = 32, symmetric: bool = True
) -> dict[str, np.ndarray]:
    """Quantize every block linear of ``source`` into ``folder``; returns the weights it stands for, by name."""
    from safetensors.numpy import load_file, save_file

    from export.checkpoint import Checkpoint

    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    checkpoint, stored, plain = Checkpoint(source), {}, {}
    for name in checkpoint.names():
        shape = checkpoint.shape(name)
        values = checkpoint.rows(name, 0, shape[0] if len(shape) == 2 else 1).reshape(shape)
        if name.endswith("_proj.weight"):
            tensors, plain[name] = quantize(values, bits, group, symmetric)
            stored |= {name.removesuffix("weight") + part: value for part, value in tensors.items()}
        else:
            stored[name] = plain[name] = values
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_file(folder / "model.safetensors").keys() == stored.keys()
    config = json.loads((folder / "config.json").read_text())
    settings = {"bits": bits, "group_size": group, "sym": symmetric, "desc_act": False}
    config["quantization_config"] = {"quant_method": "gptq", "checkpoint_format": "gptq", **settings}
    (folder / "config.json").write_text(json.dumps(config))
    return plain
