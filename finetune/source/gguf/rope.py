"""Rotary settings of a config.json from GGUF's header keys and tensors of divisors: export/gguf/rope.py the other way.

llama.cpp turns pair i by ``position * theta^(-2i/dim) / (factor * divisor_i)`` and multiplies the table by an attention
factor. What transformers has no name of its own for becomes a LongRoPE whose lists hold just these divisors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError
from export.gguf import ggml
from export.gguf.rope import rope_tensors
from finetune.source.gguf.keys import Keys

DIVISORS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
TENSORS = frozenset({DIVISORS, LONG, SHORT})
_YARN = {"yarn_ext_factor": 1.0, "yarn_attn_factor": 1.0, "yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0}
"""Keys of newer files whose only value is the one that llama.cpp has built in."""


def rotary(keys: Keys, head_dim: int, context: int) -> dict[str, Any]:
    """``rope_theta``, ``partial_rotary_factor``, ``rope_scaling`` and what belongs to them, those that are not default.

    Raises ArtifactError for a scaling that transformers has no settings for.
    """
    turned = keys.count("rope.dimension_count", head_dim)
    found: dict[str, Any] = {"rope_theta": keys.number("rope.freq_base", 10000.0)}
    if turned != head_dim:
        found["partial_rotary_factor"] = turned / head_dim
    return found | _scaling(keys, found["rope_theta"], turned, context)


def _scaling(keys: Keys, theta: float, turned: int, context: int) -> dict[str, Any]:
    kind, factor = keys.text("rope.scaling.type", "linear"), _factor(keys)
    attention = keys.number("rope.scaling.attn_factor", 1.0)
    original = keys.count("rope.scaling.original_context_length", context)
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise keys.error(f"rotary scaling {kind!r} is not known")
    factor = 1.0 if kind == "none" else factor
    names = TENSORS & set(keys.parts.tensors)
    if kind == "yarn":
        return _yarn(keys, factor, attention, original, names)
    if names >= {LONG, SHORT}:
        lists = [_values(keys, name, turned) * np.float32(factor) for name in (SHORT, LONG)]
        return _longrope(lists[0], lists[1], attention, original)
    divisors = _values(keys, DIVISORS, turned) if DIVISORS in names else np.ones(turned // 2, np.float32)
    if factor == attention == 1:
        return _llama3(divisors, theta, original)
    if DIVISORS not in names and attention == 1:
        return {"rope_scaling": {"rope_type": "linear", "factor": factor}}
    return _longrope(divisors * np.float32(factor), divisors * np.float32(factor), attention, context)


def _factor(keys: Keys) -> float:
    """How many times longer the context is; llama.cpp takes 0 for none."""
    name = "rope.scaling.factor" if keys.get("rope.scaling.factor") is not None else "rope.scale_linear"
    return 1.0 if keys.get(name) == 0 else keys.number(name, 1.0)


def _yarn(keys: Keys, factor: float, attention: float, original: int, names: frozenset[str]) -> dict[str, Any]:
    odd = [name for name, value in _YARN.items() if keys.get(f"rope.scaling.{name}") not in (None, value)]
    if odd or names:
        raise keys.error(f"YaRN with {', '.join(odd) or min(names)} of its own cannot be told to transformers")
    scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    if attention != 1:
        scaling["attention_factor"] = attention * (0.1 * math.log(factor) + 1 if factor > 1 else 1.0)
    return {"rope_scaling": scaling}


def _values(keys: Keys, name: str, turned: int) -> npt.NDArray[np.float32]:
    path, tensor = keys.parts.tensors[name]
    if tensor.shape != (turned // 2,) or tensor.kind != "F32":
        raise keys.error(f"{name} is {tensor.kind} {list(tensor.shape)}, not F32 [{turned // 2}]")
    raw = np.fromfile(path, np.uint8, tensor.nbytes, offset=tensor.start)
    values = ggml.dequantize(raw[None], "F32")[0]
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise keys.error(f"{name} holds values that are no divisors")
    return values


def _longrope(
    short: npt.NDArray[np.float32], long: npt.NDArray[np.float32], attention: float, original: int
) -> dict[str, Any]:
    scaling = {"rope_type": "longrope", "short_factor": _plain(short), "long_factor": _plain(long)}
    return {
        "rope_scaling": scaling | {"attention_factor": attention},
        "original_max_position_embeddings": original,
    }


def _plain(values: npt.NDArray[np.float32]) -> list[float]:
    return [float(str(value)) for value in values]


def _llama3(divisors: npt.NDArray[np.float32], theta: float, original: int) -> dict[str, Any]:
    """Llama 3's parameters if they make these very divisors: the file keeps the divisors alone."""
    if (divisors == 1).all():
        return {}
    for context in dict.fromkeys((8192, original, *(2**power for power in range(5, 21)))):
        scaling = {
            "rope_type": "llama3",
            "factor": float(str(divisors.max())),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        }
        if np.allclose(_made(scaling | {"original": context, "rope_theta": theta}, divisors.size), divisors, rtol=1e-5):
            return {"rope_scaling": scaling | {"original_max_position_embeddings": context}}
    return _longrope(divisors, divisors, 1.0, original)


def _made(rope: dict[str, Any], count: int) -> npt.NDArray[np.float32]:
    try:
        return rope_tensors(rope, 2 * count)[DIVISORS]
    except (ArtifactError, ArithmeticError, ValueError):
        return np.zeros(count, np.float32)
