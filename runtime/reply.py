"""What a session gives back, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict

from .engine.text import half_character
from .errors import UsageError

if TYPE_CHECKING:
    from .engine.sampling import Sampling
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
    """``ttft_ms`` from submission to the first token, of which ``queue_ms`` waiting for a slot; ``tokens_per_s`` of the
    decoding after it."""

    ttft_ms: float = 0.0
    tokens_per_s: float = 0.0
    total_ms: float = 0.0
    queue_ms: float = 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """How likely the model itself found a token, before penalties, temperature and grammar. A token may be a piece of
    a character: ``bytes`` tells it exactly, ``token`` as far as it is text."""

    token: str
    bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens in its place, as many as were asked for."""


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
    """``stop``, or ``length`` where the last generation ran into ``max_tokens`` or the context: then ``raw`` is cut
    off or, where rules are enforced, the safe reply."""
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Of the tokens of the last generation, where they were asked for and what it said was sent."""

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

    @property
    def tools(self) -> tuple[str, ...]:
        """The contract's ``tools``: names, in the order in which they are to be used."""
        found = (self.fields or {}).get("tools")
        return tuple(map(str, found)) if isinstance(found, list) else ()

    def _field(self, name: str) -> str | None:
        value = (self.fields or {}).get(name)
        return None if value is None else str(value)


class Options(TypedDict, total=False):
    """How a reply is generated: the keyword arguments of `chat`, `stream` and their twins."""

    max_tokens: int
    """Tokens of the reply at most; 256 by default."""
    temperature: float
    """0 (the default) takes the likeliest token every time."""
    top_p: float
    """Samples only among the likeliest tokens that together have this probability."""
    seed: int | None
    """The same seed gives the same tokens; None: another reply each time."""
    stop: str | Sequence[str]
    """The reply ends before any of these texts."""
    grammar: str | None
    """GBNF that the reply must follow (llama.cpp)."""
    response_format: Mapping[str, Any] | None
    """``{"type": "json_object"}``, or ``{"type": "json_schema", "json_schema": {"schema": {…}}}``."""
    timeout: float | None
    """Seconds after which Overloaded is raised."""
    top_k: int
    """Samples only among so many of the likeliest tokens; 0 (the default): among all."""
    min_p: float
    """Samples only among tokens at least this share as likely as the likeliest."""
    presence_penalty: float
    """-2 to 2: taken off the logits of tokens that the reply already has."""
    frequency_penalty: float
    """-2 to 2: the same, times how often it has them."""
    repetition_penalty: float
    """0.1 to 10: divides the logits of tokens that prompt or reply already have; 1 (the default) changes nothing."""
    logprobs: int | None
    """For each token its log probability, and those of so many (0 to 20) others in its place."""


LONGEST_WAIT = 365 * 86400.0
"""Seconds."""


MOST_LOGPROBS = 20
"""Alternatives for each token."""


@dataclass(frozen=True)
class Settings:
    """How a reply is generated: see `Sampling` for the choice of tokens. ``logprobs``: for each token its log
    probability and so many alternatives (0 to 20); None: no log probabilities."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: str | Sequence[str] = ()
    grammar: str | None = None
    timeout: float | None = None
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError naming the setting that is of the wrong type or out of range."""
        _whole_number("max_tokens", self.max_tokens, "ask for at least one token", least=1)
        _number("temperature", self.temperature, lambda value: 0 <= value <= 10, "it is within 0..10")
        _number("top_p", self.top_p, lambda value: 0 < value <= 1, "it is above 0 and at most 1")
        _whole_number("top_k", self.top_k, "keep at least one token, or 0 for all", least=0)
        _number("min_p", self.min_p, lambda value: 0 <= value <= 1, "it is within 0..1")
        for name in ("presence_penalty", "frequency_penalty"):
            _number(name, getattr(self, name), lambda value: -2 <= value <= 2, "it is within -2..2")
        _number("repetition_penalty", self.repetition_penalty, lambda value: 0.1 <= value <= 10, "it is within 0.1..10")
        if self.seed is not None:
            _whole_number("seed", self.seed, "any whole number serves")
        if self.logprobs is not None:
            _whole_number("logprobs", self.logprobs, f"ask for 0 to {MOST_LOGPROBS}", least=0, most=MOST_LOGPROBS)
        if self.timeout is not None:
            _number("timeout", self.timeout, lambda value: 0 <= value <= LONGEST_WAIT, "give seconds")
        if self.grammar is not None:
            _text("grammar", self.grammar)
        for stop in self.stops:
            _text("stop", stop)

    @property
    def sampling(self) -> Sampling:
        """The part that chooses tokens."""
        from .engine.sampling import Sampling  # with numpy, which an app whose engine is elsewhere does without

        return Sampling(
            self.temperature,
            self.top_p,
            self.seed,
            self.top_k,
            self.min_p,
            self.presence_penalty,
            self.frequency_penalty,
            self.repetition_penalty,
        )

    def choice(self, number: int) -> Settings:
        """The settings of the ``number``-th of several replies to one question: with a seed, each has its own."""
        return self if self.seed is None or not number else replace(self, seed=self.seed + number)

    @property
    def stops(self) -> tuple[str, ...]:
        """``stop`` as texts; a single text is one of them."""
        if isinstance(self.stop, str):
            return (self.stop,)
        if not isinstance(self.stop, Sequence):
            raise _wrong("stop", self.stop, "give a text or a list of texts")
        return tuple(self.stop)


def _whole_number(name: str, value: Any, hint: str, *, least: int | None = None, most: int | None = None) -> None:
    fits = isinstance(value, int) and not isinstance(value, bool)
    if not fits or (least is not None and value < least) or (most is not None and value > most):
        raise _wrong(name, value, hint)


def _number(name: str, value: Any, fits: Callable[[float], bool], hint: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
        raise _wrong(name, value, hint)


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _wrong(name, value, "give a text")
    if half_character(value) is not None:
        raise _wrong(name, value, "it has half a character (a lone surrogate)")


def _wrong(name: str, value: Any, hint: str) -> UsageError:
    huge = isinstance(value, int) and value.bit_length() > 1024  # which Python would not even print
    shown = "huge" if huge else repr(value)[:80]
    return UsageError(f"{name} is {shown}", next=f"{name}: {hint}")
