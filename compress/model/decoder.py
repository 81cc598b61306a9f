"""One decoder block on plain tensors: norm, attention, residual, norm, FFN, residual, with what the families vary
(grouped queries, rotary or learned positions, q/k norms, soft caps, sliding windows, norms after a sublayer, fused
linears, an FFN without a gate). transformers is not imported: its import costs more time and memory than a block
of a small model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from compress.errors import UnsupportedArchitecture
from compress.model.layout import Attention, BlockLayout, Part
from compress.model.rotary import Rope, rotate

if TYPE_CHECKING:
    import torch

    See = Callable[[str, torch.Tensor], None]
    Tensors = Mapping[str, torch.Tensor]


class Architecture(Protocol):
    """What a block needs to know of its model (``compress.model.blocks.ModelFolder`` is one)."""

    @property
    def layout(self) -> BlockLayout:
        """The family's names as the model spells them."""

    @property
    def parts(self) -> Mapping[str, Part]:
        """Role -> rows of a linear, named as inside a block."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The config in Llama's names."""

    def attention(self, block: int) -> Attention:
        """Scale, cap, window and kind of a block's attention."""

    def norm(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The family's norm, in float32, returned in weight's dtype."""


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float = 0.0) -> torch.Tensor:
    """x / √(mean x² + eps) · (weight + offset) over the last axis (Zhang & Sennrich 2019).

    Computed in float32, returned in weight's dtype.
    """
    import torch

    x = x.float()
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
    gain = weight.float() + offset if offset else weight.float()
    return (x * torch.rsqrt(mean_square + eps) * gain).to(weight.dtype)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """(x − mean) / √(variance + eps) · weight + bias over the last axis; float32 inside, weight's dtype outside."""
    from torch.nn import functional

    return functional.layer_norm(x.float(), weight.shape, weight.float(), bias.float(), eps).to(weight.dtype)


def soft_cap(x: torch.Tensor, cap: float) -> torch.Tensor:
    """cap · tanh(x / cap)."""
    return (x / cap).tanh() * cap


def window_mask(length: int, window: int | None, device: str = "cpu") -> torch.Tensor | None:
    """Boolean mask ``[length, length]`` of sliding-window attention; None where causal attention sees the same."""
    return None if not window or length <= window else _causal(length, window, device)


@lru_cache(maxsize=4)
def _causal(length: int, window: int, device: str) -> torch.Tensor:
    import torch

    with torch.inference_mode(False):  # kept for callers that train, too
        position = torch.arange(length, device=device)
        distance = position[:, None] - position[None, :]
        return (distance >= 0) & (distance < window)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, how: Attention) -> torch.Tensor:
    """Causal attention with grouped queries: q ``[windows, heads, positions, head_dim]``, k and v with kv_heads."""
    from torch.nn import functional

    length = q.shape[2]
    mask = window_mask(length, how.window, str(q.device))
    if how.softcap is None:
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=how.scale, enable_gqa=q.shape[1] != k.shape[1]
        )
    mask = _causal(length, length, str(q.device)) if mask is None else mask
    return _capped(q, k, v, mask, how.scale, how.softcap)


