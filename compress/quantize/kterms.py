"""The weighted error of one block as a function of its scales and offsets.

A sub-block of weights w with importance h is stored as s·z + o. For given z its error is a quadratic form,

    E(s, o) = Σ h (s z + o − w)² = Σ h w² − 2 s P − 2 o Q + s² A + 2 s o B + o² C,
    A = Σ h z², B = Σ h z, C = Σ h, P = Σ h z w, Q = Σ h w,

so that one pass over the weights prices every scale and offset that could be stored with these z.
Tensors, float32: weights ``[subs, sub, out]``; what a sub-block has, ``[subs, out]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from compress.quantize.kformats import Format

if TYPE_CHECKING:
    import torch

LEAST, MOST = 2.0**-24, 65504.0
"""Smallest and largest float16."""
TINY = LEAST / 64
"""Smallest scale tried; none is zero, which would leave the codes undefined."""
DEAD = 1e-5
"""Importance (on average 1) below which a weight is taken for zero, unless all of its sub-block are."""
BINS = 1920
"""Bins of the table that finds the nearest level of a codebook; the middles between IQ4's levels are edges of bins."""


def half(x: torch.Tensor) -> torch.Tensor:
    """As float16 stores it; beyond its range, its largest numbers."""
    return x.clamp(-MOST, MOST).half().float()


def half_scale(x: torch.Tensor) -> torch.Tensor:
    """As ``half``, but never zero."""
    import torch

    x = half(x)
    return torch.where(x == 0, LEAST, x)


def _table(levels: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """The nearest level to the middle of each bin between the first level and the last."""
    import torch

    ladder = torch.tensor(levels)
    middles = levels[0] + (torch.arange(BINS) + 0.5) * ((levels[-1] - levels[0]) / BINS)
    return ladder[torch.bucketize(middles, (ladder[1:] + ladder[:-1]) / 2)].to(device)


class Terms(NamedTuple):
    """The sums A, B (None without offsets) and P of some z."""

    A: torch.Tensor
    B: torch.Tensor | None
    P: torch.Tensor


class Problem:
    """One block of many outputs, with the sums that no choice of z changes: Q, C and Σ h w²."""

    def __init__(self, w: torch.Tensor, h: torch.Tensor, form: Format):
        """``w`` ``[period, out]``, ``h`` ``[period]`` > 0, on average 1."""
        import torch

        self.form, self.h = form, h.view(form.subs, 1, form.sub)
        alive = self.h > DEAD
        self.alive = (alive | ~alive.any(2, keepdim=True)).mT
        self.w = torch.where(self.alive, w.reshape(form.subs, form.sub, -1), 0.0)
        self.C = self.h.sum(2)
        self.Q, self.energy = self.sum(self.w), self.sum(self.w.square())
        self.z, self.scratch = self.w.new_empty(2, *self.w.shape)
        if form.levels:
            self.table = _table(form.levels, w.device)
            self.bins = torch.empty_like(self.z, dtype=torch.int32)

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Σ h x."""
        return (self.h @ x).squeeze(1)

    def limits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Smallest and largest living weight of each sub-block."""
        import torch

        alive, w = self.alive, self.w
        return torch.where(alive, w, torch.inf).amin(1), torch.where(alive, w, -torch.inf).amax(1)

    def terms(self, s: torch.Tensor, o: torch.Tensor | None) -> Terms:
        """The sums of the z nearest to the weights."""
        import torch

        z, inverse = self.z, s.reciprocal()
        if o is None:
            torch.mul(self.w, inverse[:, None], out=z)
        else:
            torch.addcmul((-o * inverse)[:, None], self.w, inverse[:, None], out=z)
        self._snap(z)
        P = self.sum(torch.mul(z, self.w, out=self.scratch))
        B = self.sum(z) if self.form.affine else None
        return Terms(self.sum(torch.mul(z, z, out=self.scratch)), B, P)

    def _snap(self, z: torch.Tensor) -> None:
        import torch

        form = self.form
        if not form.levels:
            z.round_().clamp_(form.low, form.low + form.top)
            return
        first, last = form.levels[0], form.levels[-1]
        self.bins.copy_(z.sub_(first).mul_(BINS / (last - first)).clamp_(0, BINS - 1))
        torch.index_select(self.table, 0, self.bins.view(-1), out=z.view(-1))

    def error(self, t: Terms, s: torch.Tensor, o: torch.Tensor | None) -> torch.Tensor:
        """E(s, o)."""
        e = self.energy + s * (s * t.A - 2 * t.P)
        return e if o is None or t.B is None else e + o * (o * self.C + 2 * (s * t.B - self.Q))

    def offset(self, t: Terms, s: torch.Tensor) -> torch.Tensor | None:
        """The real o that minimises E(s, o); None without offsets."""
        return None if t.B is None else (self.Q - s * t.B) / self.C

    def real(self, t: Terms, s: torch.Tensor, o: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The real s and o that minimise E, o <= 0 if no other is stored; the given ones where z leave them open."""
        import torch

        alone = t.P / t.A.clamp_min(1e-30)
        if t.B is None or o is None:
            return torch.where(alone.abs() > TINY, alone, s), None
        det = t.A * self.C - t.B * t.B
        both = (t.P * self.C - t.B * self.Q) / det
        best = (self.Q - both * t.B) / self.C
        if self.form.m:
            both, best = torch.where(best > 0, alone, both), best.clamp_max(0)
        sound = (det > 1e-6 * t.A * self.C) & (both > TINY)
        return torch.where(sound, both, s), torch.where(sound, best, o)
