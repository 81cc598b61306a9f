"""Ending a step in the middle: whoever leaves need not wait until a long prompt's piece has been read."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backends.base import Backend


class Brake:
    """``with brake:`` around a step that may be stopped. Not around the one after a step that was: others go on,
    however many leave."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._armed = False
        self.pulled = False
        """Whether the last step was stopped."""

    def pull(self) -> None:
        """Stop the step, if it may be. Any thread may call it."""
        with self._lock:
            if self._armed:
                self._backend.stop(on=True)

    def __enter__(self) -> None:
        with self._lock:
            self._armed = not self.pulled

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._lock:
            self._armed = False
            self._backend.stop(on=False)
