"""Slots: which sequence of the backend serves which request, and what each still holds of earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import HoldfastError
from .lookup import NOTHING, Draft
from .prefixes import common

if TYPE_CHECKING:
    from .backends.base import Backend
    from .prefixes import Prefixes
    from .requests import Counters, Request

WORTH_COPYING = 16  # a shorter common prefix is computed again rather than copied


@dataclass(eq=False)
class Slot:
    """One sequence: the tokens whose keys and values the backend holds, and who is using it."""

    index: int
    held: list[int] = field(default_factory=list)
    request: Request | None = None
    donor: Slot | None = None
    share: int = 0
    """Tokens to copy from ``donor`` once it holds them."""
    next: int = -1
    """The token chosen last and not decoded yet; -1 while the prompt is being read."""
    draft: Draft = NOTHING
    """What the reply may say after ``next``: decoded with it in the next step."""
    guess: Draft = NOTHING
    """A draft that was not worth decoding, and how many of its tokens were right so far."""
    right: int = 0
    used_at: int = 0


class Slots:
    """All slots of a backend. A request gets the one whose tokens begin most like its prompt."""

    def __init__(self, backend: Backend, counters: Counters, prefixes: Prefixes | None) -> None:
        self._backend, self._prefixes = backend, prefixes
        self._counters = counters
        self._clock = 0
        self.all = [Slot(i) for i in range(backend.slots)]
        self.live: list[Slot] = []
        """Those that serve a request, in order of arrival."""

    @property
    def free(self) -> list[Slot]:
        """Those that serve nobody."""
        return [slot for slot in self.all if slot.request is None]

    def take(self, request: Request) -> None:
        """Give a free slot to ``request``."""
        if request.fresh:
            for slot in self.all:
                self.cut(slot, 0)
        slot = self._place(request, self.free)
        slot.request, slot.next = request, -1
        self.live.append(slot)

    def release(self, slot: Slot) -> Request:
        """Take the request off a slot, which keeps its tokens."""
        self._clock += 1
        request, slot.request, slot.next, slot.donor, slot.used_at = slot.request, None, -1, None, self._clock
        slot.draft = slot.guess = NOTHING
        self.live.remove(slot)
        assert request is not None
        return request

    def cut(self, slot: Slot, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        if len(slot.held) > length:
            self._backend.cut(slot.index, length)
            del slot.held[length:]

    def restore(self, slot: Slot) -> None:
        """Bring the backend back to the tokens that the slot is known to hold."""
        self._backend.cut(slot.index, len(slot.held))

    def forget(self, slot: Slot) -> None:
        """Drop every token, whatever the backend did with them."""
        slot.held.clear()
        self.restore(slot)

    def ready(self, slot: Slot) -> bool:
        """Whether the slot can read its prompt; copies the donor's prefix once the donor holds it."""
        donor = slot.donor
        if donor is None:
            return True
        assert slot.request is not None
        have = _common(donor.held, slot.request)
        if have < slot.share and donor.request is not None and donor.next < 0:
            return False
        if have >= WORTH_COPYING:
            self._backend.copy(donor.index, slot.index, have)
            slot.held = list(donor.held[:have])
            self._count_reuse(slot.request, have)
        slot.donor = None
        return True

    def _place(self, request: Request, free: list[Slot]) -> Slot:
        """The slot for a request: the free one with the longest prefix, or the oldest with a prefix to copy."""
        if request.score == len(request.prompt):
            return self._oldest(free)
        own, mine = max(((_common(s.held, request), s) for s in free), key=lambda pair: pair[0])
        lent, donor = self._lender(request)
        if (found := self._restored(request, free, max(own, lent))) is not None:
            return found
        if donor is None or lent < own + WORTH_COPYING:
            self.cut(mine, own)
            self._count_reuse(request, own)
            return mine
        slot = self._oldest(free)
        slot.donor, slot.share = donor, lent
        return slot

    def _restored(self, request: Request, free: list[Slot], held: int) -> Slot | None:
        """A slot with what an earlier process kept of this prompt, where that is more than what is ``held`` now."""
        if self._prefixes is None or not request.head:
            return None
        length, kept = self._prefixes.longest(request.prompt[: min(request.kept, request.head)])
        if kept is None or length < held + WORTH_COPYING or (data := self._prefixes.read(kept)) is None:
            return None
        slot = self._oldest(free)
        if not self._backend.restore(slot.index, data):
            self._prefixes.drop(kept)
            return None
        slot.held = list(kept.tokens)
        self.cut(slot, length)
        self._counters.restored_tokens += length
        self._count_reuse(request, length)
        return slot

    def keep(self, slot: Slot) -> None:
        """Keep the system prompt over restarts when the slot has just read it and nothing more."""
        request = slot.request
        if self._prefixes is None or request is None or not 0 < len(slot.held) == request.head:
            return
        if self._prefixes.wants(slot.held):
            try:
                self._prefixes.write(slot.held, self._backend.save(slot.index))
            except HoldfastError as error:
                self._prefixes.give_up(error)

    def _oldest(self, free: list[Slot]) -> Slot:
        slot = min(free, key=lambda s: s.used_at)
        self.cut(slot, 0)
        return slot

    def _lender(self, request: Request) -> tuple[int, Slot | None]:
        """The longest prefix that a running slot holds or is about to hold, and that slot."""
        lent, donor = 0, None
        for slot in self.live if self._backend.shares else ():
            length = _common(_prefix(slot), request)
            if length > lent:
                lent, donor = length, slot
        return lent, donor

    def _count_reuse(self, request: Request, length: int) -> None:
        request.reused = length
        self._counters.reused_tokens += length


def _prefix(slot: Slot) -> Sequence[int]:
    """What a running slot can lend, now or soon. A slot that waits for another lends nothing, so that no two can
    wait for each other."""
    if slot.request is None or slot.donor is not None:
        return ()
    return slot.request.prompt if slot.next < 0 else slot.held


def _common(held: Sequence[int], request: Request) -> int:
    """Length of the prefix that ``request`` may take from ``held``. A few words of the customer's own that happen to
    agree are read again with the rest, as they would be from an empty cache."""
    prompt, limit = request.prompt, min(len(held), request.kept)
    length = common(held[:limit], prompt[:limit])
    return request.head if request.head <= length < request.head + WORTH_COPYING else length
