"""How wide a step of one reply may be, and what it costs: measured on the machine that serves, while it has no work.

Kernels differ by the number of tokens in a step. On a CPU with AVX-512, llama.cpp's give the very same logits for one
token and for three (Q4_K), five (Q5_K, Q6_K) or sixteen (Q8_0, Q4_1) of a sequence; wider ones sum in another order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .backends.base import Span
from .lookup import WIDEST

if TYPE_CHECKING:
    from .backends.base import Backend, Rows
    from .lookup import Drafts
    from .slots import Slot


class Probe:
    """Measures, while nothing runs, how wide a step may be and what it costs: one step at a time, so that whoever
    comes waits for one step at most."""

    WIDTHS = (2, 3, 4, 5, 6, 8, 12, WIDEST)
    TRIES = 3

    def __init__(self, backend: Backend, drafts: Drafts) -> None:
        self._backend, self._drafts = backend, drafts
        self._text: list[int] = []
        self.done = not backend.drafts
        self._begin([])

    def _begin(self, text: Sequence[int]) -> None:
        self._text = list(text)
        self._base = len(self._text) - WIDEST
        self._singles: list[Rows] = []
        self._spent: list[float] = []
        self._width = 0

    def step(self, slots: Sequence[Slot]) -> bool:
        """Decode once more at the end of a text that some free slot holds; False when there is nothing to do."""
        longest = max(slots, key=lambda slot: len(slot.held))
        if self.done or len(longest.held) < 2 * WIDEST:
            return False
        slot = next((s for s in slots if self._text and s.held[: self._base] == self._text[: self._base]), None)
        at = self._base + (len(self._singles) if not self._width else 0)
        if slot is None or len(slot.held) < at:
            slot = longest
            self._begin(slot.held)
            at = self._base
        width = self.WIDTHS[self._width - 1] if self._width else 1
        rows, spent = self._decode(slot, at, width)
        self._spent.append(spent)
        if not self._width:
            self._singles.append(rows[0].copy())
            if len(self._singles) == WIDEST:
                self._measured(1)
        elif not all(np.array_equal(row, single) for row, single in zip(rows, self._singles, strict=False)):
            self.done = True
        elif len(self._spent) == self.TRIES:
            self._measured(width)
            self.done = width == WIDEST
        return True

    def _decode(self, slot: Slot, at: int, width: int) -> tuple[Rows, float]:
        tokens = self._text[at : at + width]
        self._backend.cut(slot.index, at)
        del slot.held[at:]
        started = time.perf_counter()
        rows = self._backend.decode([Span(slot.index, at, tokens, width)])
        spent = time.perf_counter() - started
        slot.held.extend(tokens)
        return rows, spent

    def _measured(self, width: int) -> None:
        self._drafts.allow(width, float(np.median(self._spent)))
        self._spent = []
        self._width += 1
