"""ggml's own quantizers and dequantizers, reached by ctypes in the libggml-base that llama-cpp-python ships.

Tensor types are called by their GGUF names (``Q4_K``, ``IQ4_XS``, …). A call releases the GIL,
so rows are split over Python threads; the bytes do not depend on the split. K-quants come from
``_kquants.c``, which writes ggml's bytes at several times its speed, where a probe finds them equal.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError
from compress.extras import need
from runtime.engine.gguf_file import TENSOR_TYPES

log = logging.getLogger(__name__)

PLAIN = frozenset({"F32", "F16", "BF16"})
_WRITTEN = PLAIN | {
    *("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K", "IQ4_NL", "IQ4_XS"),
    *("IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS"),
}
TYPE_IDS = {name: number for number, (name, _, _) in TENSOR_TYPES.items() if name in _WRITTEN}
"""GGUF tensor type -> number in ``enum ggml_type`` (ggml.h), of the types that are written."""
_NAMES = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")


def block_size(kind: str) -> int:
    """Weights per block: a row's length must be a multiple of it."""
    return TENSOR_TYPES[TYPE_IDS[kind]][1]


def row_bytes(kind: str, columns: int) -> int:
    """Bytes of one row of ``columns`` weights."""
    _, block, size = TENSOR_TYPES[TYPE_IDS[kind]]
    assert columns % block == 0, (kind, columns)
    return columns // block * size


@cache
def library() -> ctypes.CDLL:
    """libggml-base with the argument types of the functions used here."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        need("llama_cpp")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    found = [folder / name for name in _NAMES if (folder / name).is_file()]
    if not found:
        raise ArtifactError(f"{folder} holds no libggml-base", next="pip install --force-reinstall llama-cpp-python")
    return _declare(ctypes.CDLL(str(found[0])))


class _Traits(ctypes.Structure):
    """``struct ggml_type_traits`` (ggml.h) as far as it is read here."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


def _declare(lib: ctypes.CDLL) -> ctypes.CDLL:
    floats, whole, size, kind = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t, ctypes.c_int
    for name, result, arguments in (
        ("ggml_quantize_init", None, [kind]),
        ("ggml_quantize_chunk", size, [kind, floats, ctypes.c_void_p, whole, whole, whole, floats]),
        ("ggml_validate_row_data", ctypes.c_bool, [kind, ctypes.c_void_p, size]),
        ("ggml_get_type_traits", ctypes.POINTER(_Traits), [kind]),
    ):
        function: Any = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


Rows = npt.NDArray[np.float32]
Quantizer = Callable[[int, int, int, int, int | None], object]
"""(address of float32 rows, address of the blocks, rows, columns, address of the importance or None)"""


def _ggml_rows(kind: str) -> Quantizer:
    lib, number = library(), TYPE_IDS[kind]

    def run(source: int, target: int, count: int, columns: int, importance: int | None) -> object:
        return lib.ggml_quantize_chunk(number, source, target, 0, count, columns, importance)

    return run


