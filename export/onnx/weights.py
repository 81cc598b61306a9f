"""Weights as onnxruntime's MatMulNBits stores them: a GPTQ folder's own codes, or rounding to the nearest.

B uint8 [N, blocks, block * bits / 8], lowest bits first; scales [N, blocks]; zero points packed along the blocks,
left out where all are 2^(bits - 1). weight[n, k] = (code - zero) * scale. Source: onnxruntime's contrib operators.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from compress.errors import UsageError
from export.checkpoint import Checkpoint, GptqCheckpoint

BLOCK_SIZES = (256, 128, 64, 32, 16)
"""What MatMulNBits computes."""
CHUNK = 1 << 24
"""Weights that are rounded at a time."""


@dataclass(frozen=True)
class Codes:
    """One linear, [N, K]."""

    columns: int
    bits: int
    block: int
    packed: npt.NDArray[np.uint8]
    """[N, blocks, block * bits / 8]"""
    scales: npt.NDArray[np.float32]
    """[N, blocks]"""
    zeros: npt.NDArray[np.uint8] | None = None
    """[N, ceil(blocks * bits / 8)]"""
    order: npt.NDArray[np.int64] | None = None
    """[K]: column i of the codes multiplies input ``order[i]`` (activation order)."""

    @property
    def rows(self) -> int:
        """N."""
        return self.packed.shape[0]


def from_gptq(checkpoint: GptqCheckpoint, module: str) -> Codes:
    """The codes of ``module`` (ends in ``.``), untouched; 3 bits are stored in 4.

    Raises UsageError where the groups do not fill whole blocks.
    """
    codes, zeros, scales = checkpoint.parts(module)
    groups = checkpoint.groups(module)
    order = None if np.all(np.diff(groups) >= 0) else np.argsort(groups, kind="stable")
    sizes = np.bincount(groups, minlength=scales.shape[1])
    block, index = _blocks(module, sizes)
    packed = _finish(codes if order is None else codes[:, order], zeros[:, index], _width(checkpoint, module), block)
    return replace(packed, scales=np.ascontiguousarray(scales[:, index], dtype=np.float32), order=order)


def _width(checkpoint: GptqCheckpoint, module: str) -> int:
    return checkpoint.entries[f"{module}qweight"].shape[0] * 32 // checkpoint.shape(f"{module}weight")[1]


def _blocks(module: str, sizes: npt.NDArray[np.int64]) -> tuple[int, npt.NDArray[np.int64]]:
    """The block size that divides every group (but the last), and the group of each block."""
    columns, size = int(sizes.sum()), int(sizes[0])
    whole = len(sizes) == 1 or (np.all(sizes[:-1] == size) and 0 < sizes[-1] <= size)
    fitting = [b for b in BLOCK_SIZES if len(sizes) == 1 or size % b == 0]
    if not whole or not fitting:
        raise UsageError(
            f"{module[:-1]} has groups of {size} inputs; onnxruntime's blocks are multiples of 16",
            next="quantize with group_size 32, 64 or 128",
        )
    block = next((b for b in fitting if columns % b == 0), fitting[-1]) if len(sizes) == 1 else fitting[0]
    return block, np.arange(-(-columns // block)) * block // size


def _finish(codes: npt.NDArray[np.uint8], zeros: npt.NDArray[np.int16], width: int, block: int) -> Codes:
    """Codes [N, K] and zero points [N, blocks] of ``width`` bits in the narrowest storage there is."""
    bits = 4 if width == 3 else width
    middle = 2 ** (bits - 1)
    same = bool(np.all(zeros == zeros.flat[0]))
    shift = middle - int(zeros.flat[0]) if same else 0
    fits = same and shift >= 0 and 2**width - 1 + shift < 2**bits
    stored = codes + np.uint8(shift) if fits and shift else codes
    rows, columns = codes.shape
    blocks = zeros.shape[1]
    padded = np.full((rows, blocks * block), middle, dtype=np.uint8)
    padded[:, :columns] = stored
    packed = pack(padded, bits).reshape(rows, blocks, -1)
    points = None if fits else pack(zeros.astype(np.uint8), bits)
    return Codes(columns, bits, block, packed, np.empty((rows, 0), np.float32), points)


def round_to_nearest(checkpoint: Checkpoint, name: str, bits: int, block: int, transposed: bool = False) -> Codes:
    """Symmetric rounding, one scale per block; the value of largest magnitude in a block is met exactly."""
    if transposed:
        parts = [_round(checkpoint.rows(name, 0, checkpoint.shape(name)[0]).T, bits, block)]
    else:
        rows, columns = checkpoint.shape(name)
        step = max(1, CHUNK // columns)
        starts = range(0, rows, step)
        parts = [_round(checkpoint.rows(name, at, min(at + step, rows)), bits, block) for at in starts]
    return stack(parts)


def _round(weight: npt.NDArray[np.float32], bits: int, block: int) -> Codes:
    rows, columns = weight.shape
    blocks, middle = -(-columns // block), 2 ** (bits - 1)
    padded = np.zeros((rows, blocks * block), dtype=np.float32)
    padded[:, :columns] = weight
    parts = padded.reshape(rows, blocks, block)
    top = np.take_along_axis(parts, np.abs(parts).argmax(2)[..., None], 2)
    scales = top / -middle
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    codes = np.clip(np.rint(parts * inverse) + middle, 0, 2 * middle - 1).astype(np.uint8)
    packed = pack(codes.reshape(rows, -1), bits).reshape(rows, blocks, -1)
    return Codes(columns, bits, block, packed, np.ascontiguousarray(scales[..., 0]))


def alike(parts: list[Codes]) -> bool:
    """Whether linears that read the same input can be one."""
    first = parts[0]
    return all(
        (p.bits, p.block, p.zeros is None) == (first.bits, first.block, first.zeros is None)
        and (p.order is first.order or (p.order is not None and np.array_equal(p.order, first.order)))  # type: ignore[arg-type]
        for p in parts
    )


def stack(parts: list[Codes]) -> Codes:
    """Linears of the same input under each other."""
    if len(parts) == 1:
        return parts[0]
    zeros = None if parts[0].zeros is None else np.concatenate([p.zeros for p in parts if p.zeros is not None])
    packed, scales = np.concatenate([p.packed for p in parts]), np.concatenate([p.scales for p in parts])
    return replace(parts[0], packed=packed, scales=scales, zeros=zeros)


def pack(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """uint8 [rows, n] -> [rows, ceil(n * bits / 8)], lowest bits first."""
    per = 8 // bits
    if codes.shape[1] % per:
        codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per)))
    split = codes.reshape(codes.shape[0], -1, per)
    packed = split[..., 0].copy()
    for at in range(1, per):
        packed |= split[..., at] << np.uint8(bits * at)
    return packed


def unpack(packed: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """uint8 [rows, m] -> [rows, m * 8 / bits]."""
    parts = [(packed >> np.uint8(shift)) & np.uint8(2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(packed.shape[0], -1)


def dequantize(codes: Codes) -> npt.NDArray[np.float32]:
    """float32 [N, K] in the order of the model's inputs."""
    wide = unpack(codes.packed.reshape(codes.rows, -1), codes.bits)[:, : codes.columns].astype(np.int16)
    blocks = codes.scales.shape[1]
    points = np.full((codes.rows, blocks), 2 ** (codes.bits - 1), dtype=np.int16)
    if codes.zeros is not None:
        points = unpack(codes.zeros, codes.bits)[:, :blocks].astype(np.int16)
    block = np.arange(codes.columns) // codes.block
    weight = (wide - points[:, block]).astype(np.float32) * codes.scales.astype(np.float32)[:, block]
    if codes.order is None:
        return weight
    restored = np.empty_like(weight)
    restored[:, codes.order] = weight
    return restored
