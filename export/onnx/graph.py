"""Nodes and weights of an ONNX model; weights go straight to the external data file, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError

ALIGN = 64
"""Every tensor begins at a multiple of a cache line, so that a mapped file can be computed on."""
DATA = ".data"
OPSETS = {"": 22, "com.microsoft": 1}
IR_VERSION = 10


class Graph:
    """A model under construction. Tensors are named after what they are; a node's output after the node."""

    def __init__(self, path: Path, dtype: type[np.floating[Any]]) -> None:
        self.path, self.dtype = path, np.dtype(dtype)
        self._nodes: list[Any] = []
        self._tensors: dict[str, Any] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._data = open(path.with_name(path.name + DATA), "wb")  # noqa: SIM115 - closed by save or __exit__

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._data.close()

    def node(
        self, op: str, inputs: Iterable[str], name: str, domain: str = "", also: Iterable[str] = (), **attributes: Any
    ) -> str:
        """Add a node; return its first output, ``name``. Further outputs are called ``also`` ("" for unused ones)."""
        from onnx import helper

        made = helper.make_node(op, list(inputs), [name, *also], name=name, domain=domain, **attributes)
        del made.attribute[:]
        made.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self._nodes.append(made)
        return name

    def float_weight(self, name: str, values: npt.NDArray[Any]) -> str:
        """A float tensor in the graph's own type; ArtifactError where float16 cannot hold it."""
        if self.dtype == np.float16 and values.size and float(np.abs(values).max()) > np.finfo(np.float16).max:
            raise ArtifactError(
                f"{name} holds values beyond float16's 65,504",
                next="export for the CPU (float32), or use export.gguf with type: BF16",
            )
        return self.weight(name, values.astype(self.dtype, copy=False))

    def weight(self, name: str, values: npt.NDArray[Any]) -> str:
        """Append ``values`` to the external data under ``name``; return the name."""
        from onnx import TensorProto, helper

        assert name not in self._tensors, f"{name} was written twice"
        self._data.write(bytes(-self._data.tell() % ALIGN))
        offset = self._data.tell()
        flat = np.ascontiguousarray(values).reshape(-1)
        self._data.write(flat.tobytes())
        tensor = TensorProto(name=name, dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype))
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": self.path.name + DATA, "offset": offset, "length": flat.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._tensors[name] = tensor
        return name

    def has(self, name: str) -> bool:
        """Whether a tensor of that name was written."""
        return name in self._tensors

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """A small tensor inside the graph file; equal ones are written once."""
        from onnx import numpy_helper

        array = np.asarray(values, dtype=dtype)
        name = f"constant/{array.dtype}/{array.tolist()}"
        if name not in self._tensors:
            self._tensors[name] = numpy_helper.from_array(array, name)
        return name

    def input(self, name: str, dtype: Any, shape: list[int | str]) -> str:
        """Declare an input."""
        self._inputs.append(_value(name, dtype, shape))
        return name

    def output(self, name: str, dtype: Any, shape: list[int | str]) -> None:
        """Declare an output."""
        self._outputs.append(_value(name, dtype, shape))

    def save(self, producer: str) -> None:
        """Write the graph beside its data. The bytes depend on nothing but what was added."""
        from onnx import helper

        self._data.close()
        tensors = list(self._tensors.values())
        graph = helper.make_graph(self._nodes, "decoder", self._inputs, self._outputs, initializer=tensors)
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, producer_name=producer, ir_version=IR_VERSION)
        self.path.write_bytes(model.SerializeToString(deterministic=True))


def _value(name: str, dtype: Any, shape: list[int | str]) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
