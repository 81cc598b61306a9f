"""The compiled loops of ``_kernels.c``, called on float32 CPU tensors by several threads at once.

Python and tensors release the interpreter while a kernel runs; each thread gets a range of output channels.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
LEAST = 256
"""Output channels that are worth a thread of their own."""
MAX_ROWS = 256
"""Inputs that one call can round."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None, and one warning, where the package was installed without a C compiler."""
    found = importlib.util.find_spec("compress.quantize._kernels")
    if found is None or found.origin is None:
        log.warning("compress was installed without a C compiler: GPTQ takes its slower loops in torch")
        return None
    lib = ctypes.CDLL(found.origin)
    pointer, size, whole, real = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_float
    grid = [pointer, pointer, pointer, whole, pointer, pointer, pointer]  # sub, scale, offset, top, levels, keep, codes
    for name, arguments in (
        ("fit", [pointer, size, whole, pointer, size, size, whole, whole, whole, real, pointer, pointer]),
        ("feed", [pointer, size, whole, pointer, size, size, size, *grid, pointer]),
        ("descend", [pointer, pointer, size, whole, pointer, size, size, size, *grid]),
    ):
        function = getattr(lib, f"holdfast_{name}")
        function.restype, function.argtypes = None, arguments
    return lib


def usable(*tensors: torch.Tensor) -> ctypes.CDLL | None:
    """The kernels if they exist and can work on these tensors."""
    import torch

    fits = all(t.device.type == "cpu" and t.dtype == torch.float32 and t.stride(-1) == 1 for t in tensors)
    return library() if fits else None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "gptq")


def spread(work: Callable[[int, int], None], outputs: int) -> None:
    """Run ``work(first, last)`` over ranges that are multiples of 64 channels, one range per thread."""
    import torch

    threads = max(1, min(torch.get_num_threads(), outputs // LEAST))
    if threads == 1:
        work(0, outputs)
        return
    step = -(-outputs // threads // 64) * 64
    ranges = [(low, min(low + step, outputs)) for low in range(0, outputs, step)]
    for _ in _pool(threads).map(lambda span: work(*span), ranges):
        pass
