"""One turn of a conversation: the prompt with the rules' system message, generation, enforcement."""

from __future__ import annotations

import asyncio
import queue
from bisect import bisect_left
from codecs import getincrementaldecoder
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .engine.requests import Request, late
from .engine.text import whole
from .errors import Cancelled, Overloaded, UsageError
from .reply import Reply, Settings, Timings, TokenLogprob, Usage
from .values import check_turn
from .waiting import next_of

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from .engine.backends.base import Backend
    from .engine.scheduler import Scheduler
    from .engine.template import Message
    from .rules import RuleBook, Turn

T = TypeVar("T")


class Host(Protocol):
    """What an exchange needs of the session that it runs in."""

    rules: RuleBook | None
    engine: Backend
    scheduler: Scheduler
    threads: ThreadPoolExecutor

    def request(self, messages: Sequence[Message], how: Settings, *, said: str = "", **more: Any) -> Request:
        """A generation that has not been submitted yet; it goes on from ``said``."""


class Exchange:
    """One question and its answer: prompt, generation, enforcement. Not started until `reply` or `pieces`."""

    def __init__(self, session: Host, messages: Sequence[Message], facts: Mapping[str, Any], how: Settings) -> None:
        check_turn(messages, facts)
        if session.rules is not None and (problems := session.rules.fact_problems(facts)):
            raise UsageError("; ".join(problems), next="see facts: of the rule file")
        self._session = session
        self._how = how
        self._facts = dict(facts)
        self._requests: list[Request] = []
        self._cancelled = False
        self._enforced: Reply | None = None
        self._prompt = list(messages)  # rules about sources read the system message too
        if session.rules is not None and not any(m.get("role") == "system" for m in self._prompt):
            self._prompt.insert(0, {"role": "system", "content": session.rules.system_prompt(self._facts)})

    def submit(self, sink: Any = None, how: Settings | None = None, *, said: str = "") -> Request:
        """Queue one generation. Raises Cancelled once the turn is."""
        request = self.prepare(sink, how, said=said)
        self._session.scheduler.submit([request])
        if self._is_cancelled():  # meanwhile
            request.cancel()
        return request

    def prepare(self, sink: Any = None, how: Settings | None = None, *, said: str = "") -> Request:
        """A generation of this turn, for the caller to submit (together with others) before `reply` is called."""
        if self._is_cancelled():
            raise Cancelled("the turn was cancelled", next="ask again")
        request = self._session.request(self._prompt, how or self._how, sink=sink, said=said)
        self._requests.append(request)
        return request

    def structured(self) -> Exchange:
        """Keep the reply within the contract's grammar from its first token on, where the caller gave none."""
        book = self._session.rules
        if self._how.grammar is None and book is not None and self._session.engine.grammars:
            self._how = replace(self._how, grammar=book.grammar())
        return self

    def cancel(self) -> None:
        """Stop generating, also while waiting in the queue; nothing happens when the turn is over. Whoever waits for
        a whole reply gets Cancelled."""
        self._cancelled = True
        for request in self._requests:
            request.cancel()

    def _is_cancelled(self) -> bool:
        return self._cancelled

    def flow(self, *, enforce: bool = True) -> Iterator[str]:
        """The reply in pieces of text. Where rules are enforced a piece is one or more sentences that keep them: see
        `holding`. Leaving early cancels the turn."""
        try:
            if enforce and self._session.rules is not None:
                yield from self.structured()._held(self._session.rules)
            else:
                yield from self._pieces_of("")
        finally:
            self.cancel()

    def _pieces_of(self, said: str, how: Settings | None = None) -> Iterator[str]:
        """One generation that goes on from ``said``, as it comes."""
        pieces: queue.SimpleQueue[str] = queue.SimpleQueue()
        request = self.submit(pieces.put, how, said=said)
        while piece := self._within(request, pieces):
            yield piece
        request.wait()
        if request.finish_reason == "cancelled":
            raise Cancelled("the turn was cancelled", next="ask again")

    def _within(self, request: Request, pieces: queue.SimpleQueue[str]) -> str:
        """The next piece. Overloaded when it does not come before the deadline: a step may take longer."""
        try:
            return pieces.get(timeout=request.patience)
        except queue.Empty:
            request.cancel()
            raise late() from None

    def _held(self, book: RuleBook) -> Iterator[str]:
        from .guard import CUT, RETRY, SET
        from .holding import Holding

        hold, raw, done = Holding(book, self._turn()), "", []
        for piece in self._pieces_of(""):
            raw += piece
            if out := hold.push(raw):
                yield out
        out, reason = hold.end(raw, truncated=self._cut)
        if reason and not hold.sent:
            self._enforced = self._kept(book, raw)
            yield self._enforced.raw
            return
        left = self._how.max_tokens - len(self._session.engine.encode(hold.sent))
        if reason and not self._cut and left > 0:
            done.append(f"{RETRY}:{reason}")
            raw = hold.sent
            for piece in self._pieces_of(hold.sent, replace(self._otherwise(), max_tokens=left)):
                raw += piece
                if out := hold.push(raw):
                    yield out
            out, reason = hold.end(raw, truncated=self._cut)
        if reason:
            done.append(f"{CUT}:{reason}")
            out = hold.close()
        if out:
            yield out
        parsed = book.parse(hold.sent)
        done = [f"{SET}:{name}" for name in hold.changed] + done
        report = book.check(self._turn(), hold.sent)
        self._enforced = self._reply(hold.sent, parsed.text, parsed.fields, report=report, interventions=tuple(done))

    async def pieces(self, *, enforce: bool = True) -> AsyncIterator[str]:
        """`flow` for an event loop."""
        loop, found = asyncio.get_running_loop(), asyncio.Queue[str]()
        if enforce and self._session.rules is not None:
            pump = self._beside(self._pump, partial(_send, loop, found))
            pump.add_done_callback(_retrieved)
            try:
                while piece := await found.get():
                    yield piece
                await pump
            finally:
                self.cancel()
            return
        try:
            request = await self._beside(self.submit, partial(_send, loop, found))
            while piece := await next_of(found, request.patience):
                yield piece
            request.wait()
        except TimeoutError:
            raise late() from None
        finally:
            self.cancel()

    def _pump(self, send: Any) -> None:
        try:
            for piece in self.flow():
                send(piece)
        finally:
            send("")

    async def areply(self, *, enforce: bool = True) -> Reply:
        """`reply` without blocking the event loop; cancelling the task cancels the generation."""
        try:
            return await self._beside(partial(self.reply, enforce=enforce))
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _beside(self, work: Callable[..., T], *given: Any) -> asyncio.Future[T]:
        """Work in one of the session's threads; Overloaded once it is closed."""
        try:
            return asyncio.get_running_loop().run_in_executor(self._session.threads, work, *given)
        except RuntimeError:
            raise Overloaded("the runtime was closed", retry_after=5) from None

    def finished(self) -> Reply:
        """The whole reply, once `pieces` or `flow` is exhausted."""
        text = self._requests[-1].text
        return self._enforced or self._reply(text, text, None)

    def reply(self, *, enforce: bool = True) -> Reply:
        """Generate, enforce, and tell how it went. A generation that the caller prepared and submitted is the first."""
        if enforce and not self._requests:
            self.structured()
        text = self._finish(self._requests[0] if self._requests else self.submit())
        book = self._session.rules
        if book is None:
            return self._reply(text, text, None)
        if not enforce:
            parsed = book.parse(text)
            return self._reply(
                text, parsed.text, parsed.fields, report=tuple(book.check(self._turn(), text, self._cut))
            )
        return self._kept(book, text)

    def _kept(self, book: RuleBook, raw: str) -> Reply:
        """What enforcement makes of the model's reply."""
        from .guard import enforce

        kept = enforce(book, self._turn(), raw, self._retry, truncated=self._cut)
        words = str((kept.fields or {}).get("reply", kept.text))
        return self._reply(kept.text, words, kept.fields, report=kept.report, interventions=kept.interventions)

    def judge(self, text: str) -> Reply:
        """What enforcement makes of a reply that somebody else wrote; nothing is generated."""
        book = self._session.rules
        if book is None:
            return Reply(whole(text), text)
        from .guard import enforce

        kept = enforce(book, self._turn(), text)
        words = str((kept.fields or {}).get("reply", kept.text))
        return Reply(whole(words), kept.text, kept.fields, kept.report, kept.interventions)

    @property
    def prompt(self) -> Sequence[Message]:
        """The conversation as the model is shown it."""
        return tuple(self._prompt)

    def _turn(self) -> Turn:
        from .rules import Turn

        return Turn(messages=tuple(self._prompt), facts=self._facts)

    @property
    def _cut(self) -> bool:
        return self._requests[-1].finish_reason == "length"

    def _finish(self, request: Request) -> str:
        try:
            request.wait(request.patience)
        except BaseException:
            request.cancel()
            raise
        if request.finish_reason == "cancelled":
            raise Cancelled("the turn was cancelled", next="ask again")
        return request.text

    def _retry(self) -> tuple[str, bool]:
        """A second try, and whether it was cut off."""
        how = self._otherwise()
        return self._finish(self.submit(how=how)), self._cut

    def _otherwise(self) -> Settings:
        """The settings of a second try: some variety, and the contract's grammar where the backend has grammars."""
        how, book = self._how, self._session.rules
        grammar = how.grammar or (book.grammar() if book is not None and self._session.engine.grammars else None)
        seed = 1 if how.seed is None else how.seed + 1
        return replace(how, temperature=max(how.temperature, 0.7), top_p=0.95, seed=seed, grammar=grammar)

    def _reply(self, raw: str, text: str, fields: Mapping[str, Any] | None, **more: Any) -> Reply:
        first, last = self._requests[0], self._requests[-1]
        tokens = sum(len(r.tokens) for r in self._requests)
        decoding = sum(r.finished_at - (r.first_token_at or r.finished_at) for r in self._requests)
        return Reply(
            text=whole(text),
            raw=raw,
            fields=fields,
            finish_reason=last.finish_reason,
            usage=Usage(len(first.prompt), tokens, first.reused),
            timings=Timings(
                ttft_ms=1e3 * ((first.first_token_at or first.finished_at) - first.submitted_at),
                tokens_per_s=(tokens - len(self._requests)) / decoding if decoding > 0 else 0.0,
                total_ms=1e3 * (last.finished_at - first.submitted_at),
                queue_ms=1e3 * max(0.0, first.started_at - first.submitted_at),
            ),
            logprobs=self._logprobs(last, bare="interventions" in more) if raw == last.text else None,
            **more,
        )

    def _logprobs(self, request: Request, *, bare: bool) -> tuple[TokenLogprob, ...] | None:
        """``bare``: without the alternatives, which no rule has checked."""
        if request.chances is None:
            return None
        piece = self._session.engine.piece
        found = request.chances.found
        if request.stream is not None and request.stream.stopped:  # the stop string's own tokens are not sent
            decode = getincrementaldecoder("utf-8")("replace").decode
            ends = accumulate(len(decode(piece(token))) for token, _, _ in found)
            found = found[: bisect_left([0, *ends], len(request.text))]

        def named(token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
            return TokenLogprob(piece(token).decode("utf-8", "replace"), piece(token), logprob, top)

        return tuple(
            named(token, logprob, () if bare else tuple(named(*other) for other in top))
            for token, logprob, top in found
        )


def _retrieved(pump: asyncio.Future[None]) -> None:
    """What became of a pump that nobody waits for any more is of no interest."""
    if not pump.cancelled():
        pump.exception()


def _send(loop: asyncio.AbstractEventLoop, pieces: asyncio.Queue[str], piece: str) -> None:
    """Hand a piece to an event loop from the decode thread; a loop that is gone no longer listens."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(pieces.put_nowait, piece)
