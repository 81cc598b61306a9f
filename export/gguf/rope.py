"""Rotary position embedding in GGUF: what config.json says of it, and how llama.cpp is told.

llama.cpp turns pair i by ``position * theta^(-2i/dim) / divisor_i``. Linear scaling and standard YaRN are header keys;
other scalings are a tensor of divisors, for graphs that read one. Formulas: transformers' modeling_rope_utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError

FULL, SLIDING = "full_attention", "sliding_attention"
_NATIVE = frozenset({"default", "linear", "dynamic"})
"""Computed by every rotary graph; a dynamic base only changes beyond the context length."""


def rope_of(settings: Mapping[str, Any], blocks: str | None = None) -> dict[str, Any]:
    """Rotary settings of all blocks, or of one kind of ``blocks`` where a family has two tables.

    Has ``rope_type``, ``rope_theta``, ``original`` (context before scaling) and ``longest`` in any case. Reads
    transformers 5's ``rope_parameters`` or the older ``rope_theta`` and ``rope_scaling``.
    """
    given = (
        _of_kind(settings, blocks) if blocks else settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    )
    if not isinstance(given, Mapping):
        raise ArtifactError(
            f"config.json has rotary settings that are no object: {given!r}", next="give a complete config.json"
        )
    rope = dict(given)
    longest = settings.get("max_position_embeddings") or 2048
    original = settings.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if "short_factor" in rope and kind in ("su", "yarn"):  # Phi-3's older names
        kind = "longrope"
    return rope | {
        "rope_type": kind,
        "rope_theta": float(rope.get("rope_theta") or settings.get("rope_theta") or 10000.0),
        "partial": float(rope.get("partial_rotary_factor") or settings.get("partial_rotary_factor") or 1.0),
        "original": int(original or longest),
        "longest": int(longest),
    }


def _of_kind(settings: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Gemma 3: local blocks have a base of their own and no scaling."""
    given = (settings.get("rope_parameters") or {}).get(kind) or {}
    if kind == SLIDING:
        return {"rope_theta": settings.get("rope_local_base_freq") or 1e4, **given}
    return {"rope_theta": settings.get("rope_theta") or 1e6, **given, **(settings.get("rope_scaling") or {})}


def needs(rope: Mapping[str, Any]) -> str:
    """What a graph must offer for it: ``keys``, ``yarn``, ``divisors`` or ``long``; "" for an unknown scaling."""
    kind = rope["rope_type"]
    if kind in _NATIVE:
        return "keys"
    if kind == "yarn":
        return "yarn" if _standard(rope) else "divisors"
    return {"llama3": "divisors", "longrope": "long"}.get(kind, "")


def _standard(rope: Mapping[str, Any]) -> bool:
    """YaRN with the constants that llama.cpp's dense graphs have built in."""
    betas = (float(rope.get("beta_fast") or 32), float(rope.get("beta_slow") or 1))
    return betas == (32.0, 1.0) and bool(rope.get("truncate", True))


def stretch(rope: Mapping[str, Any]) -> float:
    """How many times longer the scaled context is."""
    return _positive(rope.get("factor") or rope["longest"] / rope["original"])


def _positive(value: Any) -> float:
    if not 0 < float(value) < math.inf:
        raise ValueError(f"a rotary factor of {value}")
    return float(value)


def attention_factor(rope: Mapping[str, Any]) -> float:
    """What multiplies the whole table: YaRN's and LongRoPE's temperature, else 1."""
    if rope["rope_type"] not in ("yarn", "longrope"):
        return 1.0
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    factor, over, under = stretch(rope), rope.get("mscale"), rope.get("mscale_all_dim")
    if rope["rope_type"] == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(rope["original"])) if factor > 1 else 1.0
    return _temperature(factor, over) / _temperature(factor, under) if over and under else _temperature(factor)


def _temperature(factor: float, weight: float = 1.0) -> float:
    """YaRN's, which llama.cpp has built in with weight 1."""
    return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0


def rope_tensors(rope: Mapping[str, Any], dim: int) -> dict[str, npt.NDArray[np.float32]]:
    """Name in GGUF -> divisors of the ``dim / 2`` frequencies, float32; empty where header keys say all.

    Raises ArtifactError when LongRoPE's lists have another length.
    """
    if needs(rope) == "long":
        return {f"rope_factors_{which}.weight": _listed(rope, which, dim) for which in ("long", "short")}
    if needs(rope) != "divisors":
        return {}
    divisors = _llama3(rope, dim) if rope["rope_type"] == "llama3" else _yarn(rope, dim)
    return {"rope_freqs.weight": divisors.astype(np.float32)}


def _listed(rope: Mapping[str, Any], which: str, dim: int) -> npt.NDArray[np.float32]:
    values = np.asarray(rope.get(f"{which}_factor") or [], dtype=np.float32)
    if values.shape != (dim // 2,) or not (values > 0).all():
        raise ArtifactError(
            f"config.json's {which}_factor holds {values.size} values; {dim // 2} rotary frequencies need as many, all "
            "above zero",
            next="complete the model's config.json",
        )
    return values


def _llama3(rope: Mapping[str, Any], dim: int) -> npt.NDArray[np.float32]:
    steps = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    wavelength = 2 * math.pi * np.float32(rope["rope_theta"]) ** steps
    factor, context = _positive(rope.get("factor", 8.0)), float(rope["original"])
    low, high = float(rope.get("low_freq_factor", 1.0)), float(rope.get("high_freq_factor", 4.0))
    _positive(high - low)
    smooth = (context / wavelength - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(wavelength < context / high, 1.0, np.where(wavelength > context / low, factor, between))


def _yarn(rope: Mapping[str, Any], dim: int) -> npt.NDArray[np.float64]:
    """YaRN (Peng et al. 2023) with other ramps than llama.cpp's own."""

    def dimension(rotations: float) -> float:
        return dim * math.log(rope["original"] / (rotations * 2 * math.pi)) / (2 * math.log(rope["rope_theta"]))

    low, high = dimension(rope.get("beta_fast") or 32), dimension(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low or 0.001), 0, 1)
    return 1 / (ramp / stretch(rope) + 1 - ramp)


def write_rope(writer: Any, rope: Mapping[str, Any], dim: int) -> None:
    """The header's rotary keys (``gguf.GGUFWriter``); ``dim`` of each head's dimensions turn."""
    import gguf

    writer.add_rope_dimension_count(dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    kind, factor = needs(rope), attention_factor(rope)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(_positive(rope["factor"]))
    elif kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(stretch(rope))
        writer.add_rope_scaling_orig_ctx_len(rope["original"])
        factor /= _temperature(stretch(rope))
    elif kind == "long":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(rope["original"])
    if kind == "long" or abs(factor - 1) > 1e-7:
        writer.add_rope_scaling_attn_factors(factor)
