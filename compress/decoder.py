"""One decoder block of the Llama family on plain tensors (Llama, Mistral, Qwen2: RMS norm, rotary attention
with grouped queries, gated FFN). transformers is not imported: a block needs forty lines of it, and its
import costs more memory than a block of a small model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from compress.errors import UnsupportedArchitecture

if TYPE_CHECKING:
    import torch

    from compress.blocks import ModelFolder


class Rope(NamedTuple):
    """Cosines and sines, float32 ``[positions, head_dim]``."""

    cos: torch.Tensor
    sin: torch.Tensor


def head_dim(config: Mapping[str, Any]) -> int:
    """Width of one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def rope_table(config: Mapping[str, Any], length: int) -> Rope:
    """Rotary embedding (Su et al. 2021) with the ``default``, ``linear`` and ``llama3`` frequency scalings."""
    import torch

    given = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = float(given.get("rope_theta") or config.get("rope_theta") or 10000.0)
    dim = head_dim(config)
    frequency = theta ** -(torch.arange(0, dim, 2).float() / dim)
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind == "linear":
        frequency = frequency / given["factor"]
    elif kind == "llama3":
        frequency = _llama3(frequency, given)
    elif kind != "default":
        raise UnsupportedArchitecture(
            f"rotary scaling {kind!r} is not known to compress/decoder.py", next="known: default, linear, llama3"
        )
    angles = torch.outer(torch.arange(length).float(), frequency)
    angles = torch.cat((angles, angles), dim=-1)
    return Rope(angles.cos(), angles.sin())


def _llama3(frequency: torch.Tensor, given: Mapping[str, Any]) -> torch.Tensor:
    import torch

    low, high, old = given["low_freq_factor"], given["high_freq_factor"], given["original_max_position_embeddings"]
    wavelength = 2 * math.pi / frequency
    smooth = ((old / wavelength - low) / (high - low)).clamp(0, 1)
    return torch.lerp(frequency / given["factor"], frequency, smooth)


def _activation(config: Mapping[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    from torch.nn import functional

    kind = config.get("hidden_act", "silu")
    if kind == "silu":
        return functional.silu
    if kind in {"gelu_new", "gelu_pytorch_tanh"}:
        return lambda x: functional.gelu(x, approximate="tanh")
    if kind == "gelu":
        return functional.gelu
    raise UnsupportedArchitecture(f"hidden_act {kind!r} is not known to compress/decoder.py", next="known: silu, gelu")


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square norm over the last axis."""
    import torch

    return torch.nn.functional.rms_norm(x, weight.shape, weight, eps)


def rotate(x: torch.Tensor, rope: Rope) -> torch.Tensor:
    """Apply the rotary embedding to ``[…, positions, head_dim]`` in the half-split order of transformers."""
    import torch

    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * rope.cos + turned * rope.sin


def window_mask(config: Mapping[str, Any], block: int, length: int) -> torch.Tensor | None:
    """Boolean mask of sliding-window attention, or None where plain causal attention sees the same."""
    import torch

    window = config.get("sliding_window")
    kinds = config.get("layer_types")
    slides = kinds[block] == "sliding_attention" if kinds else config.get("use_sliding_window", True)
    if not window or not slides or length <= window:
        return None
    distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    return (distance >= 0) & (distance < window)


def run_llama_block(
    model: ModelFolder,
    block: int,
    tensors: Mapping[str, torch.Tensor],
    x: torch.Tensor,
    rope: Rope,
    see: Callable[[str, torch.Tensor], None],
) -> torch.Tensor:
    """One block on ``x`` float32 ``[windows, positions, hidden]``; ``see(linear, input)`` once per shared input."""
    from torch.nn import functional

    config = model.config
    eps = float(config["rms_norm_eps"])

    def linear(name: str, value: torch.Tensor) -> torch.Tensor:
        return functional.linear(value, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))

    h = rms_norm(x, tensors["input_layernorm.weight"], eps)
    see("self_attn.q_proj", h)
    heads = (
        linear(f"self_attn.{part}_proj", h).unflatten(-1, (-1, head_dim(config))).transpose(1, 2) for part in "qkv"
    )
    q, k, v = heads
    mask = window_mask(config, block, x.shape[1])
    mixed = functional.scaled_dot_product_attention(
        rotate(q, rope), rotate(k, rope), v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
    )
    mixed = mixed.transpose(1, 2).flatten(2)
    see("self_attn.o_proj", mixed)
    x = x + linear("self_attn.o_proj", mixed)
    h = rms_norm(x, tensors["post_attention_layernorm.weight"], eps)
    see("mlp.gate_proj", h)
    inner = _activation(config)(linear("mlp.gate_proj", h)).mul_(linear("mlp.up_proj", h))
    see("mlp.down_proj", inner)
    return x + linear("mlp.down_proj", inner)
