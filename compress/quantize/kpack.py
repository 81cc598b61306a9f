"""The bytes of a block of weights, as ``ggml-common.h`` lays them out (bitsandbytes for NF4). Little-endian machines.

A block is a row of pieces; a piece is made of the codes or the parameters of all blocks at once, uint8 ``[n, bytes]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Blocks:
    """n blocks: ``codes`` uint8 ``[n, period]``; float16 ``d`` and ``dmin`` (Q4_1, Q5_1: o) ``[n, 1]``; k, m int8."""

    codes: torch.Tensor
    d: torch.Tensor
    dmin: torch.Tensor | None = None
    k: Any = None
    m: Any = None


Piece = Callable[[Blocks], "torch.Tensor"]


def merge(x: torch.Tensor, bits: int, run: int) -> torch.Tensor:
    """uint8 ``[n, length]`` of ``bits`` bits each -> ``[n, length · bits / 8]``; numbers ``run`` apart share a byte."""
    n, share = x.shape[0], 8 // bits
    parts = x.reshape(n, -1, share, run)
    merged = parts[:, :, 0].clone()
    for i in range(1, share):
        merged |= parts[:, :, i] << (bits * i)
    return merged.view(n, -1)


def _bytes(x: torch.Tensor) -> torch.Tensor:
    import torch

    return x.reshape(-1).view(torch.uint8).view(x.shape[0], -1)


def _low(run: int) -> Piece:
    """The low four bits of the codes."""
    return lambda b: merge(b.codes & 15, 4, run)


def _d(b: Blocks) -> torch.Tensor:
    return _bytes(b.d)


def _dmin(b: Blocks) -> torch.Tensor:
    assert b.dmin is not None
    return _bytes(b.dmin)


def _six_bits(b: Blocks) -> torch.Tensor:
    """k and m of Q4_K and Q5_K: eight numbers of six bits each in twelve bytes."""
    import torch

    k, m = _bytes(b.k), _bytes(b.m)
    high = [x[:, :4] | (x[:, 4:] >> 4) << 6 for x in (k, m)]
    return torch.cat([*high, (k[:, 4:] & 15) | (m[:, 4:] & 15) << 4], 1)


def _shifted(b: Blocks) -> torch.Tensor:
    """k of six bits with a sign, as k + 32."""
    return _bytes(b.k + 32)


def _q3_scales(b: Blocks) -> torch.Tensor:
    import torch

    k = _shifted(b)
    return torch.cat([merge(k & 15, 4, 8), merge(k >> 4, 2, 4)], 1)


def _iq4_scales(b: Blocks) -> torch.Tensor:
    import torch

    k = _shifted(b)
    return torch.cat([merge(k >> 4, 2, 1), merge(k & 15, 4, 1)], 1)


def _nf4(b: Blocks) -> torch.Tensor:
    return merge(b.codes.view(-1, 2).flip(1).view(b.codes.shape), 4, 1)


def _two(b: Blocks) -> torch.Tensor:
    return merge(b.codes & 3, 2, 32)


def _fifth(run: int) -> Piece:
    return lambda b: merge(b.codes >> 4, 1, run)


PIECES: dict[str, tuple[Piece, ...]] = {
    "Q2_K": (lambda b: _bytes(b.k | b.m << 4), _two, _d, _dmin),
    "Q3_K": (lambda b: merge(b.codes >> 2, 1, 32), _two, _q3_scales, _d),
    "Q4_K": (_d, _dmin, _six_bits, _low(32)),
    "Q5_K": (_d, _dmin, _six_bits, _fifth(32), _low(32)),
    "Q6_K": (_low(64), lambda b: merge(b.codes >> 4, 2, 32), lambda b: _bytes(b.k), _d),
    "Q4_0": (_d, _low(16)),
    "Q4_1": (_d, _dmin, _low(16)),
    "Q5_0": (_d, _fifth(1), _low(16)),
    "Q5_1": (_d, _dmin, _fifth(1), _low(16)),
    "Q8_0": (_d, lambda b: b.codes - 127),
    "IQ4_NL": (_d, _low(16)),
    "IQ4_XS": (_d, _iq4_scales, _low(16)),
    "NF4": (_nf4,),
    "NF4_ABSMAX": (_nf4,),
}
"""Kind -> what its block consists of, in order. NF4 keeps its scales in a tensor of their own."""


def pack(kind: str, blocks: Blocks) -> torch.Tensor:
    """uint8 ``[n, bytes per block]``."""
    import torch

    return torch.cat([piece(blocks) for piece in PIECES[kind]], 1)
