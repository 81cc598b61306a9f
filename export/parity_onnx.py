"""The weights of an onnxruntime-genai graph under their Hugging Face names.

The model builder stacks q, k and v (and gate and up) or leaves them apart, whatever Hugging Face does: both sides are
read as one stack per block, which is then cut where the reference cuts it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import ArtifactError
from export.checkpoint import Checkpoint
from export.parity_weights import HEAD, NORM_PLUS_ONE, Floats, Stored

_LINEAR = re.compile(r"/model/layers\.(\d+)/(?:attn|mlp)/(\w+)/MatMul")
_BIAS = re.compile(r"model\.layers\.(\d+)\.(?:attn|mlp)\.(\w+)\.Add\.bias$")
_HF = re.compile(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.(weight|bias)$")
STACKS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Stacked linear -> its parts, top to bottom."""


def _place(linear: str) -> tuple[str, int]:
    """``(stack, number of the part in it)``; a linear that is never stacked is a stack of its own."""
    for stack, parts in STACKS.items():
        if linear in parts:
            return stack, parts.index(linear)
    return linear, 0


class Graph:
    """Linears, norms and embeddings of a ``model.onnx``."""

    def __init__(self, folder: Path) -> None:
        import onnx
        from onnx import numpy_helper

        graph = onnx.load(str(folder / "model.onnx")).graph
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.array = lambda name: numpy_helper.to_array(self.stored[name]).astype(np.float32)
        self.nodes = list(graph.node)
        self.parts: dict[tuple[str, str, str], dict[int, tuple[Floats, str, str]]] = {}
        self.head: tuple[Floats, str, str] | None = None
        for node in self.nodes:
            self._take(node)
        for name in self.stored:
            if found := _BIAS.match(name):
                stack, part = _place(found[2])
                self.parts.setdefault((found[1], stack, "bias"), {})[part] = (self.array(name), "F32", "")

    def _take(self, node: Any) -> None:
        if node.op_type not in ("MatMul", "MatMulNBits"):
            return
        found = _LINEAR.match(node.name)
        if found:
            stack, part = _place(found[2])
            self.parts.setdefault((found[1], stack, "weight"), {})[part] = self._weight(node)
        elif node.name.startswith("/lm_head/MatMul"):
            self.head = self._weight(node)

    def _weight(self, node: Any) -> tuple[Floats, str, str]:
        """float32 [out, in], type, and how the product rounds its other side."""
        if node.op_type == "MatMul":
            return np.ascontiguousarray(self.array(node.input[1]).T), "F32", ""
        size = {a.name: a.i for a in node.attribute}
        rounding = f"int8/{size['block_size']}" if size.get("accuracy_level") == 4 else ""
        return graph_weight(node, self.stored), f"int{size['bits']}", rounding

    def embedding(self) -> tuple[Floats, str, str]:
        """The token embedding: an initializer, or the head's own (a tied embedding is stored once)."""
        for name in ("model.embed_tokens.weight",):
            if name in self.stored:
                return self.array(name), "F32", ""
        assert self.head is not None, "the builder always writes a head"
        return self.head[0], self.head[1], ""

    def norm(self, name: str, last: str) -> Floats | None:
        """The norm (or its bias) that Hugging Face calls ``name``; ``last`` is the one behind all blocks."""
        moved = name.replace(".self_attn.", ".attn.")
        stem, _, kind = moved.rpartition(".")
        for candidate in (name, moved, f"{stem}.layernorm.{kind}", last if name == "model.norm.weight" else ""):
            if candidate in self.stored:
                return self.array(candidate)
        return None


def graph_weight(node: Any, stored: Mapping[str, Any]) -> Floats:
    """float32 [N, K] of a MatMulNBits node: packed codes, a scale and maybe a zero point per block of a row
    (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits)."""
    from onnx import numpy_helper

    size = {a.name: a.i for a in node.attribute}
    rows, columns, bits, block = size["N"], size["K"], size["bits"], size["block_size"]
    given = [numpy_helper.to_array(stored[name]) if name else None for name in node.input[1:5]]
    codes, scales, zeros, groups = [*given, None, None][:4]
    assert codes is not None
    assert scales is not None
    scales = scales.reshape(rows, -1).astype(np.float32)
    wide = _unpacked(codes.reshape(rows, -1), bits)[:, :columns]
    if zeros is None:
        points = np.full(scales.shape, 2 ** (bits - 1), dtype=np.float32)
    elif zeros.dtype == np.uint8:
        points = _unpacked(zeros.reshape(rows, -1), bits)[:, : scales.shape[1]]
    else:
        points = zeros.reshape(rows, -1).astype(np.float32)
    group = np.arange(columns) // block if groups is None else groups[:columns]
    return (wide - points[:, group]) * scales[:, group]


def _unpacked(packed: Any, bits: int) -> Floats:
    """Codes as float32; two of 4 bits in a byte, the lower first."""
    if bits != 8:
        packed = np.stack([packed & 15, packed >> 4], axis=-1).reshape(packed.shape[0], -1)
    return np.asarray(packed, dtype=np.float32)


def read_onnx(folder: Path, reference: Checkpoint) -> Iterator[Stored]:
    """Every weight of the graph that has a source in ``reference``, and its head. Raises ArtifactError when one is
    missing."""
    graph = Graph(folder)
    names = reference.names()
    stacks = _stacks(names)
    layers = max(int(found[1]) for name in names if (found := _HF.match(name))) + 1
    plus_one = str(reference.config.get("model_type", "")).removesuffix("_text") in NORM_PLUS_ONE
    for name in names:
        if found := _HF.match(name):
            yield from _linear(graph, name, found, stacks, reference)
        elif name == "model.embed_tokens.weight":
            yield Stored(name, *graph.embedding())
        elif name != HEAD:
            values = graph.norm(name, f"model.layers.{layers}.final_norm_layernorm.weight")
            if values is None:
                raise _lacks(name)
            yield Stored(name, values - np.float32(plus_one), "F32")
    if graph.head is None:
        raise _lacks(HEAD)
    yield Stored(HEAD, *graph.head)


def _lacks(name: str) -> ArtifactError:
    return ArtifactError(f"the graph holds no {name}", next="export the model again")


def _stacks(names: list[str]) -> Mapping[tuple[str, str, str], dict[int, str]]:
    """(layer, stack, weight or bias) -> part number -> Hugging Face name."""
    found: dict[tuple[str, str, str], dict[int, str]] = {}
    for name in names:
        if match := _HF.match(name):
            stack, part = _place(match[2])
            found.setdefault((match[1], stack, match[3]), {})[part] = name
    return found


def _linear(
    graph: Graph, name: str, found: re.Match[str], stacks: Mapping[tuple[str, str, str], dict[int, str]], of: Checkpoint
) -> Iterator[Stored]:
    if found[2].endswith("norm"):
        values = graph.norm(name, "")
        if values is None:
            raise _lacks(name)
        plus_one = str(of.config.get("model_type", "")).removesuffix("_text") in NORM_PLUS_ONE
        yield Stored(name, values - np.float32(plus_one), "F32")
        return
    stack, part = _place(found[2])
    key = (found[1], stack, found[3])
    if key not in graph.parts:
        raise _lacks(name)
    pieces = [graph.parts[key][n] for n in sorted(graph.parts[key])]
    whole = np.concatenate([piece[0] for piece in pieces])
    before = sum(of.shape(stacks[key][n])[0] for n in stacks[key] if n < part)
    yield Stored(name, whole[before : before + of.shape(name)[0]], pieces[0][1], pieces[0][2])
