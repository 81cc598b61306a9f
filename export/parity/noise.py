"""What a runtime's own arithmetic does to logits, imitated in torch.

llama.cpp rounds what enters a product with a quantized weight to int8 in blocks and keeps keys and values in float16;
onnxruntime's MatMulNBits at accuracy level 4 rounds to int8 in blocks too. The same roundings in the Hugging Face model
tell how far the runtime may be from exact arithmetic on the same weights, for this very model and these very prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Tensor = Any  # torch.Tensor; torch is imported where it is used

GGUF_ROUNDING = {
    "F16": "f16",
    "BF16": "bf16",
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"), "int8/32"),
    **dict.fromkeys(("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"), "int8/256"),
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "int8/256"),
}
"""GGUF tensor type -> what its products round the other side to (``vec_dot_type`` in ggml-cpu.c)."""
ATTENTION_INPUTS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn")
ATTENTION_OUTPUTS = ("o_proj",)


def rounded(x: Tensor, how: str) -> Tensor:
    """``x [..., n]`` as the runtime sees it: ``f16``, ``bf16`` or ``int8/<block>`` with one scale per block."""
    import torch

    if how in ("f16", "bf16"):
        return x.to(torch.float16 if how == "f16" else torch.bfloat16).to(x.dtype)
    block = int(how.removeprefix("int8/"))
    pad = -x.shape[-1] % block
    blocks = torch.nn.functional.pad(x, (0, pad)).unflatten(-1, (-1, block))
    scale = (blocks.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-30)
    back = ((blocks / scale).round() * scale).flatten(-2)
    return back[..., : x.shape[-1]]


@contextmanager
def arithmetic(model: Any, roundings: Mapping[str, str], *, half_cache: bool) -> Iterator[None]:
    """Let ``model`` (torch) compute as the runtime does. ``roundings``: module name -> how its input is rounded;
    ``half_cache``: attention sees its inputs, and gives its output, in float16, and so do GELUs (ggml has a table)."""
    hooks = []
    for name, module in model.named_modules():
        if roundings.get(name):
            hooks.append(module.register_forward_pre_hook(_before(roundings[name])))
        last = name.rpartition(".")[2]
        if half_cache and last in ATTENTION_INPUTS:
            hooks.append(module.register_forward_hook(_after))
        table = type(module).__name__.lower().startswith(("gelu", "newgelu", "fastgelu"))
        if half_cache and (last in ATTENTION_OUTPUTS or table):
            hooks.append(module.register_forward_pre_hook(_before("f16")))
        if half_cache and table:
            hooks.append(module.register_forward_hook(_after))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _before(how: str) -> Any:
    def hook(module: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        del module
        return (rounded(given[0], how), *given[1:])

    return hook


def _after(module: Any, given: Any, out: Any) -> Any:
    del module, given
    return rounded(out, "f16")