_OURS = frozenset((kind, weighed) for kind in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K") for weighed in (False, True))
_OURS -= {("Q3_K", False)}
"""(type, with importance) that ``_kquants.c`` computes faster than ggml."""


@cache
def _kquants() -> ctypes.CDLL | None:
    """The compiled K-quants; None where the package was installed without a C compiler."""
    found = importlib.util.find_spec("export.gguf._kquants")
    if found is None or found.origin is None:
        log.warning("export was installed without a C compiler: K-quants take ggml's own, slower loops")
        return None
    lib, pointer, size = ctypes.CDLL(found.origin), ctypes.c_void_p, ctypes.c_ssize_t
    for kind in {kind for kind, _ in _OURS}:
        function = getattr(lib, f"holdfast_{kind.lower().replace('k', 'K')}")
        function.restype, function.argtypes = None, [pointer, pointer, size, size, pointer]
    return lib


@cache
def _quantizer(kind: str, weighed: bool) -> Quantizer:
    """``_kquants.c`` where its bytes are seen to be ggml's (another compiler might round otherwise), else ggml."""
    theirs = _ggml_rows(kind)
    lib = _kquants() if (kind, weighed) in _OURS else None
    if lib is None:
        return theirs
    ours: Quantizer = getattr(lib, f"holdfast_{kind.lower().replace('k', 'K')}")
    draw = np.random.default_rng(0)
    rows = draw.standard_t(4, (19, 512)).astype(np.float32)
    importance = np.exp(draw.standard_normal(512)).astype(np.float32) if weighed else None
    blocks = [np.zeros((19, row_bytes(kind, 512)), dtype=np.uint8) for _ in range(2)]
    for run, out in zip((ours, theirs), blocks, strict=True):
        run(rows.ctypes.data, out.ctypes.data, 19, 512, None if importance is None else importance.ctypes.data)
    if np.array_equal(blocks[0], blocks[1]):
        return ours
    log.warning("the compiled %s differs from ggml's here: ggml's own, slower loops are used", kind)
    return theirs


def quantize(
    rows: Rows,
    kind: str,
    importance: Rows | None = None,
    *,
    threads: int = 1,
) -> npt.NDArray[np.uint8]:
    """float32 [n, in] -> uint8 [n, bytes per row], as ggml's own tools would write it.

    ``importance``: float32 [in], the mean squared input per column, or None for plain rounding.
    Raises ArtifactError when the result holds NaN or infinity (a weight was not finite or too large).
    """
    lib, number = library(), TYPE_IDS[kind]
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    count, columns = rows.shape
    weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    assert weights is None or weights.shape == (columns,)
    out = np.empty((count, row_bytes(kind, columns)), dtype=np.uint8)
    lib.ggml_quantize_init(number)
    run = _quantizer(kind, weights is not None)

    def work(start: int, stop: int) -> bool:
        place = out[start:stop]
        given = None if weights is None else weights.ctypes.data
        run(rows[start:stop].ctypes.data, place.ctypes.data, stop - start, columns, given)
        return bool(lib.ggml_validate_row_data(number, place.ctypes.data, place.nbytes))

    if not all(_spread(work, count, columns, threads)):
        raise ArtifactError(f"quantizing to {kind} gave NaN or infinity", next="look for non-finite weights")
    return out


def _spread(work: Callable[[int, int], bool], count: int, columns: int, threads: int) -> list[bool]:
    """Run ``work`` on ranges of rows, several per thread so that the threads end together."""
    least = math.ceil(32 * 512 / columns)
    step = max(least, math.ceil(count / (4 * max(threads, 1))))
    ranges = [(start, min(start + step, count)) for start in range(0, count, step)]
    if threads < 2 or len(ranges) < 2:
        return [work(*span) for span in ranges]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda span: work(*span), ranges))


@cache
def _dequantizer(kind: str) -> Callable[[int, int, int], None]:
    """(address of blocks, address of float32 values, values) of a type that ggml turns into floats."""
    number = next((number for number, (name, _, _) in TENSOR_TYPES.items() if name == kind), None)
    assert number is not None, kind
    traits = library().ggml_get_type_traits(number).contents
    known = (traits.type_name.decode().upper(), traits.blck_size, traits.type_size)
    if known != TENSOR_TYPES[number] or not traits.to_float:
        raise ArtifactError(
            f"the installed ggml makes no floats of the type {kind}", next="pip install -U llama-cpp-python"
        )
    return traits.to_float


def dequantize(blocks: npt.NDArray[np.uint8], kind: str, *, threads: int = 1) -> Rows:
    """uint8 [n, bytes per row] -> float32 [n, in], the weights that the blocks of any GGUF type stand for.

    Raises ArtifactError for a type that is no weight's (``I32``, …).
    """
    blocks = np.ascontiguousarray(blocks)
    if kind == "F32":
        return blocks.view(np.float32)
    _, block, size = next(entry for entry in TENSOR_TYPES.values() if entry[0] == kind)
    count, columns = blocks.shape[0], blocks.shape[1] // size * block
    run, out = _dequantizer(kind), np.empty((count, columns), dtype=np.float32)

    def work(start: int, stop: int) -> bool:
        run(blocks[start:stop].ctypes.data, out[start:stop].ctypes.data, (stop - start) * columns)
        return True

    _spread(work, count, columns, threads)
    return out
