"""Several turns at once: their whole replies, or their pieces as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..reply import Reply
    from .host import Turn

Piece = tuple[int, str | None]
"""The number of a turn, and a piece of its reply; None at its end."""


def cancel(turns: Sequence[Turn]) -> None:
    """Stop all of them."""
    for turn in turns:
        turn.cancel()


async def replies_of(turns: Sequence[Turn]) -> list[Reply]:
    """The replies of all turns. What goes wrong with one ends the others."""
    if len(turns) == 1:
        return [await turns[0].areply()]
    try:
        return list(await asyncio.gather(*(turn.areply() for turn in turns)))
    except BaseException:
        cancel(turns)
        raise


async def merged(turns: Sequence[Turn]) -> AsyncIterator[Piece]:
    """The pieces of all turns in the order in which they come."""
    if len(turns) == 1:
        async for piece in turns[0].pieces():
            yield 0, piece
        yield 0, None
        return
    found: asyncio.Queue[Piece | Exception] = asyncio.Queue()
    tasks = [asyncio.create_task(_collect(index, turn, found)) for index, turn in enumerate(turns)]
    try:
        left = len(turns)
        while left:
            item = await found.get()
            if isinstance(item, Exception):
                raise item
            left -= item[1] is None
            yield item
    finally:
        cancel(turns)
        for task in tasks:
            task.cancel()


async def _collect(index: int, turn: Turn, found: asyncio.Queue[Piece | Exception]) -> None:
    try:
        async for piece in turn.pieces():
            found.put_nowait((index, piece))
        found.put_nowait((index, None))
    except Exception as error:
        found.put_nowait(error)


async def with_first(first: Piece, others: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    """``first`` and then the others."""
    yield first
    async for piece in others:
        yield piece
