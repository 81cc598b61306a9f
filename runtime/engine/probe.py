"""How wide a step of one reply may be, and what it costs: measured on the machine that serves, while it has no work.

Kernels differ by the number of tokens in a step. On a CPU with AVX-512, llama.cpp's give the very same logits for one
token and for three (Q4_K), five (Q5_K, Q6_K) or sixteen (Q8_0, Q4_1) of a sequence; wider ones sum in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .backends.base import Span
from .lookup import WIDEST

if TYPE_CHECKING:
    from .backends.base import Backend, Rows
    from .lookup import Drafts
    from .slots import Slot


class Probe:
    """Measures one width at a time, from narrow to wide, until one rounds otherwise."""

    WIDTHS = (2, 3, 4, 5, 6, 8, 12, WIDEST)
    PATIENCE = 0.1
    """Seconds for which somebody who comes meanwhile may have to wait."""

    def __init__(self, backend: Backend, drafts: Drafts, awaited: Callable[[], bool]) -> None:
        """``awaited``: whether there is work to do."""
        self._backend, self._drafts, self._awaited = backend, drafts, awaited
        self._left = list(self.WIDTHS) if backend.drafts else []
        self.text: Sequence[int] = ()
        """What to measure on while no conversation is long enough."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to measure."""
        return not self._left

    def step(self, slots: Sequence[Slot]) -> bool:
        """Measure one width at the end of what some free slot holds; False when there is nothing to do."""
        most = self._backend.alike
        fit = (slot for slot in slots if len(slot.held) <= most)
        slot = max(fit, key=lambda slot: len(slot.held), default=None)
        if not self._left or slot is None or max(len(slot.held), len(self.text)) < 2 * WIDEST:
            return False
        if len(slot.held) < 2 * WIDEST:
            if len(self.text) >= self._backend.context:
                return False
            self._cut(slot, 0)
            self._decode(slot, self.text[:most])
            return True
        width, base = self._left[0], len(slot.held) - self._left[0]
        text, singles, spent = slot.held[base:], [], []
        self._cut(slot, base)
        for token in text:
            rows, seconds = self._decode(slot, [token])
            singles.append(rows[0].copy())
            spent.append(seconds)
            if self._awaited() and 2 * width * seconds > self.PATIENCE:
                return True  # another time
        same, wide = True, []
        for _ in range(2):
            self._cut(slot, base)
            rows, seconds = self._decode(slot, text)
            wide.append(seconds)
            same = same and all(np.array_equal(row, single) for row, single in zip(rows, singles, strict=True))
        if same:
            self._left.pop(0)
            self._drafts.allow(1, min(spent))
            self._drafts.allow(width, min(wide))
        else:
            self._left.clear()
            self._cut(slot, base)  # what later conversations go on from is not what rounds otherwise
        return True

    def _cut(self, slot: Slot, length: int) -> None:
        self._backend.cut(slot.index, length)
        del slot.held[length:]

    def _decode(self, slot: Slot, tokens: Sequence[int]) -> tuple[Rows, float]:
        started = self._backend.clock()
        rows = self._backend.decode([Span(slot.index, len(slot.held), tokens, len(tokens))])
        spent = self._backend.clock() - started
        slot.held.extend(tokens)
        return rows, spent
