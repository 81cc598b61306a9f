"""Which type each tensor gets in a file of a named type (``Q4_K_M``, ``IQ4_XS``, …).

The mixes are llama.cpp's (``llama_tensor_get_type_impl`` and ``tensor_type_fallback`` in
src/llama-quant.cpp), written as one small rule per part of a block, for dense models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from export.gguf.ggml import PLAIN, block_size

FILE_TYPES: dict[str, tuple[int, str]] = {
    "F32": (0, "F32"),
    "F16": (1, "F16"),
    "BF16": (32, "BF16"),
    "Q8_0": (7, "Q8_0"),
    "Q6_K": (18, "Q6_K"),
    "Q5_K_M": (17, "Q5_K"),
    "Q5_K_S": (16, "Q5_K"),
    "Q5_1": (9, "Q5_1"),
    "Q5_0": (8, "Q5_0"),
    "Q4_K_M": (15, "Q4_K"),
    "Q4_K_S": (14, "Q4_K"),
    "Q4_1": (3, "Q4_1"),
    "Q4_0": (2, "Q4_0"),
    "IQ4_NL": (25, "IQ4_NL"),
    "IQ4_XS": (30, "IQ4_XS"),
    "Q3_K_L": (13, "Q3_K"),
    "Q3_K_M": (12, "Q3_K"),
    "Q3_K_S": (11, "Q3_K"),
    "IQ3_M": (27, "IQ3_S"),
    "IQ3_S": (26, "IQ3_S"),
    "IQ3_XS": (22, "IQ3_S"),
    "IQ3_XXS": (23, "IQ3_XXS"),
    "Q2_K": (10, "Q2_K"),
    "Q2_K_S": (21, "Q2_K"),
    "IQ2_M": (29, "IQ2_S"),
    "IQ2_S": (28, "IQ2_XS"),
    "IQ2_XS": (20, "IQ2_XS"),
    "IQ2_XXS": (19, "IQ2_XXS"),
}
"""Name -> (number in ``enum llama_ftype``, type of most tensors), largest file first."""

_SUPER_BLOCK = 256
"""Weights of the longest block; every other block divides it."""
_VERY_LOW = frozenset({"IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"})
_NEEDS_IMPORTANCE = frozenset({"IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S"})
_FALLBACK = {
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_K", "Q3_K"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}


@dataclass(frozen=True)
class Model:
    """What of a model the mixes look at."""

    layers: int
    heads_per_kv: int
    tied: bool
    """The output head is the token embedding."""
    importance: bool
    """An importance matrix is used."""
    seventy: bool = False
    """Llama 70B's shape: attn_v is 8x smaller than attn_q, so it gets more bits."""


def is_seventy(gguf: str, layers: int, heads: int, kv_heads: int) -> bool:
    """Whether llama.cpp takes a model of this graph and shape for Llama 70B (``load_arch_hparams`` in src/models)."""
    return layers == 80 and (gguf == "qwen2" or (gguf == "llama" and heads != kv_heads))


def choose(name: str, shape: tuple[int, ...], file_type: str, model: Model) -> str:
    """The type of tensor ``name`` (GGUF name) with ``shape`` [rows, columns] or [n] in a file of ``file_type``."""
    return _chosen(name, shape, shape[-1], file_type, model)


def wanted(name: str, shape: tuple[int, ...], file_type: str, model: Model) -> str:
    """``choose`` as if its rows were whole blocks of every type."""
    return _chosen(name, shape, _SUPER_BLOCK, file_type, model)


def _chosen(name: str, shape: tuple[int, ...], columns: int, file_type: str, model: Model) -> str:
    base = FILE_TYPES[file_type][1]
    if not _quantizable(name, shape):
        return "F32"
    if base in PLAIN:
        return base
    return fitting(_mixed(name, columns, file_type, base, model), columns)


def needs_importance(name: str, kind: str, file_type: str) -> bool:
    """Whether llama.cpp refuses ``kind`` for this tensor without an importance matrix."""
    if name in ("token_embd.weight", "output.weight"):
        return False
    return kind in _NEEDS_IMPORTANCE or (kind == "Q2_K" and file_type == "Q2_K_S")


def _quantizable(name: str, shape: tuple[int, ...]) -> bool:
    matrix = len(shape) >= 2 and shape[0] > 1
    return matrix and name.endswith("weight") and "_norm.weight" not in name and name != "position_embd.weight"


