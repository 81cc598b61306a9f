"""The weights of an onnxruntime-genai graph under their Hugging Face names.

Products are found by the names that onnxruntime-genai's model builder gives them (``/model/layers.N/attn/qkv_proj/…``).
q, k and v (and gate and up) may be stacked in the graph, in the reference, in both or in neither: both sides are read
as one stack per block, which is then cut where the reference cuts it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import ArtifactError
from export.checkpoint import Checkpoint
from export.parity.weights import HEAD, NORM_PLUS_ONE, Floats, Stored, is_turned

_PRODUCT = re.compile(r"/model/layers\.(\d+)/(attn|mlp)/(\w+)/MatMul")
_BIAS = re.compile(r"model\.layers\.(\d+)\.(attn|mlp)\.(\w+)\.Add\.bias$")
_HF = re.compile(r"(?:.*\.)?(?:layers|h)\.(\d+)\.(?:self_)?(attn|mlp)\.(\w+)\.(weight|bias)$")
STACKS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Stacked linear -> its parts, top to bottom."""
ALIASES = {"c_attn": "qkv_proj"}

Key = tuple[str, str, str, str]
"""Block, attn or mlp, stack, weight or bias."""
Part = tuple[Floats, str, str]
"""float32 [out, in] or [out], its type, and how the product rounds its other side."""


def _place(block: str, room: str, linear: str, kind: str) -> tuple[Key, int]:
    """Where a linear belongs, and its number in the stack (a linear that is never stacked is a stack of its own)."""
    linear = ALIASES.get(linear, linear)
    for stack, parts in STACKS.items():
        if linear in parts:
            return (block, room, stack, kind), parts.index(linear)
    return (block, room, linear, kind), 0


