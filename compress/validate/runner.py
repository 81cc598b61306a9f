"""What every runner answers: greedy replies, logits at chosen positions, timings of one reply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Messages = Sequence[Mapping[str, Any]]
Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Completion:
    """A greedy reply. ``truncated``: the token limit cut it. ``ttft_s`` is None where rows are decoded in batches."""

    text: str
    token_ids: tuple[int, ...]
    truncated: bool
    ttft_s: float | None = None


@dataclass(frozen=True)
class Scored:
    """Token ids, and the positions among them (ascending, one at least) after which the next token is predicted."""

    ids: tuple[int, ...]
    where: tuple[int, ...]


@dataclass(frozen=True)
class Probe:
    """Timings of one reply. TTFT in seconds, ``cold`` with nothing kept, ``warm`` as served: what earlier prompts of
    the same process had in common (the system prompt) may come from the prefix cache. None where there is none."""

    cold_s: float
    warm_s: float | None
    tokens_per_s: float | None


def silent(done: int, total: int) -> None:
    """The progress of whoever does not ask for it."""
    del done, total


class Runner(ABC):
    """A loaded artifact; a context manager that frees it."""

    note: ClassVar[str] = ""
    """What a reader of the figures must know about how they were taken."""
    timed: ClassVar[bool] = True
    """Whether the latency measured here is the latency of what ships."""
    retries: ClassVar[bool] = False
    """Whether the rule guard may ask again: greedy decoding in torch would only repeat itself."""
    vocabulary: int
    context: int
    """Tokens that prompt and reply may have together."""

    @abstractmethod
    def encode(self, messages: Messages) -> list[int]:
        """Token ids of the rendered prompt, up to and including the start of the assistant's turn."""

    @abstractmethod
    def complete(
        self, prompts: Sequence[Messages], max_tokens: int, *, regroup: bool = False, progress: Progress = silent
    ) -> list[Completion]:
        """Greedy replies in the order of ``prompts``; the same list gives the same replies.

        ``regroup`` decodes the same prompts in batches of another composition (for the A/A pass).
        """

    @abstractmethod
    def score(self, rows: Sequence[Scored]) -> Iterator[tuple[int, Floats]]:
        """``(number, float32 [len(where), vocabulary])`` of every row, in any order, a batch in memory at a time.

        Line k holds the logits of the token after ``ids[where[k]]``.
        """

    def logits(self, ids: Sequence[int]) -> Floats:
        """float32 ``[len(ids), vocabulary]``: row t holds the logits of the token after ``ids[t]``."""
        ((_, found),) = self.score([Scored(tuple(ids), tuple(range(len(ids))))])
        return found

    @abstractmethod
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a reply."""

    @abstractmethod
    def probe(self, messages: Messages, max_tokens: int) -> Probe:
        """Time one reply."""

    def reserve(self, prompts: Sequence[Messages], max_tokens: int) -> None:  # noqa: B027 - not every runner needs to
        """Make room for ``prompts`` and replies of so many tokens, whichever are asked first."""

    def retry_many(self, prompts: Sequence[Messages], grammar: str | None, max_tokens: int) -> list[tuple[str, bool]]:
        """One more ``(reply, truncated)`` to each prompt, made as the runtime makes it when the rule guard asks again;
        only where ``retries``."""
        raise TypeError(f"{type(self).__name__} does not retry")

    @abstractmethod
    def close(self) -> None:
        """Free the model."""

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
