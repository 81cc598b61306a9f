"""Linears of a checkpoint as products of the graph: float, rounded, or with the codes of a GPTQ folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from export.checkpoint import Checkpoint, GptqCheckpoint
from export.onnx.graph import Graph
from export.onnx.weights import Codes, alike, from_gptq, round_to_nearest, stack

MS = "com.microsoft"


@dataclass(frozen=True)
class Precision:
    """How weights become tensors."""

    bits: int | None
    """Of linears that the checkpoint holds in floating point; None leaves them so."""
    head_bits: int | None
    """Of the output head and the embedding."""
    block: int
    """Weights that share a scale, where they are rounded here."""
    level: int
    """MatMulNBits' accuracy_level."""


def tensor_name(node: str) -> str:
    """``/model/norm`` -> ``model.norm``."""
    return node[1:].replace("/", ".")


class Linears:
    """Writes products into a graph, and remembers what was read and what each product stands for."""

    def __init__(self, graph: Graph, checkpoint: Checkpoint, precision: Precision, conv1d: bool) -> None:
        self.graph, self.checkpoint, self.precision, self._conv1d = graph, checkpoint, precision, conv1d
        self.products: dict[str, list[str]] = {}
        """Node -> the linears under each other in it."""
        self.read: set[str] = set()

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the checkpoint's tensors."""
        return frozenset(self.checkpoint.names())

    def coded(self, module: str) -> bool:
        """Whether the checkpoint holds codes for ``module``."""
        return f"{module}.qweight" in self.checkpoint.entries

    def rows(self, name: str) -> npt.NDArray[np.float32]:
        """A whole tensor, float32 [rows, columns]; a vector is one row."""
        self.read.add(name)
        shape = self.checkpoint.shape(name)
        return self.checkpoint.rows(name, 0, shape[0] if len(shape) == 2 else 1)

    def together(self, modules: list[str]) -> bool:
        """Whether linears that read the same input can be one product."""
        alike_kinds = len({self.coded(m) for m in modules}) == len({f"{m}.bias" in self.names for m in modules}) == 1
        return alike_kinds and (not self.coded(modules[0]) or alike([self._codes(m, 8, False) for m in modules]))

    def linear(self, modules: list[str], x: str, name: str) -> str:
        """x W^T + b of a block's linear, or of several under each other; ``name`` is the path of the node."""
        y = self._product(modules, x, name, self.precision.bits, self._conv1d)
        biases = [self.rows(f"{m}.bias")[0] for m in modules if f"{m}.bias" in self.names]
        if not biases:
            return y
        bias = self.graph.float_weight(f"{tensor_name(name)}.Add.bias", np.concatenate(biases))
        return self.graph.node("Add", [y, bias], f"{name}/Add")

    def head(self, x: str, name: str) -> str:
        """The product with an output head of its own."""
        y = self._product(["lm_head"], x, name, self.precision.head_bits, False)
        if "lm_head.bias" not in self.names:
            return y
        bias = self.graph.float_weight("lm_head.Add.bias", self.rows("lm_head.bias")[0])
        return self.graph.node("Add", [y, bias], f"{name}/Add")

    def _product(self, modules: list[str], x: str, name: str, bits: int | None, conv1d: bool) -> str:
        if bits is None and not any(self.coded(m) for m in modules):
            rows = [self.rows(f"{m}.weight") for m in modules]
            weight = np.concatenate([r.T if conv1d else r for r in rows]).T
            self.products[f"{name}/MatMul"] = modules
            stored = self.graph.float_weight(f"{tensor_name(name)}.MatMul.weight", weight)
            return self.graph.node("MatMul", [x, stored], f"{name}/MatMul")
        codes = stack([self._codes(m, bits or 8, conv1d) for m in modules])
        self.products[f"{name}/MatMulNBits"] = modules
        tensors = self.store(f"{tensor_name(name)}.MatMulNBits", codes)
        if codes.order is not None:
            order = self.graph.weight(f"{tensors[0]}.order", codes.order)
            x = self.graph.node("Gather", [x, order], f"{name}/Gather", axis=-1)
        return self.nbits([x, *tensors], name, codes.columns, codes.rows, codes.bits, codes.block)

    def _codes(self, module: str, bits: int, conv1d: bool) -> Codes:
        self.read.add(f"{module}.weight")
        if self.coded(module):
            assert isinstance(self.checkpoint, GptqCheckpoint)
            return from_gptq(self.checkpoint, f"{module}.")
        return round_to_nearest(self.checkpoint, f"{module}.weight", bits, self.precision.block, conv1d)

    def store(self, name: str, codes: Codes) -> list[str]:
        """Write codes, scales and (if any) zero points; return their names."""
        g = self.graph
        stored = [g.weight(f"{name}.qweight", codes.packed), g.float_weight(f"{name}.scales", codes.scales)]
        return stored if codes.zeros is None else [*stored, g.weight(f"{name}.qzeros", codes.zeros)]

    def nbits(self, inputs: list[str], name: str, columns: int, rows: int, bits: int, block: int) -> str:
        """A product with codes."""
        how: dict[str, Any] = {
            "K": columns,
            "N": rows,
            "bits": bits,
            "block_size": block,
            "accuracy_level": self.precision.level,
        }
        return self.graph.node("MatMulNBits", inputs, f"{name}/MatMulNBits", MS, **how)
