"""The ONNX folder against its source: weights and token ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError
from compress.extras import need
from export.checkpoint import Checkpoint, open_checkpoint
from export.onnx.family import Family, family_of
from export.onnx.weights import Codes, dequantize
from export.tokenizers.chats import PROBES, chat_probes
from export.tokenizers.read import load_tokenizer

_BUG = "this is a defect of the exporter; report it with the versions of onnxruntime-genai and this package"


class GraphWeights:
    """Weights as the written graph holds them."""

    def __init__(self, path: Path) -> None:
        import onnx

        self.path = path
        self.model = onnx.load(str(path), load_external_data=False)
        self._stored = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._nodes = {node.name: node for node in self.model.graph.node}

    def array(self, name: str) -> npt.NDArray[Any]:
        """One tensor, mapped from the external data or read from the graph."""
        from onnx import helper, numpy_helper

        tensor = self._stored[name]
        place = {entry.key: entry.value for entry in tensor.external_data}
        if not place:
            return numpy_helper.to_array(tensor)
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        data = self.path.parent / place["location"]
        return np.memmap(data, dtype=kind, mode="r", offset=int(place["offset"]), shape=tuple(tensor.dims))

    def product(self, name: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """float32 [N, K] that the node ``name`` multiplies with or picks rows of, and its rounding steps [N, K] where
        it holds codes (an embedding's K is a whole number of blocks)."""
        node = self._nodes[name]
        if node.op_type not in CODED:
            return _float_weight(node, self.array), None
        codes = _codes(node, self._stored, self.array)
        return dequantize(codes), np.abs(codes.scales)[:, np.arange(codes.columns) // codes.block]


CODED = ("GatherBlockQuantized", "MatMulNBits")
Read = Callable[[str], npt.NDArray[Any]]


def _float_weight(node: Any, read: Read) -> npt.NDArray[np.float32]:
    if node.op_type == "Gather":
        return read(node.input[0]).astype(np.float32)
    values = read(node.input[1]).astype(np.float32)
    return values if node.op_type == "FusedMatMul" else values.T


def _codes(node: Any, stored: dict[str, Any], read: Read) -> Codes:
    size = {a.name: a.i for a in node.attribute}
    if node.op_type == "GatherBlockQuantized":  # rows of a table whose scales lie beside it
        packed = read(node.input[0])
        scales = read(f"{node.input[0].removesuffix('qweight')}scales").astype(np.float32)
        return Codes(packed.shape[1] * size["block_size"], size["bits"], size["block_size"], packed, scales)
    scales = read(node.input[2]).astype(np.float32).reshape(size["N"], -1)
    zeros = read(node.input[3]).reshape(size["N"], -1) if len(node.input) > 3 and node.input[3] else None
    ordered = f"{node.input[1]}.order"
    order = read(ordered) if ordered in stored else None
    return Codes(size["K"], size["bits"], size["block_size"], read(node.input[1]), scales, zeros, order)


def compare_weights(path: Path, source: Path, linears: dict[str, list[str]]) -> dict[str, int]:
    """Compare every product of the graph with the linears it stands for; return how many there are.

    Float weights and codes of a GPTQ folder must be equal bit by bit, rounded ones within one step.
    Raises ArtifactError naming the first product that differs.
    """
    graph, checkpoint = GraphWeights(path), open_checkpoint(source)
    family = family_of(checkpoint.config).found_in(checkpoint.names())
    counts = {"weights_equal": 0, "weights_rounded": 0}
    for name, modules in linears.items():
        got, steps = graph.product(name)
        expected = _weight(checkpoint, family, modules)
        got, steps = got[:, : expected.shape[1]], None if steps is None else steps[:, : expected.shape[1]]
        coded = f"{modules[0]}.qweight" in checkpoint.entries
        if steps is None or coded:
            half = graph.model.graph.output[0].type.tensor_type.elem_type == 10
            expected = expected if coded or not half else expected.astype(np.float16).astype(np.float32)
            same = np.array_equal(got, expected)
        else:
            same = bool(np.all(np.abs(got - expected) <= 1.01 * steps))
        if not same:
            raise ArtifactError(f"{path}: {name} is not the checkpoint's {modules[0]}", next=_BUG)
        counts["weights_equal" if steps is None or coded else "weights_rounded"] += len(modules)
    return counts


def _weight(checkpoint: Checkpoint, family: Family, modules: list[str]) -> npt.NDArray[np.float32]:
    """float32 [N, K] of linears under each other."""
    parts = [checkpoint.rows(f"{m}.weight", 0, checkpoint.shape(f"{m}.weight")[0]) for m in modules]
    return np.concatenate(
        [part.T if _turned(checkpoint, family, m) else part for m, part in zip(modules, parts, strict=True)]
    )


def _turned(checkpoint: Checkpoint, family: Family, module: str) -> bool:
    """Whether the folder stores ``module`` as [in, out]."""
    inside = f"{family.prefix}{family.blocks}."
    return family.conv1d and module.startswith(inside) and f"{module}.qweight" not in checkpoint.entries


def compare_tokens(folder: Path, source: Path) -> int:
    """Split the probe strings with onnxruntime-genai and Hugging Face; return their number.

    Raises ArtifactError that shows the first difference, or when the runtime cannot load the folder.
    """
    genai = need("onnxruntime_genai")
    tokenizer = load_tokenizer(source)
    try:
        config = genai.Config(str(folder))
        config.clear_providers()  # a graph for CUDA also loads where there is none
        model = genai.Model(config)
        runtime = genai.Tokenizer(model)
    except Exception as error:  # the runtime raises its own errors for an unreadable graph or tokenizer
        raise ArtifactError(f"onnxruntime-genai cannot load the exported folder ({error})", next=_BUG) from error
    texts = [*PROBES, *chat_probes(tokenizer)]
    for text in texts:
        expected, got = tokenizer.encode(text, add_special_tokens=False), [int(i) for i in runtime.encode(text)]
        if min(got, default=0) < 0:
            raise ArtifactError(
                f"onnxruntime-genai finds no token for a character of {text[:60]!r}; Hugging Face writes its <unk>",
                next="use a tokenizer with byte tokens, or export.gguf",
            )
        if expected not in (got, got[len(got) - len(expected) :]):
            at = next((i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), len(got))
            raise ArtifactError(
                f"onnxruntime-genai splits {text[:60]!r} otherwise than Hugging Face from token {at}: "
                f"{got[at : at + 4]} instead of {expected[at : at + 4]}",
                next="see docs/formats.md, tokenizers",
            )
    return len(texts)
