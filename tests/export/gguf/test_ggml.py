"""The compiled K-quants write ggml's bytes, also for rows that are awkward to divide by."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest

from compress.errors import ArtifactError
from export.gguf import ggml

needs_kernels = pytest.mark.skipif(ggml._kquants() is None, reason="installed without a C compiler")
WIDTH = 768


def awkward() -> Iterator[tuple[str, np.ndarray]]:
    draw = np.random.default_rng(3)
    normal = draw.standard_normal((37, WIDTH)).astype(np.float32)
    yield "normal", normal * np.float32(0.02)
    yield "bfloat16", (normal.view(np.uint32) & 0xFFFF0000).view(np.float32)
    yield "long tails", draw.standard_t(2, normal.shape).astype(np.float32)
    yield "positive", np.abs(normal)
    yield "few values", draw.integers(-3, 4, normal.shape).astype(np.float32)
    yield "large", normal * np.float32(1e3)
    yield "near the smallest scale", normal * np.float32(1e-9)
    yield "below it", normal * np.float32(1e-16)
    yield "subnormal", normal * np.float32(1e-41)
    patched = np.where(draw.random(normal.shape) < 0.7, 0, normal).astype(np.float32)
    patched[3], patched[5, :256], patched[6], patched[7, ::17] = 0, 1, -2, 50
    yield "zeros and constants", patched


ROWS = dict(awkward())


@needs_kernels
@pytest.mark.parametrize(("kind", "weighed"), sorted(ggml._OURS))
@pytest.mark.parametrize("name", ROWS)
def test_the_bytes_are_ggmls(kind: str, weighed: bool, name: str) -> None:
    rows, draw = np.ascontiguousarray(ROWS[name]), np.random.default_rng(4)
    importance = np.exp(2 * draw.standard_normal(WIDTH)).astype(np.float32)
    for given in (importance, np.where(importance < 1, 0, importance).astype(np.float32)) if weighed else (None,):
        address = None if given is None else given.ctypes.data
        blocks = [np.zeros((len(rows), ggml.row_bytes(kind, WIDTH)), dtype=np.uint8) for _ in range(2)]
        for run, out in zip((ggml._quantizer(kind, weighed), ggml._ggml_rows(kind)), blocks, strict=True):
            run(rows.ctypes.data, out.ctypes.data, len(rows), WIDTH, address)
        assert np.array_equal(*blocks)


@needs_kernels
@pytest.mark.parametrize(("kind", "weighed"), sorted(ggml._OURS))
def test_the_compiled_loops_are_in_use(kind: str, weighed: bool) -> None:
    assert ggml._quantizer(kind, weighed) == getattr(ggml._kquants(), f"holdfast_{kind.lower().replace('k', 'K')}")


def test_a_kernel_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong:
        @staticmethod
        def holdfast_q4_K(rows: int, out: int, count: int, columns: int, importance: int | None) -> None:
            del rows, out, count, columns, importance

    monkeypatch.setattr(ggml, "_kquants", Wrong)
    ggml._quantizer.cache_clear()
    rows = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    got = ggml.quantize(rows, "Q4_K")
    ggml._quantizer.cache_clear()
    assert "differs from ggml's" in caplog.text
    monkeypatch.undo()
    assert np.array_equal(got, ggml.quantize(rows, "Q4_K"))


@pytest.mark.parametrize("kind", ggml.TYPE_IDS)
def test_sizes_are_ggmls(kind: str) -> None:
    size = ggml.library().ggml_row_size
    size.restype, size.argtypes = ctypes.c_size_t, [ctypes.c_int, ctypes.c_int64]
    assert ggml.row_bytes(kind, 1024) == size(ggml.TYPE_IDS[kind], 1024)


def test_threads_do_not_change_bytes() -> None:
    rows = np.random.default_rng(1).standard_normal((333, 512)).astype(np.float32)
    for kind in ("Q4_K", "Q3_K", "Q8_0"):
        assert np.array_equal(ggml.quantize(rows, kind, threads=1), ggml.quantize(rows, kind, threads=3))


def test_infinity_is_refused() -> None:
    rows = np.linspace(-1e15, 1e15, 256, dtype=np.float32)[None]
    with pytest.raises(ArtifactError, match="NaN or infinity"):
        ggml.quantize(rows, "Q4_K")
