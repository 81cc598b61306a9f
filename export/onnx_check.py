"""The ONNX folder against its source: the same weights, the same token ids."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError
from compress.extras import need
from export.checkpoint import GptqCheckpoint
from export.probes import PROBES, chat_probes
from export.tokenizer import load_tokenizer

_NODE = re.compile(r"/model/layers\.(\d+)/(attn|mlp)/(\w+)/MatMulNBits$")
_BUG = "this is a defect of the exporter; report it with the versions of onnxruntime-genai and this package"


def compare_weights(path: Path, source: Path) -> int:
    """Compare every block linear of the graph with the GPTQ folder, bit by bit; return how many were compared.

    Raises ArtifactError naming the first linear that differs or that the graph lacks.
    """
    import onnx

    model = onnx.load(str(path))  # with its external data
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    checkpoint = GptqCheckpoint(source)
    missing = {name for name in checkpoint.names() if name.endswith("_proj.weight")}
    for node in model.graph.node:
        found = _NODE.match(node.name)
        if not found:
            continue
        names = _sources(*found.groups())
        expected = np.concatenate([checkpoint.rows(n, 0, checkpoint.shape(n)[0]) for n in names])
        if not np.array_equal(graph_weight(node, stored), expected):
            raise ArtifactError(f"{path}: {node.name} is not the checkpoint's {names[0]}", next=_BUG)
        missing -= set(names)
    if missing:
        raise ArtifactError(f"{path} holds no int4 or int8 {sorted(missing)[0]}", next=_BUG)
    return len([n for n in checkpoint.names() if n.endswith("_proj.weight")])


def _sources(layer: str, part: str, linear: str) -> list[str]:
    """Hugging Face names of what a graph node multiplies with (its q, k and v are stacked)."""
    linears = ["q_proj", "k_proj", "v_proj"] if linear == "qkv_proj" else [linear]
    inside = "self_attn" if part == "attn" else "mlp"
    return [f"model.layers.{layer}.{inside}.{name}.weight" for name in linears]


def graph_weight(node: Any, stored: dict[str, Any]) -> npt.NDArray[np.float32]:
    """float32 [N, K] of a MatMulNBits node (packed codes, a scale and a zero point per block)."""
    from onnx import numpy_helper

    size = {a.name: a.i for a in node.attribute}
    rows, bits = size["N"], size["bits"]
    values = [numpy_helper.to_array(stored[name]) if name else None for name in node.input[1:5]]
    codes, scales = values[0], values[1]
    zeros, groups = (values[i] if len(values) > i else None for i in (2, 3))
    assert codes is not None
    assert scales is not None
    scales = scales.reshape(rows, -1).astype(np.float32)
    wide = _nibbles(codes.reshape(rows, -1), bits)[:, : size["K"]].astype(np.int16)
    middle = np.full(scales.shape, 2 ** (bits - 1), dtype=np.int16)
    points = middle if zeros is None else _nibbles(zeros.reshape(rows, -1), bits)[:, : scales.shape[1]].astype(np.int16)
    group = np.arange(size["K"]) // size["block_size"] if groups is None else groups
    return (wide - points[:, group]).astype(np.float32) * scales[:, group]


def _nibbles(packed: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    return packed if bits == 8 else np.stack([packed & 15, packed >> 4], axis=-1).reshape(packed.shape[0], -1)


def compare_tokens(folder: Path, source: Path) -> int:
    """Split the probe strings with onnxruntime-genai and Hugging Face; return their number.

    Raises ArtifactError that shows the first difference, or when the runtime cannot load the folder.
    """
    genai = need("onnxruntime_genai")
    tokenizer = load_tokenizer(source)
    try:
        runtime = genai.Tokenizer(genai.Model(str(folder)))
    except Exception as error:  # the runtime raises its own errors for an unreadable graph or tokenizer
        raise ArtifactError(f"onnxruntime-genai cannot load the exported folder ({error})", next=_BUG) from error
    texts = [*PROBES, *chat_probes(tokenizer)]
    for text in texts:
        expected, got = tokenizer.encode(text, add_special_tokens=False), list(runtime.encode(text))
        if expected not in (got, got[len(got) - len(expected) :]):
            at = next((i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), len(got))
            raise ArtifactError(
                f"onnxruntime-genai splits {text[:60]!r} otherwise than Hugging Face from token {at}: "
                f"{got[at : at + 4]} instead of {expected[at : at + 4]}",
                next="see docs/formats.md, tokenizers",
            )
    return len(texts)
