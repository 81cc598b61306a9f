"""Waiting in an event loop for what another thread finds."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def next_of(found: asyncio.Queue[T], patience: float | None) -> T:
    """The next of ``found``; TimeoutError after so many seconds. Only the waiting counts, not what whoever asks does
    with a piece: a slow reader gets what is there."""
    if not found.empty():
        return found.get_nowait()
    async with asyncio.timeout(patience):
        return await found.get()
