"""Matrix products of the installed llama.cpp: those of ``deploy/llama_cpp_blocks_of_32.h``, or its own."""

from __future__ import annotations

import ctypes
import itertools
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

llama_cpp = pytest.importorskip("llama_cpp")

KINDS = {"Q8_0": 8, "Q5_0": 6, "Q4_0": 2, "IQ4_NL": 20, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
"""Type -> number in ``enum ggml_type`` (ggml.h)."""


class Init(ctypes.Structure):
    """``struct ggml_init_params``."""

    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


@cache
def ggml() -> tuple[Any, Any]:
    """(libggml-base, libggml-cpu)"""
    folder = Path(llama_cpp.__file__).parent / "lib"
    base, cpu = (ctypes.CDLL(str(next(folder.glob(f"libggml-{part}.*")))) for part in ("base", "cpu"))
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    for name, result, arguments in (
        ("ggml_init", pointer, [Init]),
        ("ggml_free", None, [pointer]),
        ("ggml_new_tensor_2d", pointer, [pointer, ctypes.c_int, whole, whole]),
        ("ggml_get_data", pointer, [pointer]),
        ("ggml_mul_mat", pointer, [pointer, pointer, pointer]),
        ("ggml_new_graph", pointer, [pointer]),
        ("ggml_build_forward_expand", None, [pointer, pointer]),
        ("ggml_quantize_chunk", ctypes.c_size_t, [ctypes.c_int, pointer, pointer, whole, whole, whole, pointer]),
        ("ggml_row_size", ctypes.c_size_t, [ctypes.c_int, whole]),
    ):
        function = getattr(base, name)
        function.restype, function.argtypes = result, arguments
    cpu.ggml_cpu_init()
    cpu.ggml_graph_compute_with_ctx.argtypes = [pointer, pointer, ctypes.c_int]
    return base, cpu


def product(
    weights: npt.NDArray[np.float32], columns: npt.NDArray[np.float32], kind: str, threads: int
) -> npt.NDArray[np.float32]:
    """[n, m] = columns [n, k] times the rounded weights [m, k], as llama.cpp computes it."""
    base, cpu = ggml()
    (m, k), n = weights.shape, len(columns)
    context = base.ggml_init(Init(64 * 2**20, None, False))
    left = base.ggml_new_tensor_2d(context, KINDS[kind], k, m)
    right = base.ggml_new_tensor_2d(context, 0, k, n)
    base.ggml_quantize_chunk(KINDS[kind], weights.ctypes.data, base.ggml_get_data(left), 0, m, k, None)
    ctypes.memmove(base.ggml_get_data(right), columns.ctypes.data, columns.nbytes)
    out = base.ggml_mul_mat(context, left, right)
    graph = base.ggml_new_graph(context)
    base.ggml_build_forward_expand(graph, out)
    cpu.ggml_graph_compute_with_ctx(context, graph, threads)
    found = np.empty((n, m), dtype=np.float32)
    ctypes.memmove(found.ctypes.data, base.ggml_get_data(out), found.nbytes)
    base.ggml_free(context)
    return found


def activations(draw: np.random.Generator, n: int, k: int, kind: str) -> npt.NDArray[np.float32]:
    """[n, k] that Q8_0 and Q8_K hold exactly: whole numbers to 127, which each block has, times powers of two."""
    block = 256 if kind.endswith("_K") else 32
    codes = draw.integers(-127, 128, (n, k // block, block)).astype(np.float32)
    codes[:, :, 5] = 127
    return (codes * np.exp2(draw.integers(-9, 3, (n, k // block, 1))).astype(np.float32)).reshape(n, k)


def stored(weights: npt.NDArray[np.float32], kind: str) -> npt.NDArray[np.float64]:
    """The weights that the blocks stand for: their products with unit columns, which are rounded all but exactly."""
    k = weights.shape[1]
    return product(weights, 127 * np.eye(k, dtype=np.float32), kind, 1).T.astype(np.float64) / 127


def shapes(kind: str) -> list[tuple[int, int]]:
    """(rows, weights in a row)"""
    return [*itertools.product((1, 7, 16, 33, 144), (256, 768) if kind.endswith("_K") else (32, 96, 576)), (1000, 256)]


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_stored_weights(kind: str) -> None:
    draw = np.random.default_rng(3)
    for m, k in shapes(kind):
        weights = draw.standard_normal((m, k)).astype(np.float32) * np.exp(draw.standard_normal((m, 1))).astype(
            np.float32
        )
        exact = stored(weights, kind)
        for n, threads in ((1, 1), (2, 2), (3, 1), (4, 3), (5, 1), (63, 2), (64, 1), (65, 2), (130, 3)):
            columns = activations(draw, n, k, kind)
            expected, size = columns.astype(np.float64) @ exact.T, np.abs(columns) @ np.abs(exact).T
            assert np.all(np.abs(product(weights, columns, kind, threads) - expected) <= 2e-6 * size), (m, k, n)


def by_vnni() -> bool:
    """Whether the products are ours: the processor has AVX-512 VNNI and llama.cpp was built by ``make install``."""
    cpu = Path("/proc/cpuinfo")
    if not cpu.is_file() or "avx512_vnni" not in cpu.read_text():
        return False
    library = next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-cpu.*"))
    return b"llama_cpp_chosen" in library.read_bytes()


@pytest.mark.skipif(not by_vnni(), reason="llama.cpp's own products, whose order of sums is its own")
@pytest.mark.parametrize("kind", ["Q8_0", "Q5_0", "Q4_0", "IQ4_NL"])
def test_a_column_is_the_same_bits_alone_and_among_others(kind: str) -> None:
    draw = np.random.default_rng(4)
    for m, k in shapes(kind):
        weights = draw.standard_normal((m, k)).astype(np.float32)
        columns = draw.standard_normal((70, k)).astype(np.float32)
        together = product(weights, columns, kind, 2)
        for first, count in ((0, 1), (1, 2), (3, 3), (6, 4), (10, 5), (15, 17), (69, 1)):
            alone = product(weights, np.ascontiguousarray(columns[first : first + count]), kind, 1)
            assert np.array_equal(alone, together[first : first + count]), (m, k, first, count)


def test_extreme_values_stay_exact() -> None:
    """Weights and activations at the ends of their bytes: the integer sums neither saturate nor wrap."""
    signs = np.sign(np.random.default_rng(5).standard_normal((48, 1536))).astype(np.float32)
    found = product(signs, signs[:9], "Q8_0", 2)
    assert np.allclose(found, signs[:9] @ signs.T, atol=2)
