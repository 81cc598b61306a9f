"""Grids of ggml's block formats and of NF4, so that error feedback can run inside them.

Parameters are fitted as they are stored: what ``fit`` returns is what a reader of ``pack``'s bytes computes, bit for
bit, in float32 and in ggml's order. (A scale has at most 18 significant bits and a code 6, or 11 and 8, so the products
are exact; a symmetric format's d·(c − 32) equals scale·c + offset because that sum is exact as well.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from compress.errors import UsageError
from compress.quantize.grids import Steps
from compress.quantize.kfit import Found, search
from compress.quantize.kformats import FORMATS, Format
from compress.quantize.kpack import Blocks, pack
from compress.quantize.kterms import Problem

if TYPE_CHECKING:
    import torch

AT_ONCE = 2**17
"""Weights searched at a time on a CPU: they and two copies stay in a core's cache."""


@dataclass(frozen=True)
class BlockGrid:
    """The grid of one kind. Scales are never zero; they may be negative except for Q2_K, Q4_K, Q5_K, Q4_1, Q5_1, NF4.

    Weights that float16 scales cannot reach (beyond 65504 times the largest level) saturate. IQ4 has no level zero:
    a row of zeros becomes one of 2^-24.
    """

    kind: str
    form: Format

    @property
    def top(self) -> int:
        """The largest code."""
        return self.form.top

    @property
    def period(self) -> int:
        """Inputs whose parameters are fitted together: the format's block."""
        return self.form.period

    @cached_property
    def levels(self) -> torch.Tensor | None:
        """Ascending codebook, float32 ``[16]``; None: level(code) = code."""
        import torch

        return torch.tensor(self.form.levels) if self.form.levels else None

    def fit(self, w: torch.Tensor, h: torch.Tensor) -> Steps:
        """Storable parameters of ``w`` float32 ``[period, out]`` that make Σ hᵢ (wᵢ − ŵᵢ)² small.

        ``h`` float32 ``[period]`` >= 0. ``fields``: float16 d ``[1, out]`` and int8 k ``[subs, out]`` with
        scale = d·k, then dmin and m with offset = −dmin·m; none where scale and offset themselves are stored.
        """
        import torch

        assert w.shape[0] == self.period == h.shape[0], (w.shape, h.shape)
        h = h / h.mean() if bool(h.any()) else torch.ones_like(h)
        h = h.clamp_min(1e-6)
        columns = AT_ONCE // self.period if w.device.type == "cpu" else w.shape[1]
        parts = [self._steps(search(Problem(part, h, self.form))) for part in w.split(columns, 1)]
        scale, offset, fields = zip(*parts, strict=True)
        joined = tuple(torch.cat(field, 1) for field in zip(*fields, strict=True))
        return Steps(torch.cat(scale, 1), torch.cat(offset, 1), joined)

    def _steps(self, f: Found) -> Steps:
        import torch

        offset = f.s * self.form.low if f.o is None else f.o
        if f.k is None or f.d is None:
            return Steps(f.s, offset, ())
        fields: tuple[torch.Tensor, ...] = (f.d[:1].half(), f.k.to(torch.int8))
        if f.dmin is not None and f.m is not None:
            fields += (f.dmin[:1].half(), f.m.to(torch.int8))
        return Steps(f.s, offset, fields)

    def pack(self, codes: torch.Tensor, steps: Sequence[Steps]) -> torch.Tensor:
        """Rows as the format stores them: codes uint8 ``[in, out]`` and the steps of all periods, one below the other
        or in a sequence -> uint8 ``[out, bytes]``.

        NF4: half a byte per weight, the first in the high half; the scales stay in ``steps``.
        """
        rows = sum(len(s.scale) for s in steps)
        assert len(codes) == rows * self.form.sub, (codes.shape, rows)
        return pack(self.kind, self._blocks(codes, steps)).view(codes.shape[1], -1)

    def _blocks(self, codes: torch.Tensor, steps: Sequence[Steps]) -> Blocks:
        import torch

        def blocks(parts: Sequence[torch.Tensor]) -> torch.Tensor:
            """``[any · periods, out]``, in parts -> ``[out · periods, any]``."""
            x = torch.cat(list(parts)).view(codes.shape[0] // self.period, -1, codes.shape[1]).permute(2, 0, 1)
            return x.reshape(-1, x.shape[2])

        code = blocks([codes])
        if self.form.k is None:
            offset = blocks([s.offset for s in steps]).half() if self.form.free else None
            return Blocks(code, blocks([s.scale for s in steps]).half(), offset)
        d, k, *rest = (blocks(parts) for parts in zip(*(s.fields for s in steps), strict=True))
        dmin, m = rest or (None, None)
        return Blocks(code, d, dmin, k, m)


def grid_of(kind: str) -> BlockGrid:
    """The grid of a GGUF tensor type, ``NF4`` (scales searched) or ``NF4_ABSMAX`` (as bitsandbytes scales).

    Raises UsageError for an unknown kind.
    """
    if kind not in FORMATS:
        raise UsageError(f"no grid for {kind!r}", next=f"choose one of {', '.join(FORMATS)}")
    return BlockGrid(kind, FORMATS[kind])
