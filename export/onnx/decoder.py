"""The decoder graph: embedding, blocks, norm, head.

Inputs and outputs are those that onnxruntime-genai feeds: input_ids, attention_mask, (position_ids,)
past_key_values.N.key|value [batch, kv heads, past, head size] -> logits, present.N.key|value. Nodes and tensors have
the names that onnxruntime-genai's model builder gives them, as far as it has such nodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compress.errors import UnsupportedArchitecture
from export.checkpoint import Checkpoint
from export.onnx.attention import Attention
from export.onnx.family import ACTIVATIONS, Rope, Spec
from export.onnx.graph import Graph
from export.onnx.linears import MS, Linears, Precision
from export.onnx.norms import norm
from export.onnx.weights import round_to_nearest

EMBEDDING = "model.embed_tokens"


class Decoder:
    """Writes one model into a graph."""

    def __init__(
        self, graph: Graph, spec: Spec, checkpoint: Checkpoint, ropes: dict[str, Rope], precision: Precision
    ) -> None:
        self.graph, self.spec, self.family, self.precision = graph, spec, spec.family, precision
        self.linears = Linears(graph, checkpoint, precision, spec.family.conv1d)
        self.attention = Attention(self.linears, spec, ropes)
        self.takes_positions = bool(spec.family.positions) or any(rope.switch for rope in ropes.values())
        """Whether the graph reads position_ids."""

    def build(self) -> None:
        """Write the whole model; UnsupportedArchitecture for a tensor that has no place in it."""
        graph, spec = self.graph, self.spec
        graph.input("input_ids", np.int64, ["batch_size", "sequence_length"])
        graph.input("attention_mask", np.int64, ["batch_size", "total_sequence_length"])
        if self.takes_positions:
            graph.input("position_ids", np.int64, ["batch_size", "sequence_length"])
        x = self._embed()
        for at in range(spec.blocks):
            x = self._block(at, x)
        x = self._norm(f"{self.family.prefix}{self.family.final_norm}", x, "/model/norm")
        graph.node("Identity", [self._head(x)], "logits")
        graph.output("logits", graph.dtype, ["batch_size", "sequence_length", spec.vocab])
        self._require_all_read()

    def _require_all_read(self) -> None:
        """A tensor that nothing read means a computation that this graph lacks."""
        left = sorted(self.linears.names - self.linears.read)
        if left:
            raise UnsupportedArchitecture(
                f"the graph of {self.family.kind} has no place for {left[0]} of {self.linears.checkpoint.folder}",
                next="export GGUF, or add it to export/onnx/decoder.py",
            )

    # ---- embedding and head

    def _embed(self) -> str:
        """Token embedding (and learned positions), [batch, sequence, hidden]."""
        g, family, name = self.graph, self.family, "/model/embed_tokens"
        x = self._rows_of_tokens(f"{family.prefix}{family.embedding}.weight", name)
        if family.scales_embedding:
            x = g.node("Mul", [x, g.constant(self.spec.hidden**0.5, g.dtype)], f"{name}/scaled")
        if family.positions:
            table = self.linears.rows(f"{family.prefix}{family.positions}.weight")
            places = g.node(
                "Gather", [g.float_weight("model.positions.weight", table), "position_ids"], "/model/positions"
            )
            x = g.node("Add", [x, places], f"{name}/placed")
        return x

    def _rows_of_tokens(self, tensor: str, name: str) -> str:
        g, bits, block = self.graph, self.precision.head_bits, self.precision.block
        if bits is None:
            table = g.float_weight(f"{EMBEDDING}.weight", self.linears.rows(tensor))
            self.linears.products[f"{name}/Gather"] = [tensor.removesuffix(".weight")]
            return g.node("Gather", [table, "input_ids"], f"{name}/Gather")
        codes = round_to_nearest(self.linears.checkpoint, tensor, bits, block)
        self.linears.read.add(tensor)
        self.linears.products[f"{name}/GatherBlockQuantized"] = [tensor.removesuffix(".weight")]
        packed, scales = self.linears.store(EMBEDDING, codes)
        blocks, hidden = codes.packed.shape[1], self.spec.hidden
        column = g.node("Reshape", [scales, g.constant([self.spec.vocab, blocks, 1])], f"{name}/scales")
        how: dict[str, Any] = {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 2}
        rows = g.node("GatherBlockQuantized", [packed, "input_ids", column], f"{name}/GatherBlockQuantized", MS, **how)
        x = g.node("Reshape", [rows, g.constant([0, 0, blocks * block])], f"{name}/Reshape")
        if blocks * block == hidden:
            return x
        return g.node("Slice", [x, g.constant([0]), g.constant([hidden]), g.constant([-1])], f"{name}/Slice")

    def _head(self, x: str) -> str:
        """Logits, [batch, sequence, vocab]."""
        g, name = self.graph, "/lm_head"
        own = "lm_head.weight" in self.linears.names
        x = self.linears.head(x, name) if own else self._tied_head(x, name)
        if not self.spec.final_softcap:
            return x
        cap = g.constant(self.spec.final_softcap, g.dtype)
        x = g.node("Tanh", [g.node("Div", [x, cap], f"{name}/softcap/Div")], f"{name}/softcap/Tanh")
        return g.node("Mul", [x, cap], f"{name}/softcap/Mul")

    def _tied_head(self, x: str, name: str) -> str:
        """The product with the embedding, which is stored once."""
        bits, embedding = self.precision.head_bits, f"{self.family.prefix}{self.family.embedding}"
        if bits is None:
            self.linears.products[f"{name}/MatMul"] = [embedding]
            return self.graph.node("FusedMatMul", [x, f"{EMBEDDING}.weight"], f"{name}/MatMul", MS, transB=1)
        self.linears.products[f"{name}/MatMulNBits"] = [embedding]
        inputs = [x, f"{EMBEDDING}.qweight", f"{EMBEDDING}.scales"]
        return self.linears.nbits(inputs, name, self.spec.hidden, self.spec.vocab, bits, self.precision.block)

    # ---- blocks

    def _block(self, at: int, x: str) -> str:
        """One block: x + attention(norm(x)), then + FFN(norm(x))."""
        g, name = self.graph, f"/model/layers.{at}"
        before, ffn, *after = [self.family.tensor(at, n) for n in self.family.norms]
        attended = self.attention.write(at, self._norm(before, x, f"{name}/input_norm"))
        if after:
            attended = self._norm(after[0], attended, f"{name}/attn_output_norm")
        x = g.node("Add", [x, attended], f"{name}/attn_residual")
        fed = self._ffn(at, self._norm(ffn, x, f"{name}/mlp_norm"))
        if after:
            fed = self._norm(after[1], fed, f"{name}/mlp_output_norm")
        return g.node("Add", [x, fed], f"{name}/residual")

    def _norm(self, tensor: str, x: str, name: str) -> str:
        return norm(self.linears, self.spec, tensor, x, name)

    def _ffn(self, at: int, x: str) -> str:
        """Gated or plain feed-forward network."""
        g, family, name = self.graph, self.family, f"/model/layers.{at}/mlp"
        paths = {linear: (family.tensor(at, linear), f"{name}/{linear.split('.')[-1]}") for linear in family.up}
        parts = [self.linears.linear([tensor], x, path) for tensor, path in paths.values()]
        if family.gated and len(parts) == 1:
            fused, parts = parts[0], [f"{name}/gate", f"{name}/up"]
            g.node("Split", [fused], parts[0], also=parts[1:], axis=-1, num_outputs=2)
        active = self._activate(parts[0], name)
        x = g.node("Mul", [active, parts[1]], f"{name}/gated") if len(parts) == 2 else active
        return self.linears.linear([family.tensor(at, family.down)], x, f"{name}/{family.down.split('.')[-1]}")

    def _activate(self, x: str, name: str) -> str:
        op, kind = ACTIVATIONS[self.spec.activation]
        if op == "Silu":
            return self.graph.node("Mul", [x, self.graph.node("Sigmoid", [x], f"{name}/sigmoid")], f"{name}/act")
        return self.graph.node(op, [x], f"{name}/act", **({"approximate": kind} if kind else {}))
