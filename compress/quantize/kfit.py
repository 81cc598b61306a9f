"""The search for a block format's parameters of least weighted error.

It alternates (Lloyd, "Least squares quantization in PCM", 1982) between the nearest z for s and o and the best s and o
for z, from many starts; where s = d·k and o = −dmin·m are stored, the integers k and m of each sub-block and d and dmin
of the block take turns as well. Every step keeps the better of two, so the error only falls.
Tensors, float32: what a sub-block has, ``[subs, out]``; what a block has, ``[out]``. Names as in ``kterms``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from compress.quantize.kterms import TINY, Problem, Terms, half, half_scale

if TYPE_CHECKING:
    import torch

ROUNDS = 2
STEPS = (1, -1)
"""Changes of k that are tried last."""
SHARES = (1.0, 0.97, 0.94)
"""Fractions of the d that just reaches the largest scale, tried where scales have signs."""


class Found(NamedTuple):
    """Parameters and their error E(s, o); k, m, d and dmin where the format has them."""

    s: torch.Tensor
    o: torch.Tensor | None
    error: torch.Tensor
    k: torch.Tensor | None = None
    m: torch.Tensor | None = None
    d: torch.Tensor | None = None
    dmin: torch.Tensor | None = None

    def improved(self, other: Found, whole: bool = False) -> Found:
        """The better of both, per sub-block; per block if ``whole`` (their d differ)."""
        import torch

        better = other.error.sum(0) < self.error.sum(0) if whole else other.error < self.error
        pairs = zip(self, other, strict=True)
        return Found(*(None if mine is None else torch.where(better, its, mine) for mine, its in pairs))


def search(p: Problem) -> Found:
    """Storable parameters; those of the largest magnitude for a format that is not to be searched."""
    if not p.form.starts:
        s, o = next(starts(p))
        return Found(s, o, p.error(p.terms(s, o), s, o))
    found = spread(p)
    return integers(p, found) if p.form.k else floats(p, found)


def starts(p: Problem) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Where the search starts: s and o."""
    import torch

    form, (low, high) = p.form, p.limits()
    if form.affine:
        low = low.clamp_max(0) if form.m else low
        span = (high - low).clamp_min(TINY * form.top)
        for a, b in form.starts:
            o = low + a * span
            yield span * (b / form.top), o.clamp_max(0) if form.m else o
        return
    first, last = (form.levels[0], form.levels[-1]) if form.levels else (form.low, form.low + form.top)
    reach = torch.where(high > -low, high, low)
    reach = reach.abs() if form.wide else reach
    reach = torch.where(reach.abs() < TINY * last, TINY * last, reach)
    for _, b in form.starts or ((0.0, 1.0),):
        yield reach * (abs(b) / (last if b > 0 else first)), None


def spread(p: Problem) -> Found:
    """Real s and o: the best of all starts after one turn, and one more turn of that."""
    best = None
    for s, o in starts(p):
        trial = _turn(p, s, o)
        best = best.improved(trial) if best else trial
    assert best is not None
    return best.improved(_turn(p, best.s, best.o))


def _turn(p: Problem, s: torch.Tensor, o: torch.Tensor | None) -> Found:
    t = p.terms(s, o)
    s, o = p.real(t, s, o)
    return Found(s, o, p.error(t, s, o))


def floats(p: Problem, found: Found) -> Found:
    """s and o themselves are stored, as float16 (a ``wide`` format's s as it is)."""
    best = None
    for _ in range(ROUNDS):
        t = p.terms(found.s, found.o)
        s, _ = p.real(t, found.s, found.o)
        s = s if p.form.wide else half_scale(s)
        o = p.offset(t, s)
        o = None if o is None else half(o)
        found = Found(s, o, p.error(t, s, o))
        best = best.improved(found) if best else found
    assert best is not None
    return best


