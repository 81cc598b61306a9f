"""Rotary position embedding (Su et al. 2021, RoFormer) and the scalings that lengthen a model's context.

Pair i of a head turns by ``position · frequency_i`` with ``frequency_i = theta^(−2i/dim)``; a scaling changes the
frequencies, and some multiply the whole table by an attention factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from compress.errors import UnsupportedArchitecture

if TYPE_CHECKING:
    import torch

    Scaling = Callable[["torch.Tensor", Mapping[str, Any]], tuple[torch.Tensor, float]]

FULL = "full_attention"
SLIDING = "sliding_attention"


class Rope(NamedTuple):
    """float32 ``[positions, rotary dim]``; the first half of ``sin`` carries the minus sign of the rotation."""

    cos: torch.Tensor
    sin: torch.Tensor


def rope_table(config: Mapping[str, Any], length: int, kind: str = FULL) -> Rope:
    """Cosines and sines of positions ``0:length`` for blocks of type ``kind``.

    ``config`` in transformers' names (``rope_parameters``, or the older ``rope_scaling`` and ``rope_theta``).
    Raises UnsupportedArchitecture for an unknown scaling, or one whose parameters are incomplete.
    """
    import torch

    given = _parameters(config, length, kind)
    name = given["rope_type"]
    if name not in SCALINGS:
        raise UnsupportedArchitecture(
            f"rotary scaling {name!r} is not known to compress/model/rotary.py",
            next=f"known: {', '.join(sorted(SCALINGS))}",
        )
    exponent = torch.arange(0, given["dim"], 2).float() / given["dim"]
    try:
        frequency, factor = SCALINGS[name](given["rope_theta"] ** -exponent, given)
    except KeyError as error:
        raise UnsupportedArchitecture(
            f"rotary scaling {name!r} of config.json lacks {error}", next="complete the model's config.json"
        ) from None
    angles = torch.outer(torch.arange(length).float(), frequency)
    cos, sin = angles.cos() * factor, angles.sin() * factor
    return Rope(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))


def rotate(x: torch.Tensor, rope: Rope) -> torch.Tensor:
    """Turn ``[…, positions, head_dim]`` in the half-split order of transformers; dims beyond the table's pass through.

    ``rope`` on x's device and in its dtype.
    """
    import torch

    dim = rope.cos.shape[-1]
    if dim < x.shape[-1]:
        return torch.cat((rotate(x[..., :dim], rope), x[..., dim:]), dim=-1)
    return torch.addcmul(x * rope.cos, x.roll(dim // 2, dims=-1), rope.sin)


def _parameters(config: Mapping[str, Any], length: int, kind: str) -> dict[str, Any]:
    """One flat set of parameters: per-type dicts resolved, defaults and the length filled in."""
    given: Mapping[str, Any] = config.get("rope_scaling") or config.get("rope_parameters") or {}
    given = given.get(kind, given)
    head_dim = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    partial = given.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    longest = config.get("max_position_embeddings", length)
    original = config.get("original_max_position_embeddings") or given.get("original_max_position_embeddings")
    return {
        **given,
        "rope_type": given.get("rope_type") or given.get("type") or "default",
        "rope_theta": float(given.get("rope_theta") or config.get("rope_theta") or 10000.0),
        "dim": int(head_dim * partial),
        "length": length,
        "max_position_embeddings": longest,
        "original_max_position_embeddings": original or longest,
    }


def _default(frequency: torch.Tensor, given: Mapping[str, Any]) -> tuple[torch.Tensor, float]:
    del given
    return frequency, 1.0


def _linear(frequency: torch.Tensor, given: Mapping[str, Any]) -> tuple[torch.Tensor, float]:
    """Position interpolation (Chen et al. 2023)."""
    return frequency / given["factor"], 1.0


def _dynamic(frequency: torch.Tensor, given: Mapping[str, Any]) -> tuple[torch.Tensor, float]:
    """NTK-aware base change by the length of this very sequence: none within the original context."""
    factor, dim = given["factor"], given["dim"]
    stretch = factor * max(given["length"] / given["max_position_embeddings"], 1.0) - (factor - 1)
    # theta → theta · stretch^(dim/(dim−2)) raises every frequency's own power of the base
    return frequency ** (1 + math.log(stretch) * dim / (dim - 2) / math.log(given["rope_theta"])), 1.0


def _llama3(frequency: torch.Tensor, given: Mapping[str, Any]) -> tuple[torch.Tensor, float]:
    """Llama 3.1: long wavelengths are interpolated, short ones kept, a linear ramp between."""
    import torch

    low, high, old = given["low_freq_factor"], given["high_freq_factor"], given["original_max_position_embeddings"]
    wavelength = 2 * math.pi / frequency
    smooth = ((old / wavelength - low) / (high - low)).clamp(0, 1)
    return torch.lerp(frequency / given["factor"], frequency, smooth), 1.0


def _yarn(frequency: torch.Tensor, given: Mapping[str, Any]) -> tuple[torch.Tensor, float]:
    """YaRN (Peng et al. 2023), equations 17 to 22: NTK by parts and the attention temperature."""
    import torch

    old, dim = given["original_max_position_embeddings"], given["dim"]
    factor = given["factor"] or given["max_position_embeddings"] / old

    def dimension(rotations: float) -> float:
        return dim * math.log(old / (rotations * 2 * math.pi)) / (2 * math.log(given["rope_theta"]))

    low, high = dimension(given.get("beta_fast") or 32), dimension(given.get("beta_slow") or 1)
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low or 0.001
    interpolated = ((torch.arange(dim // 2).float() - low) / width).clamp(0, 1)
    return torch.lerp(frequency, frequency / factor, interpolated), _temperature(factor, given)


def _temperature(factor: float, given: Mapping[str, Any]) -> float:
    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])
    over, under = given.get("mscale"), given.get("mscale_all_dim")
    return mscale(over) / mscale(under) if over and under else mscale(1.0)


def _longrope(frequency: torch.Tensor, given: Mapping[str, Any]) -> tuple[torch.Tensor, float]:
    """LongRoPE (Ding et al. 2024): a searched factor per frequency, by whether the original context is exceeded."""
    import torch

    old = given["original_max_position_embeddings"]
    chosen = torch.tensor(given["short_factor" if given["length"] <= old else "long_factor"], dtype=torch.float32)
    attention = given.get("attention_factor")
    if attention is None:
        factor = given.get("factor") or given["max_position_embeddings"] / old
        attention = math.sqrt(1 + math.log(factor) / math.log(old)) if factor > 1 else 1.0
    return frequency / chosen, float(attention)


SCALINGS: Mapping[str, Scaling] = {
    "default": _default,
    "dynamic": _dynamic,
    "linear": _linear,
    "llama3": _llama3,
    "longrope": _longrope,
    "yarn": _yarn,
}
"""``rope_type`` -> (frequencies float32 ``[dim / 2]``, parameters) -> (scaled frequencies, attention factor)."""
