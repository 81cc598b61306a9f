"""Which running reply is given a draft, and what is learnt from it. What drafts are, and when they pay: `lookup`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .lookup import LONGEST, NOTHING, Draft, Drafts, Written
from .probe import Probe

if TYPE_CHECKING:
    from .backends.base import Backend
    from .requests import Counters
    from .slots import Slot


class Drafter:
    """Drafts of one scheduler's slots, given in its thread."""

    def __init__(self, backend: Backend, counters: Counters, awaited: Callable[[], bool]) -> None:
        """``awaited``: whether there is work to do."""
        self._backend, self._counters = backend, counters
        self.drafts = Drafts()
        self.probe = Probe(backend, self.drafts, awaited)
        self.wanted = False
        """Whether somebody asked for drafts, so that what they cost is measured."""

    def measure(self, free: Sequence[Slot]) -> bool:
        """One step of finding out what drafts cost, in a ``free`` slot; False when nothing is left to do."""
        return self.wanted and self.probe.step(free)

    def draft(self, running: Sequence[Slot]) -> None:
        """Give each running reply the draft that pays, perhaps an empty one."""
        drafts = self.drafts
        if drafts.widest <= len(running) or not drafts.worth(len(running)):
            return
        asked = [slot for slot in running if slot.request is not None and slot.request.drafts]
        if not asked:
            return
        started = self._backend.clock()
        proposed = [self._propose(slot) for slot in asked]
        for slot, draft, length in zip(asked, proposed, drafts.lengths(proposed, len(running)), strict=True):
            slot.draft = Draft(draft.tokens[:length], draft.kinds[:length]) if length else NOTHING
            if not length and not slot.guess.tokens:
                slot.guess, slot.right = draft, 0
        drafts.looked(len(asked), self._backend.clock() - started)

    def _propose(self, slot: Slot) -> Draft:
        request = slot.request
        assert request is not None
        assert request.sampler is not None
        room = min(request.max_tokens - len(request.tokens), self._backend.alike - len(slot.held) - 1) - 1
        if room < 1:
            return NOTHING
        if request.written is None:
            request.written = Written()
            request.written.add(request.prompt)
        request.written.add(request.tokens[len(request.written) - len(request.prompt) :])
        return self.drafts.propose(request.written, request.tail(LONGEST), request.sampler.forced(), room)

    def compare(self, slot: Slot, token: int) -> None:
        """Whether a draft that was not worth decoding would have been right: its odds are learnt all the same."""
        right = token == slot.guess.tokens[slot.right]
        slot.right += right
        if not right or slot.right == len(slot.guess.tokens):
            self.drafts.learn(slot.guess, slot.right)
            slot.guess = NOTHING

    def count(self, draft: Draft, taken: int) -> None:
        """Learn from a draft that was decoded, of whose tokens the sampler chose the first ``taken``."""
        self.drafts.learn(draft, taken)
        self._counters.drafted_tokens += len(draft.tokens)
        self._counters.taken_tokens += taken