def _capped(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float, cap: float
) -> torch.Tensor:
    """softmax(cap · tanh(q kᵀ scale / cap)) v with a float32 softmax: no fused kernel caps the scores."""
    import torch

    hidden = torch.zeros(mask.shape, device=q.device).masked_fill(~mask, float("-inf"))
    groups = (k.shape[1], q.shape[1] // k.shape[1])
    mixed = []
    for window in range(q.shape[0]):  # the scores of one window fit into the cache: twice as fast as all at once
        products = q[window].unflatten(0, groups) @ k[window].unsqueeze(1).mT
        scores = torch.add(hidden, (products.float() * (scale / cap)).tanh(), alpha=cap)
        mixed.append((scores.softmax(-1).to(v.dtype) @ v[window].unsqueeze(1)).flatten(0, 1))
    return torch.stack(mixed)


def activation(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The FFN's non-linearity by its name in config.json; UnsupportedArchitecture if it is not known.

    Without gradients it may overwrite its input.
    """
    import torch
    from torch.nn import functional

    known: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "gelu": functional.gelu,
        "relu": functional.relu,
        "silu": lambda x: functional.silu(x, inplace=not torch.is_grad_enabled()),
        **dict.fromkeys(
            ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), lambda x: functional.gelu(x, approximate="tanh")
        ),
    }
    if name not in known:
        raise UnsupportedArchitecture(
            f"activation {name!r} is not known to compress/model/decoder.py", next=f"known: {', '.join(sorted(known))}"
        )
    return known[name]


class Block:
    """One block on the float32 residual stream, step by step.

    ``tensors`` (of ``model.block_tensors``) and with them the linears are in a compute dtype, float32 or bfloat16;
    norms and residual additions are float32.
    """

    def __init__(self, model: Architecture, block: int, tensors: Tensors, ropes: Mapping[str, Rope]) -> None:
        self.model, self.block, self.tensors, self.ropes = model, block, tensors, ropes

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self.model.norm(x, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        return functional.linear(x, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def roles(self, linears: Sequence[str], roles: Sequence[str], x: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the linears, taken apart by role."""
        outputs = {name: self.linear(name, x) for name in linears}
        parts = [self.model.parts[role] for role in roles]
        return [outputs[part.name][..., part.start : part.stop] for part in parts]

    def attention_input(self, x: torch.Tensor) -> torch.Tensor:
        """What query, key and value read, ``[windows, positions, hidden]``."""
        return self.norm(self.model.layout.norms.attention, x)

    def mix(self, h: torch.Tensor) -> torch.Tensor:
        """Attention between its input and its output projection, ``[windows, positions, heads · head_dim]``."""
        how, layout, ropes = self.model.attention(self.block), self.model.layout, self.ropes
        q, k, v = (part.unflatten(-1, (-1, how.head_dim)).transpose(1, 2) for part in self.roles(layout.qkv, "qkv", h))
        if layout.qk_norms:
            q, k = (self.norm(name, part) for name, part in zip(layout.qk_norms, (q, k), strict=True))
        if how.kind in ropes:
            rope = Rope(*(table.to(h) for table in ropes[how.kind]))
            q, k = rotate(q, rope), rotate(k, rope)
        return attend(q, k, v, how).transpose(1, 2).flatten(2)

    def add_attention(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """The residual stream after attention."""
        return self._added(x, self.model.layout.out, mixed, self.model.layout.norms.attention_out)

    def ffn_input(self, x: torch.Tensor) -> torch.Tensor:
        """What the FFN reads, ``[windows, positions, hidden]``."""
        return self.norm(self.model.layout.norms.ffn, x)

    def ffn(self, h: torch.Tensor) -> torch.Tensor:
        """The FFN between its input and its down projection, ``[windows, positions, ffn]``."""
        import torch

        layout, act = self.model.layout, activation(self.model.settings["hidden_act"])
        if not layout.gated:
            return act(self.linear(layout.ffn[0], h))
        gate, up = self.roles(layout.ffn, ("gate", "up"), h)
        inner = act(gate)
        # fresh memory costs more here than the product: reuse it where no gradient needs it
        return inner * up if torch.is_grad_enabled() else inner.mul_(up)

    def add_ffn(self, x: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
        """The residual stream after the FFN."""
        return self._added(x, self.model.layout.down, inner, self.model.layout.norms.ffn_out)

    def _added(self, x: torch.Tensor, linear: str, inner: torch.Tensor, norm: str | None) -> torch.Tensor:
        y = self.linear(linear, inner)
        return x + (self.norm(norm, y) if norm else y)


def _unseen(linear: str, value: torch.Tensor) -> None:
    del linear, value


def run_block(
    model: Architecture, block: int, tensors: Tensors, x: torch.Tensor, rope: Mapping[str, Rope], see: See = _unseen
) -> torch.Tensor:
    """All steps of a block on ``x [windows, positions, hidden]``; returns the same.

    ``see(linear, input)`` is called once per shared input, by the name of the first linear that reads it, with the
    tensor in the compute dtype.
    """
    layout, steps = model.layout, Block(model, block, tensors, rope)
    h = steps.attention_input(x)
    see(layout.qkv[0], h)
    mixed = steps.mix(h)
    see(layout.out, mixed)
    x = steps.add_attention(x, mixed)
    h = steps.ffn_input(x)
    see(layout.ffn[0], h)
    inner = steps.ffn(h)
    see(layout.down, inner)
    return steps.add_ffn(x, inner)