def integers(p: Problem, real: Found) -> Found:
    """s = d·k and o = −dmin·m are stored."""
    t = p.terms(real.s, real.o)
    best = None
    for d, dmin in _reaching(p, real):
        trial = _rounded(p, t, real, d, dmin)
        best = best.improved(trial, whole=True) if best else trial
    assert best is not None
    for _ in range(ROUNDS):
        t = p.terms(best.s, best.o)
        best = best.improved(_rounded(p, t, best, best.d, best.dmin))
        best = best.improved(_rounded(p, t, best, *_refitted(p, t, best)), whole=True)
    for step in STEPS:
        best = _stepped(p, best, step)
    return best


def _stepped(p: Problem, best: Found, step: int) -> Found:
    """What the z of neighbouring scales have to offer."""
    assert best.k is not None
    assert best.d is not None
    k = _allowed(p, best.k + step)
    t = p.terms(best.d * k, best.o)
    best = best.improved(_stored(p, t, k, best.d, best.dmin))
    return best.improved(_rounded(p, t, best, best.d, best.dmin))


def _reaching(p: Problem, real: Found) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """d and dmin by which the integers reach all real scales and offsets."""
    import torch

    assert p.form.k is not None
    if real.o is not None:
        yield half_scale(real.s.amax(0) / p.form.k[1]), half_scale(real.o.amin(0) / -p.form.m)
        return
    up, down = real.s.amax(0), real.s.amin(0)
    reach = torch.where(up > -down, up, down)
    for end in p.form.k:
        for share in SHARES:
            yield half_scale(reach * (share / end)), None


def _allowed(p: Problem, k: torch.Tensor) -> torch.Tensor:
    import torch

    assert p.form.k is not None
    k = k.clamp(*p.form.k)
    return torch.where(k == 0, 1.0, k)


def _stored(p: Problem, t: Terms, k: torch.Tensor, d: torch.Tensor, dmin: torch.Tensor | None) -> Found:
    """This k with its best m, priced with the z of ``t``."""
    s = d * k
    o = p.offset(t, s)
    if o is None or dmin is None:
        return Found(s, None, p.error(t, s, None), k, None, d.expand_as(s))
    m = (o / -dmin).round_().clamp_(0, p.form.m)
    o = m * -dmin
    return Found(s, o, p.error(t, s, o), k, m, d.expand_as(s), dmin.expand_as(s))


def _rounded(p: Problem, t: Terms, near: Found, d: torch.Tensor | None, dmin: torch.Tensor | None) -> Found:
    """The best k and m for d and dmin, priced with the z of ``t``."""
    s, _ = p.real(t, near.s, near.o)
    k = (s / d).round_()
    best = _stored(p, t, _allowed(p, k), d, dmin)
    if dmin is None:
        return best  # E is a parabola in s alone: no other k is better
    for step in (-1, 1):
        best = best.improved(_stored(p, t, _allowed(p, k + step), d, dmin))
    return best


def _refitted(p: Problem, t: Terms, f: Found) -> tuple[torch.Tensor, torch.Tensor | None]:
    """d and dmin by least squares over the whole block, for the integers of ``f`` and the z of ``t``."""
    import torch

    assert f.k is not None
    kk, kP = (f.k * f.k * t.A).sum(0), (f.k * t.P).sum(0)
    if f.m is None or f.d is None or f.dmin is None or t.B is None:
        return half_scale(kP / kk.clamp_min(1e-30)), None
    km, mm, mQ = (f.k * f.m * t.B).sum(0), (f.m * f.m * p.C).sum(0), (f.m * p.Q).sum(0)
    det = kk * mm - km * km
    d, dmin = (kP * mm - km * mQ) / det, (kP * km - mQ * kk) / det
    sound = (det > 1e-6 * kk * mm) & (d > 0) & (dmin > 0)
    return half_scale(torch.where(sound, d, f.d[0])), half_scale(torch.where(sound, dmin, f.dmin[0]))
