"""One turn of a conversation: the prompt with the rules' system message, generation, enforcement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from .engine.requests import Request
from .engine.text import whole
from .errors import HoldfastError, UsageError
from .reply import Reply, Settings, Timings, Usage
from .values import check_values

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from .engine.backends.base import Backend
    from .engine.scheduler import Scheduler
    from .engine.template import Message
    from .rules import RuleBook, Turn


class Cancelled(HoldfastError):
    """The turn was cancelled before its reply was complete."""


class Host(Protocol):
    """What an exchange needs of the session that it runs in."""

    rules: RuleBook | None
    engine: Backend
    scheduler: Scheduler
    threads: ThreadPoolExecutor

    def request(self, messages: Sequence[Message], how: Settings, **more: Any) -> Request:
        """A generation that has not been submitted yet."""


class Exchange:
    """One question and its answer: prompt, generation, enforcement. Not started until `reply` or `pieces`."""

    def __init__(self, session: Host, messages: Sequence[Message], facts: Mapping[str, Any], how: Settings) -> None:
        check_values(facts, "facts")
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

    def submit(self, sink: Any = None, how: Settings | None = None) -> Request:
        """Queue one generation. Raises Cancelled once the turn is."""
        if self._is_cancelled():
            raise Cancelled("the turn was cancelled", next="ask again")
        request = self._session.request(self._prompt, how or self._how, sink=sink)
        self._session.scheduler.submit([request])
        self._requests.append(request)
        if self._is_cancelled():  # meanwhile
            request.cancel()
        return request

    def cancel(self) -> None:
        """Stop generating, also while waiting in the queue; nothing happens when the turn is over. Whoever waits for
        a whole reply gets Cancelled."""
        self._cancelled = True
        for request in self._requests:
            request.cancel()

    def _is_cancelled(self) -> bool:
        return self._cancelled

    async def pieces(self, *, enforce: bool = True) -> AsyncIterator[str]:
        """The reply in pieces of text; in one piece, checked, where rules are enforced."""
        if enforce and self._session.rules is not None:
            self._enforced = await self.areply()
            yield self._enforced.raw
            return
        loop, found = asyncio.get_running_loop(), asyncio.Queue[str]()
        try:
            request = await loop.run_in_executor(None, self.submit, partial(_send, loop, found))
            while piece := await found.get():
                yield piece
            request.wait()
        finally:
            self.cancel()

    async def areply(self, *, enforce: bool = True) -> Reply:
        """`reply` without blocking the event loop; cancelling the task cancels the generation."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._session.threads, partial(self.reply, enforce=enforce))
        except asyncio.CancelledError:
            self.cancel()
            raise

    def finished(self) -> Reply:
        """The whole reply, once `pieces` is exhausted."""
        text = self._requests[-1].text
        return self._enforced or self._reply(text, text, None)

    def reply(self, *, enforce: bool = True) -> Reply:
        """Generate, enforce, and tell how it went."""
        text = self._generate(self._how)
        book = self._session.rules
        if book is None:
            return self._reply(text, text, None)
        if not enforce:
            parsed = book.parse(text)
            return self._reply(
                text, parsed.text, parsed.fields, report=tuple(book.check(self._turn(), text, self._cut))
            )
        from .guard import enforce as keep

        kept = keep(book, self._turn(), text, self._retry, truncated=self._cut)
        words = (kept.fields or {}).get("reply", kept.text)
        return self._reply(kept.text, str(words), kept.fields, report=kept.report, interventions=kept.interventions)

    def _turn(self) -> Turn:
        from .rules import Turn

        return Turn(messages=tuple(self._prompt), facts=self._facts)

    @property
    def _cut(self) -> bool:
        return self._requests[-1].finish_reason == "length"

    def _generate(self, how: Settings) -> str:
        request = self.submit(how=how)
        try:
            request.wait(how.timeout + 1 if how.timeout is not None else None)
        except BaseException:
            request.cancel()
            raise
        if request.finish_reason == "cancelled":
            raise Cancelled("the turn was cancelled", next="ask again")
        return request.text

    def _retry(self) -> str:
        """A second try: the contract's grammar where the backend has grammars, and some variety."""
        how, book = self._how, self._session.rules
        grammar = how.grammar or (book.grammar() if book is not None and self._session.engine.grammars else None)
        again = Settings(how.max_tokens, max(how.temperature, 0.7), 0.95, how.seed or 1, how.stop, grammar, how.timeout)
        return self._generate(again)

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
            ),
            **more,
        )


def _send(loop: asyncio.AbstractEventLoop, pieces: asyncio.Queue[str], piece: str) -> None:
    """Hand a piece to an event loop from the decode thread; a loop that is gone no longer listens."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(pieces.put_nowait, piece)
