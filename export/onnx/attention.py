"""Attention over a KV cache by onnxruntime's GroupQueryAttention, whatever the size of a head."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from export.onnx.family import Rope, Spec
from export.onnx.linears import MS, Linears
from export.onnx.norms import norm

UNIT = 16
"""GroupQueryAttention computes head sizes that are multiples of this, and rotates multiples of half of it."""


class Attention:
    """Writes the attention of every block."""

    def __init__(self, linears: Linears, spec: Spec, ropes: dict[str, Rope]) -> None:
        self.linears, self.spec, self.ropes, self.graph = linears, spec, ropes, linears.graph
        self._half = next((rope.cos.shape[1] for rope in ropes.values()), 0)
        self._wide_half = -(-self._half // (UNIT // 2)) * (UNIT // 2)

    @cached_property
    def head_size(self) -> int:
        """Size of a head in the cache; other sizes are padded with zeros, which changes no product."""
        return -(-(self.spec.head_dim + 2 * (self._wide_half - self._half)) // UNIT) * UNIT

    @cached_property
    def lengths(self) -> list[str]:
        """seqlens_k int32 [batch] and total_sequence_length int32 [], from the mask."""
        g = self.graph
        kept = g.node("ReduceSum", ["attention_mask", g.constant([1])], "/mask/sum", keepdims=0)
        last = g.node("Cast", [g.node("Sub", [kept, g.constant([1])], "/mask/last")], "/mask/seqlens_k", to=6)
        size = g.node("Gather", [g.node("Shape", ["attention_mask"], "/mask/shape"), g.constant(1)], "/mask/size")
        return [last, g.node("Cast", [size], "/mask/total", to=6)]

    def write(self, at: int, x: str) -> str:
        """Queries, keys and values, rotary positions, cache, output projection of block ``at``."""
        spec, family, name = self.spec, self.spec.family, f"/model/layers.{at}/attn"
        kind = spec.kinds[at]
        past, present = self._cache(at)
        how = {
            "num_heads": spec.heads,
            "kv_num_heads": spec.kv_heads,
            "scale": spec.scales[at],
            "local_window_size": spec.windows[at],
            "softcap": float(spec.softcap),
            "do_rotary": int(kind in self.ropes),
        }
        inputs = [*self._qkv(at, x, name), *past, *self.lengths, *self._tables(kind)]
        y = self.graph.node("GroupQueryAttention", inputs, f"{name}/heads", MS, present, **how)
        if self.head_size != spec.head_dim:
            y = self._resize(y, spec.heads, f"{name}/cut", np.ascontiguousarray(self._widening.T))
        return self.linears.linear([family.tensor(at, family.out)], y, f"{name}/{family.out.split('.')[-1]}")

    def _cache(self, at: int) -> tuple[list[str], list[str]]:
        shapes = {"past_key_values": "past_sequence_length", "present": "total_sequence_length"}
        for side in ("key", "value"):
            for prefix, length in shapes.items():
                declare = self.graph.output if prefix == "present" else self.graph.input
                shape: list[int | str] = ["batch_size", self.spec.kv_heads, length, self.head_size]
                declare(f"{prefix}.{at}.{side}", self.graph.dtype, shape)
        past, present = ([f"{prefix}.{at}.{side}" for side in ("key", "value")] for prefix in shapes)
        return past, present

    def _qkv(self, at: int, x: str, name: str) -> list[str]:
        """The operator's first three inputs: all in one where nothing comes between product and attention."""
        family, spec = self.spec.family, self.spec
        linears = [family.tensor(at, linear) for linear in family.qkv]
        between = family.qk_norms or self.head_size != spec.head_dim
        if not between and self.linears.together(linears):
            return [self.linears.linear(linears, x, f"{name}/qkv_proj"), "", ""]
        if len(linears) == 3:
            parts = [self.linears.linear([n], x, f"{name}/{n.split('.')[-1]}") for n in linears]
        else:
            fused, parts = self.linears.linear(linears, x, f"{name}/qkv_proj"), [f"{name}/{role}" for role in "qkv"]
            sizes = self.graph.constant([heads * spec.head_dim for heads in self._heads])
            self.graph.node("Split", [fused, sizes], parts[0], also=parts[1:], axis=-1)
        if not between:
            return parts
        return [self._per_head(at, role, part, name) for role, part in zip("qkv", parts, strict=True)]

    @property
    def _heads(self) -> tuple[int, int, int]:
        return self.spec.heads, self.spec.kv_heads, self.spec.kv_heads

    def _per_head(self, at: int, role: str, x: str, name: str) -> str:
        """Norm of every head's queries and keys, and padding to a size that the operator knows."""
        g, heads, size = self.graph, self._heads["qkv".index(role)], self.spec.head_dim
        if self.spec.family.qk_norms and role != "v":
            tensor = self.spec.family.tensor(at, f"self_attn.{role}_norm")
            split = g.node("Reshape", [x, g.constant([0, 0, heads, size])], f"{name}/{role}/split")
            split = norm(self.linears, self.spec, tensor, split, f"{name}/{role}_norm")
            x = g.node("Reshape", [split, g.constant([0, 0, heads * size])], f"{name}/{role}/normed")
        return x if self.head_size == size else self._resize(x, heads, f"{name}/{role}/wide", self._widening)

    def _resize(self, x: str, heads: int, name: str, matrix: npt.NDArray[np.float32]) -> str:
        """[.., heads * a] -> [.., heads * b] by a matrix [a, b] of ones and zeros, applied to every head."""
        g, (inner, outer) = self.graph, matrix.shape
        weight = f"model.heads.{inner}to{outer}"
        if not g.has(weight):
            g.float_weight(weight, matrix)
        split = g.node("Reshape", [x, g.constant([0, 0, heads, inner])], f"{name}/split")
        resized = g.node("MatMul", [split, weight], f"{name}/MatMul")
        return g.node("Reshape", [resized, g.constant([0, 0, heads * outer])], name)

    @cached_property
    def _widening(self) -> npt.NDArray[np.float32]:
        """[head_dim, head_size]: where each value of a head goes; both rotated halves begin a half of their own."""
        size, half, wide = self.spec.head_dim, self._half, self._wide_half
        place = np.arange(size)
        place[half : 2 * half] += wide - half
        place[2 * half :] += 2 * (wide - half)
        matrix = np.zeros((size, self.head_size), dtype=np.float32)
        matrix[np.arange(size), place] = 1
        return matrix

    def _tables(self, kind: str) -> list[str]:
        """cos and sin of a kind of block, padded like the heads, and positions where those are not plain."""
        if kind not in self.ropes:
            return []
        rope, names = self.ropes[kind], [f"{side}_cache.{kind}" for side in ("cos", "sin")]
        if not self.graph.has(names[0]):
            for name, table in zip(names, (rope.cos, rope.sin), strict=True):
                self.graph.float_weight(name, np.pad(table, ((0, 0), (0, self._wide_half - self._half))))
        return [*names, self._long_positions] if rope.switch else names

    @cached_property
    def _long_positions(self) -> str:
        """Positions in tables that hold the rows of short sequences first, then those of long ones."""
        g, switch = self.graph, next(rope.switch for rope in self.ropes.values() if rope.switch)
        long = g.node("Greater", [self.lengths[1], g.constant(switch, np.int32)], "/positions/long")
        offset = g.node("Where", [long, g.constant(switch), g.constant(0)], "/positions/offset")
        return g.node("Add", ["position_ids", offset], "/positions/shifted")
