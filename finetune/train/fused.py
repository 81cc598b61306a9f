"""Adapters trained on a CPU: bfloat16 products, a float32 residual stream, and nothing kept or converted twice.

peft adds the output of an adapter to a linear's that is rounded to bfloat16 already: a change under half a step of the
number it is added to is lost, and most are at first. Here the product with the weight is added to the adapter's output
inside the matrix product's float32 sum, and rounded once. Hidden states go from norm to linears in bfloat16, once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BF16 = torch.bfloat16


class _AdaptedProduct(torch.autograd.Function):  # type: ignore[misc]
    """y = x Wᵀ + bias + s (x Aᵀ) Bᵀ with W frozen; x ``[…, in]``, A ``[rank, in]``, B ``[out, rank]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, B: Tensor, scale: float, layer: nn.Module) -> Tensor:
        rows, a, b = x.flatten(0, -2).to(BF16), A.to(BF16), B.to(BF16)
        inner = rows @ a.T
        y = inner @ b.T
        if scale != 1:
            y *= scale
        bias = getattr(layer, "bias", None)
        if bias is not None:
            y += bias
        y.addmm_(rows, _weight(layer).T)
        ctx.save_for_backward(rows, inner, a, b)
        ctx.scale, ctx.layer, ctx.shape, ctx.dtype = scale, layer, x.shape, x.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, a, b = ctx.saved_tensors
        above = above.flatten(0, -2).to(BF16)
        inner_grad = (above @ b) * ctx.scale
        grad = None
        if ctx.needs_input_grad[0]:
            grad = (inner_grad @ a).addmm_(above, _weight(ctx.layer)).view(ctx.shape).to(ctx.dtype)
        return grad, (inner_grad.T @ rows).float(), (above.T @ inner).float() * ctx.scale, None, None


class _Product(torch.autograd.Function):  # type: ignore[misc]
    """y = x Wᵀ + bias with W frozen: a linear without an adapter beside those that have one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any) -> Tensor:
        y = x.flatten(0, -2).to(BF16) @ _weight(layer).T
        if layer.bias is not None:
            y += layer.bias
        ctx.layer, ctx.shape, ctx.dtype = layer, x.shape, x.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, None]:
        grad = above.flatten(0, -2).to(BF16) @ _weight(ctx.layer)
        return grad.view(ctx.shape).to(ctx.dtype), None


def _weight(layer: Any) -> Tensor:
    """bfloat16 ``[out, in]``."""
    state = getattr(layer.weight, "quant_state", None)
    if state is not None:
        from bitsandbytes.functional import dequantize_4bit

        weight: Tensor = dequantize_4bit(layer.weight.data, state)
        return weight
    return layer.weight.T if type(layer).__name__ == "Conv1D" else layer.weight


def fuse(model: Any) -> int:
    """Make a peft model's LoRA linears compute as above; their number. The base is frozen and stays so.

    Its linears become bfloat16 where they are not NF4; embeddings keep their dtype, norms compute in float32.
    """
    from peft.tuners.lora.layer import LoraLayer

    count = 0
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            _fuse(module)
            count += 1
        elif _plain(module) and (".layers." in name or ".h." in name) and ".lora_" not in name:
            if not name.endswith(".base_layer"):
                _narrowed(module)
                module.forward = lambda x, layer=module: _Product.apply(x, layer)
        elif type(module).__name__.endswith("Norm"):
            module.float()
            if ".layers." in name or ".h." in name:
                module.register_forward_hook(_narrow)
        elif type(module).__name__.endswith("RotaryEmbedding"):
            module.register_forward_hook(_narrow)
        elif isinstance(module, nn.Embedding):
            module.register_forward_hook(_widen)
    return count


def _fuse(layer: Any) -> None:
    base = layer.base_layer
    _narrowed(base)
    (adapter,) = layer.active_adapters
    A, B, scale = layer.lora_A[adapter], layer.lora_B[adapter], float(layer.scaling[adapter])
    assert not layer.lora_variant, "only plain LoRA is fused"
    layer.forward = lambda x, *_, **__: _AdaptedProduct.apply(x, A.weight, B.weight, scale, base)


def _plain(module: nn.Module) -> bool:
    """Whether it is a linear, NF4 or GPT-2's."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _narrowed(layer: Any) -> None:
    state = getattr(layer.weight, "quant_state", None)
    if state is not None:
        state.dtype = BF16  # what dequantizing gives
    else:
        layer.weight.data = layer.weight.data.to(BF16)


def _narrow(module: nn.Module, given: Any, out: Any) -> Any:
    return tuple(part.to(BF16) for part in out) if isinstance(out, tuple) else out.to(BF16)


def _widen(module: nn.Module, given: Any, out: Tensor) -> Tensor:
    return out.float()
