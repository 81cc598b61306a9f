"""Asking a session, whole or in pieces, blocking or not: what every session offers over its turns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Protocol, Unpack

from .engine.template import Message
from .reply import Options, Reply

Messages = Sequence[Message]


class Turn(Protocol):
    """One question that has not been started."""

    def reply(self, *, enforce: bool = True) -> Reply:
        """Generate, enforce, and tell how it went."""

    def flow(self, *, enforce: bool = True) -> Iterator[str]:
        """The reply in pieces of text."""

    async def areply(self, *, enforce: bool = True) -> Reply:
        """`reply` without blocking the event loop."""

    def pieces(self, *, enforce: bool = True) -> AsyncIterator[str]:
        """`flow` for an event loop."""


class Talking(ABC):
    """Subclasses give `turn`."""

    @abstractmethod
    def turn(self, messages: Messages, facts: Mapping[str, Any] | None = None, **options: Unpack[Options]) -> Turn:
        """One turn that has not been started, for callers that need to cancel it or to see its parts."""

    def chat(
        self,
        messages: Messages,
        facts: Mapping[str, Any] | None = None,
        *,
        enforce: bool = True,
        **options: Unpack[Options],
    ) -> Reply:
        """Answer. With rules: their system prompt stands in front when the caller gives none, and (``enforce``)
        the reply keeps to the contract's grammar, what the rules decide is set, what breaks a hard rule is retried
        once and then replaced by the safe reply.

        ``facts``: what the app knows of the case, as the rule file declares it; ``options``: see `Options`.
        Raises UsageError naming what is wrong with the input, Overloaded when the queue is full or ``timeout`` passed.
        """
        return self.turn(messages, facts, **options).reply(enforce=enforce)

    async def achat(
        self,
        messages: Messages,
        facts: Mapping[str, Any] | None = None,
        *,
        enforce: bool = True,
        **options: Unpack[Options],
    ) -> Reply:
        """`chat` without blocking the event loop. Cancelling the task ends the generation."""
        return await self.turn(messages, facts, **options).areply(enforce=enforce)

    def stream(
        self,
        messages: Messages,
        facts: Mapping[str, Any] | None = None,
        *,
        enforce: bool = True,
        **options: Unpack[Options],
    ) -> Iterator[str]:
        """The reply in pieces of text. Where rules are enforced the pieces are sentences, each sent once the reply
        up to its end was checked. Leaving the loop early cancels the request."""
        yield from self.turn(messages, facts, **options).flow(enforce=enforce)

    async def astream(
        self,
        messages: Messages,
        facts: Mapping[str, Any] | None = None,
        *,
        enforce: bool = True,
        **options: Unpack[Options],
    ) -> AsyncIterator[str]:
        """`stream` for an event loop."""
        async for piece in self.turn(messages, facts, **options).pieces(enforce=enforce):
            yield piece