def fitting(kind: str, columns: int) -> str:
    """``kind``, or the type that llama.cpp falls back to for rows that are not whole blocks."""
    if columns % block_size(kind) == 0:
        return kind
    smaller = _FALLBACK.get(kind, kind)
    return smaller if columns % block_size(smaller) == 0 else "F16"


def _mixed(name: str, columns: int, file_type: str, base: str, model: Model) -> str:
    if name == "output.weight" or (name == "token_embd.weight" and model.tied):
        return _output(columns, file_type, base)
    if name == "token_embd.weight":
        return _embedding(file_type, base)
    found = re.match(r"blk\.(\d+)\.(.+)\.weight$", name)
    layer, part = (int(found[1]), found[2]) if found else (0, name)
    if file_type in _VERY_LOW:
        return _very_low(part, layer, file_type, base, model)
    if part in ("attn_v", "attn_qkv"):
        return _value(layer, file_type, base, model)
    if part == "ffn_down":
        return _down(layer, file_type, base, model)
    if part in ("attn_q", "attn_k"):
        return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(file_type, base)
    if part == "attn_output":
        return _ATTENTION_OUTPUT.get(file_type, base)
    if part in ("ffn_gate", "ffn_up") and file_type == "IQ3_XS":
        return "IQ3_XXS" if model.layers // 8 <= layer < 7 * model.layers // 8 else base
    return base


_ATTENTION_OUTPUT = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}


def _more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the blocks, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _output(columns: int, file_type: str, base: str) -> str:
    if columns % block_size(base) != 0:
        return "Q8_0"
    if file_type in _VERY_LOW or file_type == "IQ3_XXS":
        return "Q5_K"
    return base if base == "Q8_0" else "Q6_K"


def _embedding(file_type: str, base: str) -> str:
    if file_type in ("IQ2_XXS", "IQ2_XS"):
        return "Q2_K"
    return "IQ3_S" if file_type in ("IQ2_S", "IQ2_M", "IQ3_XXS") else base


def _very_low(part: str, layer: int, file_type: str, base: str, model: Model) -> str:
    better = file_type in ("IQ2_S", "IQ2_M")
    if part in ("attn_v", "attn_qkv"):
        return "Q4_K" if model.heads_per_kv >= 4 else "IQ3_S" if better else "Q2_K"
    if part == "ffn_down" and layer < model.layers // 8:
        return "IQ3_S" if better else "Q2_K"
    if part == "attn_output" and better:
        return "IQ3_S"
    return base


def _value(layer: int, file_type: str, base: str, model: Model) -> str:
    grouped = model.heads_per_kv >= 4
    kind = base
    if file_type == "Q2_K":
        kind = "Q4_K" if grouped else "Q3_K"
    elif file_type == "IQ3_XXS":
        kind = "Q4_K" if grouped else "IQ3_XXS" if model.importance else "IQ3_S"
    elif (file_type in ("Q2_K_S", "IQ3_XS", "IQ3_S") and grouped) or file_type == "IQ3_M":
        kind = "Q4_K"
    elif file_type == "Q3_K_M":
        kind = "Q5_K" if layer < 2 else "Q4_K"
    elif file_type == "Q3_K_L" or (file_type in ("IQ4_NL", "IQ4_XS") and grouped):
        kind = "Q5_K"
    elif file_type in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, model.layers):
        kind = "Q6_K"
    elif file_type == "Q4_K_S" and layer < 4:
        kind = "Q5_K"
    return "Q5_K" if model.seventy and kind in ("Q3_K", "Q4_K") else kind


def _down(layer: int, file_type: str, base: str, model: Model) -> str:
    first = layer < model.layers // 8
    if file_type == "Q2_K":
        return "Q3_K"
    if file_type == "IQ3_XXS" and not model.importance:
        return "Q4_K" if first else "Q3_K"
    if file_type == "Q3_K_M":
        return "Q5_K" if layer < model.layers // 16 else "Q4_K"
    if file_type == "Q3_K_L":
        return "Q5_K"
    if file_type in ("Q4_K_M", "Q5_K_M"):
        return "Q6_K" if _more_bits(layer, model.layers) else base
    if first and file_type in ("Q2_K_S", "IQ3_M"):
        return "Q4_K"
    if first and (file_type == "Q4_K_S" or (file_type in ("IQ4_NL", "IQ4_XS") and not model.importance)):
        return "Q5_K"
    if first and model.importance and file_type in ("Q4_0", "Q5_0"):
        return {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}[file_type]
    return base
