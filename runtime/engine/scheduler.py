"""Continuous batching: one thread decodes for everybody.

Requests wait in a bounded first-in-first-out queue. Each takes a slot (one sequence of the backend); every step
decodes one token for each running reply together with a chunk of the prompts that are still being read, so a long
prompt does not stall the others. A slot keeps its tokens when its reply is finished; a new request starts from the
longest prefix that any slot holds or is about to hold (a system prompt is computed once, then copied).

The same list submitted to an idle scheduler gives the same batches, hence the same tokens.

What goes wrong with one request (its grammar, its sampling, whoever listens to it, its tokens in the engine) ends that
request alone. Only an engine that cannot decode a single token any more ends the loop; then everybody is told at once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import HoldfastError, Overloaded
from .backends.base import Backend, Interrupted, Span
from .brake import Brake
from .door import same_process
from .drafting import Drafter
from .lookup import NOTHING
from .pace import CHUNK, FIRST, SCORED_CHUNK, Pace
from .requests import Counters, Request, as_error, what_of
from .sampling import Sampler
from .slots import Slot, Slots
from .text import TextStream

if TYPE_CHECKING:
    from .backends.base import Rows
    from .prefixes import Prefixes

log = logging.getLogger(__name__)
SWEEP = 0.02  # seconds between two looks for waiting requests that nobody wants any more


class Scheduler:
    """Owns the backend and the decode thread."""

    def __init__(self, backend: Backend, *, queue: int = 1024, prefixes: Prefixes | None = None) -> None:
        self._backend, self._prefixes = backend, prefixes if prefixes is not None and prefixes.usable else None
        self._waiting: deque[Request] = deque()
        self._limit = queue
        self._wake = threading.Condition()
        self._closing = False
        self._swept_at = 0.0
        self._failed: HoldfastError | None = None
        self.counters = Counters()
        self._slots = Slots(backend, self.counters, self._prefixes)
        self._drafter = Drafter(backend, self.counters, lambda: bool(self._waiting) or self._closing)
        self._pace = Pace()
        self._brake = Brake(backend)
        self._even, self._running = False, 0  # whether the step holds no prompt; the replies that go on in it
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._loop, name="holdfast-decode", daemon=True)
        self._thread.start()

    # ---- any thread ----

    def submit(self, requests: Sequence[Request], *, bounded: bool = True) -> None:
        """Queue requests together, in order. Overloaded when the queue is full (``bounded``) or closing,
        UsageError in a forked process, which has no decode thread."""
        same_process(self._process)
        for request in requests:
            request.check(self._backend)
        now = time.perf_counter()
        with self._wake:
            if not self.alive:
                raise self._failed or Overloaded("the runtime is shutting down", retry_after=5)
            if bounded and len(self._waiting) + len(requests) > self._limit:
                self.counters.rejected += len(requests)
                raise Overloaded(f"the queue is full ({self._limit} requests wait)", retry_after=1)
            for request in requests:
                request.submitted_at, request.leave = now, self._leave
            self._waiting.extend(requests)
            self._wake.notify()

    def _leave(self, request: Request) -> None:
        """A request was cancelled: it need not wait for the step that is being computed."""
        with self._wake:
            queued = request in self._waiting
            if queued:
                self._waiting.remove(request)
        if queued:
            self._conclude(request, *request.over_why())
        else:
            self._brake.pull()

    def prepare(self, text: Sequence[int]) -> None:
        """Find out what drafts cost from now on, whenever nobody waits; on ``text`` as long as nobody has asked."""
        with self._wake:
            self._drafter.wanted, self._drafter.probe.text = True, text
            self._wake.notify()

    @property
    def depth(self) -> int:
        """Requests waiting for a slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return len(self._slots.live)

    @property
    def held_tokens(self) -> int:
        """Tokens in the KV caches."""
        return sum(len(slot.held) for slot in self._slots.all)

    @property
    def alive(self) -> bool:
        """Whether requests are being taken: not closed, and the decode thread lives."""
        return not self._closing and self._failed is None and self._thread.is_alive()

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
        if self._prefixes is not None:
            self._prefixes.finish()

    # ---- the decode thread ----

    def _loop(self) -> None:
        try:
            while not self._closing:
                if self._waiting:
                    self._admit()
                if self._slots.live:
                    self._step()
                elif self._waiting or not self._drafter.measure(self._slots.free):
                    self._sleep()
            end: HoldfastError = Overloaded("the runtime was closed", retry_after=5)
        except BaseException as error:
            log.exception("the decode loop failed")
            end = HoldfastError(f"the engine failed: {what_of(error)}", next="restart the runtime")
        self._abandon(end)

    def _sleep(self) -> None:
        with self._wake:
            if not self._waiting and not self._closing:
                self._wake.wait()

    def _abandon(self, error: HoldfastError) -> None:
        with self._wake:
            self._failed = error
            waiting = list(self._waiting)
            self._waiting.clear()
        for slot in self._slots.live[:]:
            self._finish(slot, "error", error)
        for request in waiting:
            self._conclude(request, "error", error)

    def _admit(self) -> None:
        """Give free slots to the first waiting requests."""
        self._sweep()
        while (request := self._next()) is not None:
            self._start(request)

    def _next(self) -> Request | None:
        """The first waiting request, taken out of the queue, where there is room for it."""
        free = self._slots.free
        with self._wake:
            if not self._waiting or not free or (self._waiting[0].fresh and self._slots.live):
                return None
            return self._waiting.popleft()

    def _sweep(self) -> None:
        """Send away, from anywhere in the queue, whom nobody waits for any more."""
        now = time.monotonic()
        if now < self._swept_at + SWEEP:
            return
        self._swept_at = now
        with self._wake:
            over = [request for request in self._waiting if request.over]
            if over:
                self._waiting = deque(request for request in self._waiting if not request.over)
        for request in over:
            self._conclude(request, *request.over_why())

    def _start(self, request: Request) -> None:
        if request.over:
            self._conclude(request, *request.over_why())
            return
        try:
            request.sampler = Sampler(request.sampling, request.constraint, request.prompt)
        except Exception as error:
            self._conclude(request, "error", as_error(error))
            return
        if request.stops or request.sink:
            request.stream = TextStream(request.stops)
        self._drafter.wanted = self._drafter.wanted or request.drafts
        request.started_at = time.perf_counter()
        self.counters.requests += 1
        self.counters.prompt_tokens += len(request.prompt)
        self._slots.take(request)

    def _step(self) -> None:
        """Decode one batch and hand out its tokens."""
        with self._brake:
            self._dismiss()
            work = self._plan()
            if not work:
                return
            started = self._backend.clock()
            fault: Exception | None = None
            try:
                rows = self._backend.decode([span for _, span in work])
            except Exception as error:
                fault = error
        self._brake.pulled = isinstance(fault, Interrupted)
        if fault is None:
            self._advance(work, rows)
            spent, width = self._backend.clock() - started, sum(len(span.tokens) for _, span in work)
            if self._even and (self._running == 1 or width == self._running):
                self._drafter.drafts.timed(width, spent)
            if not self._even or width == self._running:
                self._pace.note(self._running, width - self._running, spent)
        elif self._brake.pulled:
            for slot, _ in work:
                self._slots.restore(slot)
        else:
            log.warning("a batch of %d could not be decoded: %s", len(work), fault)
            self._decode_apart(work)

    def _dismiss(self) -> None:
        """End the replies that nobody waits for any more."""
        for slot in self._slots.live[:]:
            request = slot.request
            assert request is not None
            if (request.cancelled or request.deadline is not None) and request.over:
                self._finish(slot, *request.over_why())

    def _decode_apart(self, work: list[tuple[Slot, Span]]) -> None:
        """A batch failed: decode each part alone, so that only the requests at fault fail. Raises what the engine
        raises when it cannot decode any token any more."""
        for slot, _ in work:
            self._slots.restore(slot)
        failed = [slot for slot, span in work if not self._decode_alone(slot, span)]
        if len(failed) == len(work):
            self._backend.decode([Span(failed[-1].index, 0, (0,), 1)])
            self._slots.restore(failed[-1])

    def _decode_alone(self, slot: Slot, span: Span) -> bool:
        try:
            rows = self._backend.decode([span])
        except Exception as error:
            self._finish(slot, "error", as_error(error))
            self._slots.forget(slot)
            return False
        self._advance([(slot, span)], rows)
        return True

    def _advance(self, work: list[tuple[Slot, Span]], rows: Rows) -> None:
        self.counters.steps += 1
        for slot, span in work:
            slot.held.extend(span.tokens)
            self._slots.keep(slot)
        self._hand_out([(slot, span) for slot, span in work if span.rows], rows)

    def _plan(self) -> list[tuple[Slot, Span]]:
        """The last token of each running reply with what it may say next, and prompt chunks in order of arrival; both
        by slot: llama.cpp computes neighbours together and starts again at every gap."""
        live = self._slots.live
        running = [slot for slot in live if slot.next >= 0]
        for slot in running:
            slot.draft = NOTHING
        self._even, self._running = 0 < len(running) == len(live), len(running)
        if self._even:
            self._drafter.draft(running)
        work = [(s, Span(s.index, len(s.held), (s.next, *s.draft.tokens), 1 + len(s.draft.tokens))) for s in running]
        if len(work) < len(live):
            room = self._backend.batch
            if work:
                read = any(slot.request is not None and slot.request.read for slot in running)
                room = min(room - len(work), self._pace.room(len(running)) if read else CHUNK)
            if self._brake.pulled:  # this step is not stopped: it is to be a short one
                room = min(room, FIRST)
            for slot in live:
                if slot.next < 0 and room > 0 and self._slots.ready(slot):
                    span = self._chunk(slot, room)
                    work.append((slot, span))
                    room -= len(span.tokens)
        return sorted(work, key=lambda pair: pair[0].index)

    def _chunk(self, slot: Slot, room: int) -> Span:
        assert slot.request is not None
        start = len(slot.held)
        request = slot.request
        if not request.score:
            end = min(start + room, request.head if start < request.head else len(request.prompt))
            tokens = request.prompt[start:end]
            return Span(slot.index, start, tokens, int(start + len(tokens) == len(request.prompt)))
        if start < request.kept:
            return Span(slot.index, start, request.prompt[start : min(start + room, request.kept)], 0)
        tokens = request.prompt[start : start + min(room, SCORED_CHUNK)]
        return Span(slot.index, start, tokens, len(tokens))

    def _hand_out(self, work: list[tuple[Slot, Span]], rows: Rows) -> None:
        best = rows.argmax(axis=1).tolist() if work else []
        now = time.perf_counter()
        at = 0
        for slot, span in work:
            request = slot.request
            assert request is not None
            try:
                self._give(slot, request, rows[at : at + span.rows], best[at : at + span.rows], now)
            except Exception as error:
                self._finish(slot, "error", as_error(error))
            at += span.rows

    def _give(self, slot: Slot, request: Request, rows: Rows, best: list[int], now: float) -> None:
        """Its logits to one request; ``best`` is the likeliest token of each row. What this raises is that request's
        own error."""
        assert request.sampler is not None
        if request.score:
            request.logits.append(rows.copy())
            if len(slot.held) < len(request.prompt):
                return
            if not request.reply:
                self._finish(slot, "stop")
                return
            rows, best = rows[-1:], best[-1:]
        draft, taken = slot.draft, 0
        for number, row in enumerate(rows):
            token = best[number] if request.sampler.plain else request.sampler.pick(row)
            if request.chances is not None and token not in self._backend.stops:
                request.chances.note(row, token)
            if slot.guess.tokens:
                self._drafter.compare(slot, token)
            self._accept(slot, request, token, now)
            taken = number
            if slot.request is None or number == len(draft.tokens) or token != draft.tokens[number]:
                break
        if draft.tokens:
            self._drafter.count(draft, taken)
            self._slots.cut(slot, len(slot.held) - len(draft.tokens) + taken)

    def _accept(self, slot: Slot, request: Request, token: int, now: float) -> None:
        """Add a chosen token to the reply, or end it."""
        if request.tokens:
            self.counters.between(now - request.last_token_at)
        else:
            request.first_token_at = now
        request.last_token_at = now
        if token in self._backend.stops:
            self._finish(slot, "stop")
            return
        tokens = request.tokens
        tokens.append(token)
        slot.next = token
        if request.sampler is not None and not request.sampler.plain:
            request.sampler.accept(token)
        if request.stream is not None:
            request.speak(self._backend.piece(token))
            if request.stream.stopped:
                self._finish(slot, "stop")
                return
        if request.sampler is not None and request.sampler.complete:
            self._finish(slot, "stop")
            return
        if len(tokens) >= request.max_tokens or len(request.prompt) + len(tokens) > self._backend.context:
            self._finish(slot, "length")

    def _finish(self, slot: Slot, reason: str, error: HoldfastError | None = None) -> None:
        request = self._slots.release(slot)
        if request.drafts and error is None:
            self._drafter.drafts.remember(request.tokens)
        self._conclude(request, reason, error)

    def _conclude(self, request: Request, reason: str, error: HoldfastError | None = None) -> None:
        self.counters.reply_tokens += len(request.tokens)
        request.conclude(reason, error, self._backend.piece)
