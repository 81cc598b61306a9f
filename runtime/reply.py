"""What a session gives back, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import UsageError

if TYPE_CHECKING:
    from .rules import Verdict


@dataclass(frozen=True)
class Completion:
    """One reply of `Session.complete_many`."""

    text: str
    token_ids: list[int]
    finish_reason: str
    """``stop`` (the model ended its turn) or ``length``."""
    ttft_s: float
    """Seconds from submission to the first token, waiting in the queue included."""


@dataclass(frozen=True)
class Usage:
    """Tokens of a chat turn; ``cached_tokens`` of the prompt came from a kept prefix."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """``ttft_ms`` from submission to the first token; ``tokens_per_s`` of the decoding after it."""

    ttft_ms: float = 0.0
    tokens_per_s: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True)
class Reply:
    """An answer and how it came about."""

    text: str
    """The words for the customer: the contract's ``reply`` field, or the whole text without a contract."""
    raw: str
    """The whole reply; with a contract a JSON object."""
    fields: Mapping[str, Any] | None = None
    """The contract's fields, or None without a contract."""
    report: tuple[Verdict, ...] = ()
    """One verdict per active rule (empty without rules)."""
    interventions: tuple[str, ...] = ()
    """What enforcement changed; empty when the model kept the rules by itself."""
    finish_reason: str = "stop"
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)

    @property
    def action(self) -> str | None:
        """The contract's ``action``."""
        return self._field("action")

    @property
    def priority(self) -> str | None:
        """The contract's ``priority``."""
        return self._field("priority")

    @property
    def queue(self) -> str | None:
        """The contract's ``queue``."""
        return self._field("queue")

    @property
    def citations(self) -> tuple[str, ...]:
        """The contract's ``citations``."""
        found = (self.fields or {}).get("citations")
        return tuple(map(str, found)) if isinstance(found, list) else ()

    def _field(self, name: str) -> str | None:
        value = (self.fields or {}).get(name)
        return None if value is None else str(value)


@dataclass(frozen=True)
class Settings:
    """How a reply is generated."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    grammar: str | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens is {self.max_tokens}", next="ask for at least one token")
        if not 0 <= self.temperature <= 10 or not 0 < self.top_p <= 1:
            raise UsageError(
                f"temperature {self.temperature} or top_p {self.top_p} is out of range",
                next="temperature is within 0..10, top_p within 0..1",
            )
