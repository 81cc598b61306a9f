"""Continuous batching: one thread decodes for everybody.

Requests wait in a bounded first-in-first-out queue. Each takes a slot (one sequence of the backend); every step
decodes one token for each running reply together with a chunk of the prompts that are still being read, so a long
prompt does not stall the others. A slot keeps its tokens when its reply is finished; a new request starts from the
longest prefix that any slot holds or is about to hold (a system prompt is computed once, then copied).

The same list submitted to an idle scheduler gives the same batches, hence the same tokens.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import HoldfastError, Overloaded, UsageError
from .backends.base import Backend, Span
from .requests import Counters, Request, Slot
from .sampling import Sampler
from .text import TextStream, join

if TYPE_CHECKING:
    from .backends.base import Rows

log = logging.getLogger(__name__)
CHUNK = 128  # prompt tokens per step while replies are running: bounds the stall a long prompt can cause
SCORED_CHUNK = 64  # the logits of so many tokens are in memory at once
WORTH_COPYING = 16  # a shorter common prefix is computed again rather than copied


class Scheduler:
    """Owns the backend and the decode thread."""

    def __init__(self, backend: Backend, *, queue: int = 1024) -> None:
        self._backend = backend
        self._slots = [Slot(i) for i in range(backend.slots)]
        self._live: list[Slot] = []
        self._waiting: deque[Request] = deque()
        self._limit = queue
        self._wake = threading.Condition()
        self._closing = False
        self._clock = 0
        self._failed: HoldfastError | None = None
        self.counters = Counters()
        self._thread = threading.Thread(target=self._loop, name="holdfast-decode", daemon=True)
        self._thread.start()

    # ---- any thread ----

    def submit(self, requests: Sequence[Request], *, bounded: bool = True) -> None:
        """Queue requests together, in order. Overloaded when the queue is full (``bounded``) or closing."""
        for request in requests:
            self._check(request)
        now = time.perf_counter()
        with self._wake:
            if self._closing or self._failed:
                raise self._failed or Overloaded("the runtime is shutting down", retry_after=5)
            if bounded and len(self._waiting) + len(requests) > self._limit:
                self.counters.rejected += len(requests)
                raise Overloaded(f"the queue is full ({self._limit} requests wait)", retry_after=1)
            for request in requests:
                request.submitted_at = now
            self._waiting.extend(requests)
            self._wake.notify()

    def _check(self, request: Request) -> None:
        if not request.prompt:
            raise UsageError("the prompt is empty", next="give at least one token")
        room = self._backend.context - (0 if request.score else 1)
        if len(request.prompt) > room:
            raise UsageError(
                f"the prompt has {len(request.prompt)} tokens; the context holds {self._backend.context}",
                next="shorten the conversation, or load with a larger context",
            )
        if min(request.prompt) < 0 or max(request.prompt) >= self._backend.n_vocab:
            raise UsageError(f"a token id is outside 0..{self._backend.n_vocab - 1}", next="use this model's tokenizer")

    @property
    def depth(self) -> int:
        """Requests waiting for a slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return len(self._live)

    @property
    def held_tokens(self) -> int:
        """Tokens in the KV caches."""
        return sum(len(slot.held) for slot in self._slots)

    @property
    def alive(self) -> bool:
        """Whether requests are being taken."""
        return not self._closing and self._failed is None

    def refuse_if_full(self) -> None:
        """Raise Overloaded at once when the queue is full, before any work is done for a request."""
        if len(self._waiting) >= self._limit:
            self.counters.rejected += 1
            raise Overloaded(f"the queue is full ({self._limit} requests wait)", retry_after=1)

    def close(self) -> None:
        """Stop at the next step; whoever still waits gets Overloaded. The backend is free afterwards."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    # ---- the decode thread ----

    def _loop(self) -> None:
        try:
            while not self._closing:
                if self._waiting:
                    self._admit()
                if self._live:
                    self._step()
                else:
                    self._sleep()
            self._abandon(Overloaded("the runtime was closed", retry_after=5))
        except HoldfastError as error:
            self._abandon(error)
        except Exception as error:
            log.exception("the decode loop failed")
            self._abandon(HoldfastError(f"the decode loop failed: {error}", next="restart the runtime"))

    def _sleep(self) -> None:
        with self._wake:
            while not self._waiting and not self._closing:
                self._wake.wait()

    def _abandon(self, error: HoldfastError) -> None:
        with self._wake:
            self._failed = error
            left = [slot.request for slot in self._live if slot.request] + list(self._waiting)
            self._waiting.clear()
        self._live.clear()
        for request in left:
            self._conclude(request, "error", error)

    def _admit(self) -> None:
        """Give free slots to the first waiting requests."""
        while self._waiting:
            request = self._waiting[0]
            if self._over(request):
                self._waiting.popleft()
                self._conclude(request, *self._over_why(request))
                continue
            if request.fresh and self._live:
                return
            free = [slot for slot in self._slots if slot.request is None]
            if not free:
                return
            self._waiting.popleft()
            self._start(request, free)

    def _start(self, request: Request, free: list[Slot]) -> None:
        if request.fresh:
            for slot in self._slots:
                self._cut(slot, 0)
        try:
            grammar = self._backend.constraint(request.grammar) if request.grammar else None
        except HoldfastError as error:
            self._conclude(request, "error", error)
            return
        request.sampler = Sampler(request.sampling, grammar)
        if request.stops or request.sink:
            request.stream = TextStream(request.stops)
        self.counters.requests += 1
        self.counters.prompt_tokens += len(request.prompt)
        slot = self._place(request, free)
        slot.request, slot.next = request, -1
        self._live.append(slot)

    def _place(self, request: Request, free: list[Slot]) -> Slot:
        """The slot for a request: the free one with the longest prefix, or the oldest with a prefix to copy."""
        if request.score:
            slot = min(free, key=lambda s: s.used_at)
            self._cut(slot, 0)
            return slot
        own, mine = max(((_common(s.held, request.prompt), s) for s in free), key=lambda pair: pair[0])
        lent, donor = 0, None
        if self._backend.shares:
            for slot in self._live:
                length = _common(_prefix(slot), request.prompt)
                if length > lent:
                    lent, donor = length, slot
        if donor is None or lent < own + WORTH_COPYING:
            self._cut(mine, own)
            self._count_reuse(request, own)
            return mine
        slot = min(free, key=lambda s: s.used_at)
        self._cut(slot, 0)
        slot.donor, slot.share = donor, lent
        return slot

    def _count_reuse(self, request: Request, length: int) -> None:
        request.reused = length
        self.counters.reused_tokens += length

    def _cut(self, slot: Slot, length: int) -> None:
        if len(slot.held) > length:
            self._backend.cut(slot.index, length)
            del slot.held[length:]

    def _step(self) -> None:
        """Decode one batch and hand out its tokens."""
        for slot in self._live[:]:
            request = slot.request
            assert request is not None
            if (request.cancelled or request.deadline is not None) and self._over(request):
                self._finish(slot, *self._over_why(request))
        spans, wanted = self._plan()
        if not spans:
            return
        rows = self._backend.decode(spans)
        self.counters.steps += 1
        for slot, span in wanted:
            slot.held.extend(span.tokens)
        self._hand_out([(slot, span) for slot, span in wanted if span.rows], rows)

    def _plan(self) -> tuple[list[Span], list[tuple[Slot, Span]]]:
        """One token for each running reply, then prompt chunks in order of arrival."""
        work = [(s, Span(s.index, len(s.held), (s.next,), 1)) for s in self._live if s.next >= 0]
        if len(work) < len(self._live):
            room = min(CHUNK, self._backend.batch - len(work)) if work else self._backend.batch
            for slot in self._live:
                if slot.next < 0 and room > 0 and self._ready(slot):
                    span = self._chunk(slot, room)
                    work.append((slot, span))
                    room -= len(span.tokens)
        return [span for _, span in work], work

    def _ready(self, slot: Slot) -> bool:
        """Whether the slot can read its prompt; copies the donor's prefix once the donor holds it."""
        donor = slot.donor
        if donor is None:
            return True
        assert slot.request is not None
        have = _common(donor.held, slot.request.prompt)
        if have < slot.share and donor.request is not None and donor.next < 0:
            return False
        if have >= WORTH_COPYING:
            self._backend.copy(donor.index, slot.index, have)
            slot.held = list(donor.held[:have])
            self._count_reuse(slot.request, have)
        slot.donor = None
        return True

    def _chunk(self, slot: Slot, room: int) -> Span:
        assert slot.request is not None
        start = len(slot.held)
        room = min(room, SCORED_CHUNK) if slot.request.score else room
        tokens = slot.request.prompt[start : start + room]
        last = start + len(tokens) == len(slot.request.prompt)
        return Span(slot.index, start, tokens, len(tokens) if slot.request.score else int(last))

    def _hand_out(self, work: list[tuple[Slot, Span]], rows: Rows) -> None:
        best = rows.argmax(axis=1).tolist() if work else []
        now = time.perf_counter()
        at = 0
        for slot, span in work:
            request = slot.request
            assert request is not None
            assert request.sampler is not None
            if request.score:
                request.logits.append(rows[at : at + span.rows].copy())
                if len(slot.held) == len(request.prompt):
                    self._finish(slot, "stop")
            else:
                token = best[at] if request.sampler.plain else request.sampler.pick(rows[at])
                self._accept(slot, request, token, now)
            at += span.rows

    def _accept(self, slot: Slot, request: Request, token: int, now: float) -> None:
        """Add a chosen token to the reply, or end it."""
        if not request.tokens:
            request.first_token_at = now
        if token in self._backend.stops:
            self._finish(slot, "stop")
            return
        tokens = request.tokens
        tokens.append(token)
        slot.next = token
        if request.sampler is not None and not request.sampler.plain:
            request.sampler.accept(token)
        if request.stream is not None:
            self._speak(request, self._backend.piece(token))
            if request.stream.stopped:
                self._finish(slot, "stop")
                return
        if len(tokens) >= request.max_tokens or len(slot.held) >= self._backend.context:
            self._finish(slot, "length")

    def _speak(self, request: Request, data: bytes, *, final: bool = False) -> None:
        assert request.stream is not None
        delta = request.stream.push(data, final=final)
        if delta:
            request.text += delta
            if request.sink is not None:
                request.sink(delta)

    def _over(self, request: Request) -> bool:
        return request.cancelled or (request.deadline is not None and time.monotonic() > request.deadline)

    def _over_why(self, request: Request) -> tuple[str, HoldfastError | None]:
        if request.cancelled:
            return "cancelled", None
        return "error", Overloaded("the deadline passed before the reply was complete")

    def _finish(self, slot: Slot, reason: str, error: HoldfastError | None = None) -> None:
        self._clock += 1
        request, slot.request, slot.next, slot.donor, slot.used_at = slot.request, None, -1, None, self._clock
        self._live.remove(slot)
        assert request is not None
        self._conclude(request, reason, error)

    def _conclude(self, request: Request, reason: str, error: HoldfastError | None = None) -> None:
        if request.stream is not None:
            self._speak(request, b"", final=True)
        elif not request.score:
            request.text = join(request.tokens, self._backend.piece)
        if request.sampler is not None:
            request.sampler.close()
        self.counters.reply_tokens += len(request.tokens)
        request.finish_reason, request.error, request.finished_at = reason, error, time.perf_counter()
        if request.sink is not None:
            request.sink("")
        request.done.set()


def _prefix(slot: Slot) -> Sequence[int]:
    """What a running slot can lend, now or soon. A slot that waits for another lends nothing, so that no two can
    wait for each other."""
    if slot.request is None or slot.request.score or slot.donor is not None:
        return ()
    return slot.request.prompt if slot.next < 0 else slot.held


def _common(held: Sequence[int], prompt: Sequence[int]) -> int:
    """Length of the common prefix, but never the whole prompt: its last token must be decoded for its logits."""
    limit = min(len(held), len(prompt) - 1)
    if list(held[:limit]) == list(prompt[:limit]):
        return limit
    for i in range(limit):
        if held[i] != prompt[i]:
            return i
    return limit


def as_matrix(parts: Sequence[Any]) -> Rows:
    """The logits of a scored request, float32 [n_tokens, n_vocab]."""
    return np.concatenate(list(parts))