class Graph:
    """Products, norms and embeddings of a ``model.onnx``."""

    def __init__(self, folder: Path) -> None:
        import onnx

        graph = onnx.load(str(folder / "model.onnx")).graph
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {output: node for node in graph.node for output in node.output}
        self.nodes = list(graph.node)
        self.stack = lru_cache(maxsize=4)(self._stack)

    def array(self, name: str) -> Any:
        """An initializer."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.stored[name])

    def floats(self, name: str) -> Part:
        """A tensor that is stored in floating point."""
        values = self.array(name)
        half = values.dtype == np.float16
        return values.astype(np.float32), "F16" if half else "F32", "f16" if half else ""

    @cached_property
    def parts(self) -> dict[Key, dict[int, Any]]:
        """Linears of the blocks (their nodes), and their biases (the initializers' names), by place and number."""
        found: dict[Key, dict[int, Any]] = {}
        for node in self.nodes:
            if node.op_type in ("MatMul", "MatMulNBits") and (match := _PRODUCT.match(node.name)):
                key, number = _place(match[1], match[2], match[3], "weight")
                found.setdefault(key, {})[number] = node
        for name in self.stored:
            if match := _BIAS.match(name):
                key, number = _place(match[1], match[2], match[3], "bias")
                found.setdefault(key, {})[number] = name
        return found

    def _stack(self, key: Key) -> Part:
        """The linears (or biases) of one place, top to bottom; the last few are kept, for each is cut several times."""
        held = [self.parts[key][number] for number in sorted(self.parts[key])]
        pieces = [self.floats(part) if isinstance(part, str) else self.product(part) for part in held]
        values = np.concatenate([piece[0] for piece in pieces]) if len(pieces) > 1 else pieces[0][0]
        return values, pieces[0][1], pieces[0][2]

    @cached_property
    def head(self) -> Part | None:
        """The product that makes logits."""
        kinds = ("MatMul", "FusedMatMul", "MatMulNBits")
        made = [node for node in self.nodes if node.name.startswith("/lm_head/MatMul") and node.op_type in kinds]
        return self.product(made[0]) if made else None

    def product(self, node: Any) -> Part:
        """What a node multiplies with."""
        if node.op_type == "MatMulNBits":
            size = _attributes(node)
            rounding = f"int8/{size['block_size']}" if size.get("accuracy_level") == 4 else ""
            return self._unordered(node, graph_weight(node, self.stored)), f"int{size['bits']}", rounding
        values, kind, rounding = self.floats(self._origin(node.input[1]))
        across = node.op_type == "FusedMatMul" and _attributes(node).get("transB")
        return values if across else np.ascontiguousarray(values.T), kind, rounding

    def _unordered(self, node: Any, weight: Floats) -> Floats:
        """Columns in the order of the model's inputs, where a Gather in front changes it."""
        maker = self.makers.get(node.input[0])
        if maker is None or maker.op_type != "Gather" or maker.input[1] not in self.stored:
            return weight
        restored = np.empty_like(weight)
        restored[:, self.array(maker.input[1])] = weight
        return restored

    def _origin(self, name: str) -> str:
        """The initializer behind reshapes and transposes."""
        while name not in self.stored:
            maker = self.makers.get(name)
            if maker is None or not maker.input:
                raise ArtifactError(f"the graph computes {name!r} in an unknown way", next="export the model again")
            name = maker.input[0]
        return name

    def embedding(self) -> Part:
        """The token embedding, [vocab, hidden], which may share its codes (or its transposed values) with the head."""
        for node in self.nodes:
            if node.op_type == "GatherBlockQuantized":
                size = _attributes(node)
                codes, scales = (self.array(self._origin(node.input[at])) for at in (0, 2))
                zeros = self.array(self._origin(node.input[3])) if len(node.input) > 3 and node.input[3] else None
                columns = codes.reshape(len(codes), -1).shape[1] * 8 // size["bits"]
                shape = {"N": len(codes), "K": columns, "bits": size["bits"], "block_size": size["block_size"]}
                return _dequantized(codes, scales, zeros, None, shape), f"int{size['bits']}", ""
        if "model.embed_tokens.weight" in self.stored:
            return self.floats("model.embed_tokens.weight")
        if self.head is None:
            raise _lacks("model.embed_tokens.weight")
        return self.head

    def norm(self, name: str, last: str) -> Floats | None:
        """The norm (or its bias) that Hugging Face calls ``name``; ``last`` is the builder's name of the final one."""
        moved = name.replace(".self_attn.", ".attn.")
        stem, _, kind = moved.rpartition(".")
        others = ["model.positions.weight"] if name.endswith("wpe.weight") else []
        others += [last] if name.endswith(("model.norm.weight", "ln_f.weight")) else []
        for candidate in (name, moved, f"{stem}.layernorm.{kind}", f"transformer.{name}", *others):
            if candidate in self.stored:
                return self.floats(candidate)[0]
        return None


def _attributes(node: Any) -> dict[str, int]:
    return {a.name: a.i for a in node.attribute}


def graph_weight(node: Any, stored: Mapping[str, Any]) -> Floats:
    """float32 [N, K] of a MatMulNBits node: packed codes, a scale and maybe a zero point per block of a row
    (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits)."""
    from onnx import numpy_helper

    given = [numpy_helper.to_array(stored[name]) if name else None for name in node.input[1:5]]
    codes, scales, zeros, groups = [*given, None, None][:4]
    return _dequantized(codes, scales, zeros, groups, _attributes(node))


def _dequantized(codes: Any, scales: Any, zeros: Any, groups: Any, size: Mapping[str, int]) -> Floats:
    rows, columns, bits = size["N"], size["K"], size["bits"]
    scales = scales.reshape(rows, -1).astype(np.float32)
    wide = _unpacked(codes.reshape(rows, -1), bits)[:, :columns]
    if zeros is None:
        points = np.full(scales.shape, 2 ** (bits - 1), dtype=np.float32)
    elif zeros.dtype == np.uint8:
        points = _unpacked(zeros.reshape(rows, -1), bits)[:, : scales.shape[1]]
    else:
        points = zeros.reshape(rows, -1).astype(np.float32)
    group = np.arange(columns) // size["block_size"] if groups is None else groups[:columns]
    weight: Floats = (wide - points[:, group]) * scales[:, group]
    return weight


def _unpacked(packed: Any, bits: int) -> Floats:
    """Codes as float32; several of 2 or 4 bits in a byte, the lowest first."""
    parts = [(packed >> np.uint8(shift)) & np.uint8(2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(packed.shape[0], -1).astype(np.float32)


def read_onnx(folder: Path, reference: Checkpoint) -> Iterator[Stored]:
    """Every weight of the graph that has a source in ``reference``, and its head. Raises ArtifactError when one is
    missing."""
    graph = Graph(folder)
    names = reference.names()
    stacks = _stacks(names)
    blocks = 1 + max((int(key[0]) for key in stacks), default=-1)
    offset = np.float32(str(reference.config.get("model_type", "")).removesuffix("_text") in NORM_PLUS_ONE)
    for name in names:
        match = _HF.match(name)
        if match and not match[3].endswith("norm"):
            yield _linear(graph, name, match, stacks, reference)
        elif name.endswith(("embed_tokens.weight", "wte.weight")):
            values, kind, rounding = graph.embedding()
            yield Stored(name, values[:, : reference.shape(name)[1]], kind, rounding)
        elif name != HEAD:
            found = graph.norm(name, f"model.layers.{blocks}.final_norm_layernorm.weight")
            if found is None:
                raise _lacks(name)
            yield Stored(name, found - offset, "F32")
    if graph.head is None:
        raise _lacks(HEAD)
    yield Stored(HEAD, *graph.head)


def _lacks(name: str) -> ArtifactError:
    return ArtifactError(f"the graph holds no {name}", next="export the model again")


def _stacks(names: list[str]) -> Mapping[Key, dict[int, str]]:
    """Stack -> part number -> Hugging Face name."""
    found: dict[Key, dict[int, str]] = {}
    for name in names:
        if (match := _HF.match(name)) and not match[3].endswith("norm"):
            key, number = _place(match[1], match[2], match[3], match[4])
            found.setdefault(key, {})[number] = name
    return found


def _linear(
    graph: Graph, name: str, match: re.Match[str], stacks: Mapping[Key, dict[int, str]], reference: Checkpoint
) -> Stored:
    """One linear (or bias) of the reference, cut from the graph's stack."""
    key, number = _place(match[1], match[2], match[3], match[4])
    if key not in graph.parts:
        raise _lacks(name)
    stacked, kind, rounding = graph.stack(key)
    before = sum(_outputs(reference, other) for n, other in stacks[key].items() if n < number)
    values = stacked[before : before + _outputs(reference, name)]
    turned = is_turned(reference, name)
    return Stored(name, np.ascontiguousarray(values.T) if turned else values, kind, rounding)


def _outputs(reference: Checkpoint, name: str) -> int:
    """Rows of a linear as [out, in]."""
    shape = reference.shape(name)
    return shape[1] if is_turned(reference, name) and name in reference.entries else shape[0]
