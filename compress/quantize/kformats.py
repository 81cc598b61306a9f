"""Block formats of weights: ggml's (``ggml-common.h``, ``ggml-quants.c``) and bitsandbytes' NF4.

A format cuts a row into blocks of ``period`` weights and a block into sub-blocks of ``sub``; a weight is stored as
s·z + o with a code for z, and s and o per sub-block in very few bits. One kind = one row of ``FORMATS``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """How a kind stores a weight, and where the search for its parameters starts."""

    period: int
    """Weights per block."""
    sub: int
    """Weights per scale s."""
    top: int
    """Largest code."""
    low: int = 0
    """z of code c is c + low."""
    levels: tuple[float, ...] = ()
    """Ascending z of the codes of a codebook, which then are no integers."""
    k: tuple[int, int] | None = None
    """Range of the integer k in s = d·k, d float16. None: s itself is stored, as float16."""
    wide: bool = False
    """s is stored as float32 and positive."""
    m: int = 0
    """Largest integer m in o = −dmin·m, dmin float16. 0: there is no such offset."""
    free: bool = False
    """o is stored as float16, whatever its sign."""
    starts: tuple[tuple[float, float], ...] = ()
    """(a, b): first try s = b·s₀, and o = min w + a·(max w − min w), where s₀ just reaches all weights
    (b < 0: with a symmetric format's codes turned round). None at all: s₀ is taken as it is."""

    @property
    def affine(self) -> bool:
        """Whether there is an offset o."""
        return self.m > 0 or self.free

    @property
    def subs(self) -> int:
        """Sub-blocks per block."""
        return self.period // self.sub


def _between(first: float, last: float, count: int) -> tuple[float, ...]:
    return tuple(first + (last - first) * i / (count - 1) for i in range(count))


def _both(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    return tuple((x, y) for x in a for y in b)


IQ4 = (-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0)
"""``kvalues_iq4nl`` of ggml."""
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""Quantiles of a normal distribution, from Dettmers et al., "QLoRA" (2023), appendix E, as bitsandbytes has them."""


def _turned(first: float, last: float, count: int) -> tuple[tuple[float, float], ...]:
    return _both((0.0,), _between(first, last, count) + _between(-first, -last, count))


_TWO = _both(_between(0.0, 0.2, 4), _between(0.6, 1.05, 4))
_FOUR = _both(_between(-0.01, 0.07, 6), _between(0.8, 1.04, 6))
_FIVE = _both(_between(-0.01, 0.03, 6), _between(0.9, 1.02, 6))
_POSITIVE = _both((0.0,), _between(0.7, 1.03, 14))

FORMATS = {
    "Q2_K": Format(256, 16, 3, k=(1, 15), m=15, starts=_TWO),
    "Q3_K": Format(256, 16, 7, -4, k=(-32, 31), starts=_turned(0.6, 1.05, 6)),
    "Q4_K": Format(256, 32, 15, k=(1, 63), m=63, starts=_FOUR),
    "Q5_K": Format(256, 32, 31, k=(1, 63), m=63, starts=_FIVE),
    "Q6_K": Format(256, 16, 63, -32, k=(-128, 127), starts=_turned(0.9, 1.02, 12)),
    "Q4_0": Format(32, 32, 15, -8, starts=_turned(0.7, 1.05, 8)),
    "Q4_1": Format(32, 32, 15, free=True, starts=_FOUR),
    "Q5_0": Format(32, 32, 31, -16, starts=_turned(0.8, 1.05, 12)),
    "Q5_1": Format(32, 32, 31, free=True, starts=_FIVE),
    "Q8_0": Format(32, 32, 254, -127, starts=_both((0.0,), _between(0.9, 1.03, 20))),
    "IQ4_NL": Format(32, 32, 15, levels=IQ4, starts=_turned(0.7, 1.05, 12)),
    "IQ4_XS": Format(256, 32, 15, levels=IQ4, k=(-32, 31), starts=_turned(0.7, 1.05, 12)),
    "NF4": Format(64, 64, 15, levels=NF4, wide=True, starts=_POSITIVE),
    "NF4_ABSMAX": Format(64, 64, 15, levels=NF4, wide=True),
}
"""Kind -> format. ``NF4`` searches its scale, ``NF4_ABSMAX`` takes the largest magnitude, as bitsandbytes does."""
