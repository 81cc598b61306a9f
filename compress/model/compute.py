"""Where tensors are computed and how exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@cache
def device() -> torch.device:
    """The first GPU, or the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it faster than float32, else float32.

    A factor's relative error is 2⁻⁹, independent between tokens, so it averages out of a Hessian's sums.
    """
    import torch

    quick = torch.cuda.is_available() or torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if quick else torch.float32


@contextmanager
def fast_products() -> Iterator[None]:
    """float32 products may round their factors as ``dtype()`` does; sums stay float32."""
    with _precision("medium"):
        yield


@contextmanager
def exact_products() -> Iterator[None]:
    """float32 products keep float32 factors."""
    with _precision("highest"):
        yield


@contextmanager
def _precision(kind: str) -> Iterator[None]:
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(kind)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
