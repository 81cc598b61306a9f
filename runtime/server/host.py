"""What the server asks of the session behind it, in this process or in another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol, Unpack

from ..info import Info
from ..reply import Options, Reply


class Turn(Protocol):
    """One question on its way to its answer."""

    def pieces(self, *, enforce: bool = True) -> AsyncIterator[str]:
        """The reply in pieces of text."""

    async def areply(self, *, enforce: bool = True) -> Reply:
        """The whole reply."""

    def finished(self) -> Reply:
        """The whole reply, once `pieces` is exhausted."""

    def cancel(self) -> None:
        """Stop generating; Cancelled for whoever waits."""


class Host(Protocol):
    """A loaded model."""

    @property
    def name(self) -> str:
        """What the model is called."""

    @property
    def info(self) -> Info:
        """What was loaded."""

    @property
    def state(self) -> str:
        """``ready``, ``restarting`` or ``failed``."""

    def turn(
        self, messages: Sequence[Mapping[str, Any]], facts: Mapping[str, Any] | None = None, **options: Unpack[Options]
    ) -> Turn:
        """One turn that has not been started. UsageError for what is wrong with it."""

    def judge(self, messages: Sequence[Mapping[str, Any]], facts: Mapping[str, Any] | None, text: str) -> Reply:
        """What the rules make of a reply that somebody else wrote."""

    def prompt(
        self, messages: Sequence[Mapping[str, Any]], facts: Mapping[str, Any] | None = None
    ) -> Sequence[Mapping[str, Any]]:
        """The conversation as the model is shown it."""

    def refuse_if_full(self) -> None:
        """Raise Overloaded when no more requests may wait."""

    def figures(self) -> Mapping[str, Any]:
        """What runs and waits, and totals since the start (see `engine.requests.Counters`)."""
