"""ggml's GELU, which is a table in half precision, for transformers' models."""

from __future__ import annotations

import torch


class TableGelu(torch.nn.Module):
    """The tanh GELU as ggml's CPU kernels compute it: argument and value in half precision, from a table."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
        return torch.where(x <= -10, 0.0, torch.where(x >= 10, x, inner))


def table_gelu(model: torch.nn.Module) -> None:
    """Give a transformers model ggml's GELU, where it has one."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if "gelu" in type(child).__name__.lower():
                setattr(module, name, TableGelu())
