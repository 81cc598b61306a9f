"""Linear layers in oneDNN's kernels: the same float32 products, summed in another order.

torch multiplies float32 matrices with MKL, which takes a narrow path on processors that are not Intel's; oneDNN takes
what the processor has. On 32 rows and more of a 135 M model it needs half the time (benchmarks/README.md).
"""

from __future__ import annotations

from functools import cache
from typing import Any

WORTH_PACKING = 1 << 18
"""Weights of a layer below which handing its input over costs what the faster product wins."""


def pack_linears(model: Any) -> None:
    """Replace the large linear layers of a float32 torch ``model`` on the CPU in place; the model can then infer only.

    Does nothing where torch was built without oneDNN.
    """
    import torch

    if not torch.backends.mkldnn.is_available():
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if _fits(child):
                setattr(parent, name, _class()(child))


def _fits(module: Any) -> bool:
    import torch

    if type(module) is not torch.nn.Linear:
        return False
    weight = module.weight
    return weight.numel() >= WORTH_PACKING and weight.dtype == torch.float32 and weight.device.type == "cpu"


@cache
def _class() -> Any:
    import torch

    class PackedLinear(torch.nn.Module):
        """``x [..., in] -> [..., out]``."""

        def __init__(self, linear: Any) -> None:
            super().__init__()
            self.weight = linear.weight.detach().to_mkldnn()
            self.bias = None if linear.bias is None else linear.bias.detach().to_mkldnn()

        def forward(self, x: Any) -> Any:
            return torch.nn.functional.linear(x.to_mkldnn(), self.weight, self.bias).to_dense()

    return PackedLinear
