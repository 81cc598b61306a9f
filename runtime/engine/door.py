"""Who may use an engine: nobody once it is closed, and only the process that loaded it."""

from __future__ import annotations

import os
import threading
from types import TracebackType

from ..errors import Overloaded, UsageError


class Door:
    """``with door:`` around each use, Overloaded once it is closed, which waits for whoever is inside."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    def close(self) -> bool:
        """Wait until nobody is inside; False where it was closed before."""
        with self._changed:
            first, self._closed = not self._closed, True
            self._changed.wait_for(lambda: not self._inside)
        return first

    def __enter__(self) -> None:
        with self._changed:
            if self._closed:
                raise Overloaded("the runtime was closed", retry_after=5)
            self._inside += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()


def same_process(process: int) -> None:
    """Raise UsageError where this is not ``process`` any more: its threads were not forked with it."""
    if os.getpid() != process:
        raise UsageError(
            "the session belongs to the process that loaded it", next="load it in each process, after fork"
        )
