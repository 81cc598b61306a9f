"""One question to an engine that lives in a process of its own."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from .engine_process import Told
from .errors import Cancelled, EngineLost, HoldfastError
from .frames import error_from, reply_from
from .reply import Reply
from .waiting import next_of

Sink = Callable[[Told], None]
"""Who gets what comes back."""
OVERDUE = 10.0
"""Seconds after its deadline at which a reply's engine is taken for stuck, and killed."""


class Asked(Protocol):
    """The session that passes questions to the engine's process."""

    def ask(self, ask: Told, sink: Sink) -> int:
        """Send a question; its number."""

    def say(self, number: int, message: Told) -> None:
        """Something more about a question that has not been answered."""

    def kill(self, number: int) -> None:
        """End an engine that does not answer that question."""


class IsolatedTurn:
    """One question to the engine's process. Not started until `reply`, `flow`, `areply` or `pieces`."""

    def __init__(self, session: Asked, ask: Mapping[str, Any], timeout: float | None) -> None:
        self._session = session
        self._ask = ask
        self._patience = None if timeout is None else timeout + OVERDUE
        self._number: int | None = None
        self._cancelled = False
        self._reply: Reply | None = None

    def reply(self, *, enforce: bool = True) -> Reply:
        """Generate, enforce, and tell how it went."""
        for _ in self._pieces(stream=False, enforce=enforce):
            pass
        return self.finished()

    def flow(self, *, enforce: bool = True) -> Iterator[str]:
        """The reply in pieces of text; leaving the loop early cancels it."""
        return self._pieces(stream=True, enforce=enforce)

    async def areply(self, *, enforce: bool = True) -> Reply:
        """`reply` without blocking the event loop; cancelling the task cancels the generation."""
        async for _ in self._apieces(stream=False, enforce=enforce):
            pass
        return self.finished()

    def pieces(self, *, enforce: bool = True) -> AsyncIterator[str]:
        """`flow` for an event loop."""
        return self._apieces(stream=True, enforce=enforce)

    def finished(self) -> Reply:
        """The whole reply, once its pieces are exhausted."""
        assert self._reply is not None
        return self._reply

    def cancel(self) -> None:
        """Stop generating, also while waiting in the queue; nothing happens when the turn is over. Whoever waits for
        the reply gets Cancelled."""
        self._cancelled = True
        if (number := self._number) is not None:
            self._session.say(number, {"cancel": True})

    def _is_cancelled(self) -> bool:
        return self._cancelled

    def _pieces(self, *, stream: bool, enforce: bool) -> Iterator[str]:
        found: queue.SimpleQueue[Told] = queue.SimpleQueue()
        self._start(found.put, stream=stream, enforce=enforce)
        try:
            while (piece := self._read(found.get(timeout=self._patience))) is not None:
                yield piece
        except queue.Empty:
            raise self._stuck() from None
        finally:
            self.cancel()

    async def _apieces(self, *, stream: bool, enforce: bool) -> AsyncIterator[str]:
        loop, found = asyncio.get_running_loop(), asyncio.Queue[Told]()
        self._start(partial(_hand, loop, found), stream=stream, enforce=enforce)
        try:
            while (piece := self._read(await next_of(found, self._patience))) is not None:
                yield piece
        except TimeoutError:
            raise self._stuck() from None
        finally:
            self.cancel()

    def _start(self, sink: Sink, *, stream: bool, enforce: bool) -> None:
        if self._is_cancelled():
            raise Cancelled("the turn was cancelled", next="ask again")
        self._number = self._session.ask({**self._ask, "stream": stream, "enforce": enforce}, sink)
        if self._is_cancelled():  # meanwhile
            self.cancel()

    def _read(self, told: Told) -> str | None:
        """A piece, or None at the end of the reply."""
        if "piece" in told:
            return str(told["piece"])
        self._number = None
        if "error" in told:
            raise error_from(told["error"])
        self._reply = reply_from(told["reply"])
        return None

    def _stuck(self) -> HoldfastError:
        if self._number is not None:
            self._session.kill(self._number)
        return EngineLost("the engine was stuck and is being started again")


def _hand(loop: asyncio.AbstractEventLoop, found: asyncio.Queue[Told], told: Told) -> None:
    """Give to an event loop what another thread found; a loop that is gone no longer listens."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(found.put_nowait, told)
