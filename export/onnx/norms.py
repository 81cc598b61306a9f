"""Norms of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from export.onnx.family import Spec
from export.onnx.linears import Linears


def norm(linears: Linears, spec: Spec, tensor: str, x: str, name: str) -> str:
    """RMS norm, or layer norm where the folder holds a bias; computed in float32 over the last dimension."""
    graph = linears.graph
    how: dict[str, Any] = {"axis": -1, "epsilon": spec.eps, "stash_type": 1}
    values = linears.rows(f"{tensor}.weight")[0] + np.float32(spec.family.norm_offset)
    weight = graph.float_weight(f"{tensor}.weight", values)
    if f"{tensor}.bias" not in linears.names:
        return graph.node("SimplifiedLayerNormalization", [x, weight], name, **how)
    bias = graph.float_weight(f"{tensor}.bias", linears.rows(f"{tensor}.bias")[0])
    return graph.node("LayerNormalization", [x, weight, bias], name, **how)
