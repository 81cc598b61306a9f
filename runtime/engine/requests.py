"""What the scheduler works on: requests, and what it counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import HoldfastError, Overloaded
from .sampling import Sampler, Sampling
from .text import TextStream

if TYPE_CHECKING:
    from .backends.base import Constraint, Rows

GREEDY = Sampling()


@dataclass(eq=False)
class Request:
    """One prompt on its way to a reply. Fields below ``done`` belong to the scheduler."""

    prompt: Sequence[int]
    max_tokens: int = 256
    sampling: Sampling = GREEDY
    stops: Sequence[str] = ()
    constraint: Constraint | None = None
    """A compiled grammar; the request owns it."""
    deadline: float | None = None
    """`time.monotonic` value after which the request fails with Overloaded."""
    sink: Callable[[str], None] | None = None
    """Called from the decode thread with each piece of text, and with "" when the request is done."""
    score: bool = False
    """Return the logits of every prompt token instead of a reply."""
    fresh: bool = False
    """Wait until nothing runs and forget every kept prefix first."""

    done: threading.Event = field(default_factory=threading.Event)
    cancelled: bool = False
    error: HoldfastError | None = None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str = ""
    logits: list[Rows] = field(default_factory=list)
    submitted_at: float = 0.0
    first_token_at: float = 0.0
    finished_at: float = 0.0
    reused: int = 0
    """Prompt tokens taken from a kept prefix."""
    sampler: Sampler | None = None
    stream: TextStream | None = None

    def cancel(self) -> None:
        """Stop at the next step; the reply so far stays readable."""
        self.cancelled = True

    @property
    def over(self) -> bool:
        """Whether nobody waits for the reply any more: cancelled, or past its deadline."""
        return self.cancelled or (self.deadline is not None and time.monotonic() > self.deadline)

    def free(self) -> None:
        """Let go of the grammar."""
        if self.sampler is not None:
            self.sampler.close()
        elif self.constraint is not None:
            self.constraint.close()

    def wait(self, timeout: float | None = None) -> None:
        """Block until done; raise what went wrong."""
        if not self.done.wait(timeout):
            self.cancel()
            raise Overloaded("the reply did not come in time")
        if self.error is not None:
            raise self.error


@dataclass
class Counters:
    """Totals since start, read by the metrics page."""

    requests: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    reply_tokens: int = 0
    steps: int = 0
    rejected: int = 0
