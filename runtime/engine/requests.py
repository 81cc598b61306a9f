"""What the scheduler works on: requests, and what it counts."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import HoldfastError, Overloaded, TooLong, UsageError
from .gaps import GAPS
from .lookup import Written
from .sampling import Chances, Sampler, Sampling
from .text import TextStream, join

if TYPE_CHECKING:
    from .backends.base import Backend, Constraint, Rows

log = logging.getLogger(__name__)
GREEDY = Sampling()
MOMENT = 0.1


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
    score: int = 0
    """Return the logits of so many of the prompt's last tokens instead of a reply."""
    reply: bool = False
    """With ``score``: reply too, and keep the logits behind every token of the reply that was decoded."""
    fresh: bool = False
    """Wait until nothing runs and forget every kept prefix first."""
    read: bool = False
    """Somebody reads the reply as it comes: prompts beside it are read in small pieces."""
    drafts: bool = False
    """Decode what it may say next together with what it said (see `lookup`)."""
    chances: Chances | None = None
    """Where the odds of its tokens are noted."""
    head: int = 0
    """How many of the prompt's first tokens are the deployment's own (its system prompt): they are read apart from the
    rest, and may be kept over restarts."""

    done: threading.Event = field(default_factory=threading.Event)
    cancelled: bool = False
    leave: Callable[[Request], None] | None = None
    """Tells the scheduler, while it has the request, that it was cancelled."""
    error: HoldfastError | None = None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str = ""
    logits: list[Rows] = field(default_factory=list)
    submitted_at: float = 0.0
    started_at: float = 0.0
    """When it was given a slot."""
    first_token_at: float = 0.0
    last_token_at: float = 0.0
    finished_at: float = 0.0
    reused: int = 0
    """Prompt tokens taken from a kept prefix."""
    sampler: Sampler | None = None
    stream: TextStream | None = None
    written: Written | None = None
    """Prompt and reply as drafts are looked up in them."""

    @property
    def kept(self) -> int:
        """How many of its first tokens a request may take from a kept prefix: those whose logits it wants are
        decoded."""
        return max(0, len(self.prompt) - max(self.score, 1))

    def check(self, backend: Backend) -> None:
        """Raises UsageError where the backend cannot take its prompt."""
        if not self.prompt:
            raise UsageError("the prompt is empty", next="give at least one token")
        room = backend.context - (0 if self.score and not self.reply else 1)
        if len(self.prompt) > room:
            raise TooLong(
                f"the prompt has {len(self.prompt)} tokens; the context holds {backend.context}",
                next="shorten the conversation, or load with a larger context",
            )
        if min(self.prompt) < 0 or max(self.prompt) >= backend.n_vocab:
            raise UsageError(f"a token id is outside 0..{backend.n_vocab - 1}", next="use this model's tokenizer")

    def tail(self, count: int) -> list[int]:
        """The last tokens of prompt and reply."""
        lacking = count - len(self.tokens)
        return [*(self.prompt[-lacking:] if lacking > 0 else ()), *self.tokens[-count:]]

    def cancel(self) -> None:
        """Stop at once; the reply so far stays readable."""
        self.cancelled = True
        if (leave := self.leave) is not None:
            leave(self)

    @property
    def over(self) -> bool:
        """Whether nobody waits for the reply any more: cancelled, or past its deadline."""
        return self.cancelled or (self.deadline is not None and time.monotonic() > self.deadline)

    def over_why(self) -> tuple[str, HoldfastError | None]:
        """Finish reason and error of a request that is `over`."""
        if self.cancelled:
            return "cancelled", None
        return "error", late()

    @property
    def patience(self) -> float | None:
        """Seconds for which to wait for a sign of it: until a moment after the deadline, which the scheduler sees
        only between two steps."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic()) + MOMENT

    def speak(self, data: bytes, *, final: bool = False) -> None:
        """Add the bytes of a token to the text, and tell the listener what is certain of it."""
        assert self.stream is not None
        delta = self.stream.push(data, final=final)
        if delta:
            self.text += delta
            if self.sink is not None:
                self.sink(delta)

    def conclude(self, reason: str, error: HoldfastError | None, piece: Callable[[int], bytes]) -> None:
        """End the request. Never raises, and whoever waits is woken in any case."""
        self.leave = None
        try:
            if self.stream is not None:
                self.speak(b"", final=True)
            elif not self.score or self.reply:
                self.text = join(self.tokens, piece)
            self._free()
        except Exception as fault:
            reason, error = "error", error or as_error(fault)
        self.finish_reason, self.error, self.finished_at = reason, error, time.perf_counter()
        try:
            if self.sink is not None:
                self.sink("")
        except Exception:
            log.exception("a listener failed at the end of its reply")
        self.done.set()

    def _free(self) -> None:
        if self.sampler is not None:
            self.sampler.close()
        elif self.constraint is not None:
            self.constraint.close()

    def wait(self, timeout: float | None = None) -> None:
        """Block until done; raise what went wrong."""
        if not self.done.wait(timeout):
            self.cancel()
            raise late()
        if self.error is not None:
            raise self.error


def late() -> Overloaded:
    """The error of a request whose deadline passed."""
    return Overloaded("the deadline passed before the reply was complete")


def as_error(error: Exception) -> HoldfastError:
    """What one request failed with; only an unexpected error is logged."""
    if isinstance(error, HoldfastError):
        return error
    log.error("a request failed", exc_info=error)
    return HoldfastError(f"the request failed: {what_of(error)}", next="report this with the runtime's version")


def what_of(error: BaseException) -> str:
    """An error in one line."""
    return getattr(error, "what", None) or f"{type(error).__name__}: {error}"


@dataclass
class Counters:
    """Totals since start, read by the metrics page."""

    requests: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    reply_tokens: int = 0
    steps: int = 0
    drafted_tokens: int = 0
    taken_tokens: int = 0
    """Of the drafted ones, those that the sampler chose."""
    restored_tokens: int = 0
    """Prompt tokens taken from a prefix that an earlier process kept."""
    rejected: int = 0
    gaps: list[int] = field(default_factory=lambda: [0] * (len(GAPS) + 1))
    """Times between a reply's tokens, by `GAPS`; the last class has no upper end."""
    gap_seconds: float = 0.0

    def between(self, seconds: float) -> None:
        """Count the time between two tokens of a reply."""
        self.gaps[bisect_left(GAPS, seconds)] += 1
        self.gap_seconds += seconds
