"""A second opinion: what is asked when this model escalates, refuses, or its reply had to be replaced by the safe one.

The one who is asked is another bundle, or any OpenAI-compatible server. What it says is held to this bundle's own
rules; a reply that breaks them is not used. It has a budget of tokens per hour and a circuit breaker, and whatever goes
wrong with it, the reply that there was is sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from ..errors import Cancelled, HoldfastError, UsageError
from ..reply import Options, Reply, Settings, Usage

if TYPE_CHECKING:
    from ..info import Info
    from .host import Host, Turn

log = logging.getLogger(__name__)
OUTCOMES = ("answered", "broke_rules", "failed", "open", "over_budget")
"""How asking ended; ``open``: the circuit breaker was."""
REASONS = ("escalated", "refused", "safe")
HOUR = 3600.0
MOST_TOKENS = 1 << 48
"""That a server may say it took."""
Clock = Callable[[], float]


@dataclass
class Spending:
    """Tokens that one request took, or may take as long as that is not known."""

    at: float
    tokens: int


@dataclass
class Budget:
    """Tokens, prompts and replies together, in any one hour."""

    tokens: int | None
    clock: Clock = time.monotonic
    _spent: deque[Spending] = field(default_factory=deque)

    def left(self) -> float:
        """Tokens that may still be spent now."""
        if self.tokens is None:
            return float("inf")
        while self._spent and self._spent[0].at <= self.clock() - HOUR:
            self._spent.popleft()
        return self.tokens - sum(spending.tokens for spending in self._spent)

    def spend(self, tokens: int) -> Spending:
        """Take tokens from it, at first as many as a request may take; its ``tokens`` are set when it is over."""
        self._spent.append(spending := Spending(self.clock(), tokens))
        return spending


@dataclass
class Breaker:
    """Closed, until ``failures`` in a row; then open for ``pause`` seconds, after which one request may try. When that
    fails too, the pause is twice as long (at most ``longest``)."""

    failures: int = 3
    pause: float = 30.0
    longest: float = 600.0
    clock: Clock = time.monotonic
    _failed: int = 0
    _open_until: float | None = None
    _wait: float = 0.0
    _trying: bool = False

    def allow(self) -> bool:
        """Whether a request may be made. After a True, `note` or `forget` has to follow."""
        if self._open_until is None:
            return True
        if self._trying or self.clock() < self._open_until:
            return False
        self._trying = True
        return True

    def note(self, *, well: bool) -> None:
        """How a request went."""
        if well:
            self._failed, self._open_until, self._wait, self._trying = 0, None, 0.0, False
            return
        if self._open_until is not None and not self._trying:
            return  # one of several that were under way when it opened
        self._trying = False
        self._failed += 1
        if self._failed >= self.failures:
            self._wait = min(max(self.pause, 2 * self._wait), self.longest)
            self._open_until = self.clock() + self._wait

    def forget(self) -> None:
        """A request ended without telling anything of whom was asked: its client left, or gave too little time."""
        self._trying = False


@dataclass(frozen=True)
class Said:
    """What the one who was asked replied."""

    text: str
    usage: Usage | None
    """None where it does not tell."""
    finish_reason: str = "stop"


class FallbackError(HoldfastError):
    """There is no reply of the one who was asked. Its words are ours, never those of a conversation."""


class Target(Protocol):
    """Who is asked."""

    async def ask(
        self, host: Host, messages: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], how: Options
    ) -> Said:
        """The whole reply, however long it takes. An error when there is none."""


@dataclass
class BundleTarget:
    """Another bundle."""

    host: Host

    async def ask(
        self, host: Host, messages: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], how: Options
    ) -> Said:
        """It is told the facts that it declares."""
        known = {name: value for name, value in facts.items() if name in self.host.info.facts}
        reply = await (await asyncio.to_thread(lambda: self.host.turn(messages, known, **how))).areply()
        if any(what.startswith("template:") for what in reply.interventions):
            raise FallbackError("the other bundle sent its safe reply")
        return Said(reply.raw, reply.usage, reply.finish_reason)


@dataclass
class UrlTarget:
    """An OpenAI-compatible server. Conversations are sent to it: choose one that may see them."""

    url: str
    """The base URL, which ends in ``/v1`` as a rule."""
    model: str
    key: str = ""

    def __post_init__(self) -> None:
        """Raises UsageError for what is no URL of a server."""
        import httpx

        try:
            host = httpx.URL(self.url).host
        except (httpx.InvalidURL, ValueError):
            host = ""
        if not host:
            raise UsageError(f"{self.url!r} is no URL to ask", next="such as https://llm.example/v1")

    async def ask(
        self, host: Host, messages: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], how: Options
    ) -> Said:
        """It is shown the prompt that our model is shown, and bound to our contract."""
        import httpx

        body: dict[str, Any] = {
            "model": self.model,
            "messages": await asyncio.to_thread(host.prompt, messages, facts),
            "max_tokens": how["max_tokens"],
            "temperature": 0,
            **({"stop": how["stop"]} if how.get("stop") else {}),
        }
        if host.info.contract is not None:
            schema = {"name": "reply", "schema": host.info.contract, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        url = f"{self.url.rstrip('/')}/chat/completions"
        try:
            async with httpx.AsyncClient(timeout=None) as client:  # noqa: S113  # `Fallback` ends it
                answer = await client.post(url, json=body, headers=headers)
            answer.raise_for_status()
            told = answer.json()
            choice = told["choices"][0]
            text, cut = choice["message"]["content"], choice.get("finish_reason") == "length"
        except httpx.HTTPStatusError as error:
            raise FallbackError(f"it answered {error.response.status_code}") from None
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise FallbackError(f"no completion came ({type(error).__name__})") from None
        if not isinstance(text, str):
            raise FallbackError("it gave no text")
        return Said(text, _usage_in(told.get("usage")), "length" if cut else "stop")


def _usage_in(told: Any) -> Usage | None:
    """The tokens that a server says it took, where it does."""
    found = told if isinstance(told, dict) else {}
    counts: list[Any] = [found.get("prompt_tokens"), found.get("completion_tokens")]
    return Usage(*counts) if all(type(count) is int and 0 <= count < MOST_TOKENS for count in counts) else None


@dataclass
class Fallback:
    """Whom to ask, when, how often and how long."""

    target: Target
    reasons: frozenset[str] = frozenset(REASONS)
    budget: Budget = field(default_factory=lambda: Budget(None))
    breaker: Breaker = field(default_factory=Breaker)
    timeout: float = 30.0
    asked: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))

    def reason(self, reply: Reply) -> str | None:
        """Why somebody else should be asked, or None."""
        safe = any(what.startswith(("template:", "unsafe:")) for what in reply.interventions)
        given = {"escalated": reply.action == "escalate", "refused": reply.action == "refuse", "safe": safe}
        return next((reason for reason in REASONS[::-1] if given[reason] and reason in self.reasons), None)

    async def better(
        self, host: Host, messages: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], how: Options, reply: Reply
    ) -> Reply:
        """The reply of the one who is asked where there is reason and it keeps the rules, else ``reply``."""
        reason = self.reason(reply)
        if reason is None or how.get("response_format") or how.get("grammar"):  # a form of the caller's own
            return reply
        outcome, found = await self._ask(host, messages, facts, how, reply)
        self.asked[outcome] += 1
        return reply if found is None else replace(found, interventions=(f"fallback:{reason}", *found.interventions))

    async def _ask(
        self, host: Host, messages: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], how: Options, reply: Reply
    ) -> tuple[str, Reply | None]:
        """How it went, and what to send instead of ``reply``: within what is left of the request's own time."""
        most = how.get("max_tokens", Settings().max_tokens)
        if self.budget.left() < (dear := reply.usage.prompt_tokens + most):
            return "over_budget", None
        left = (how.get("timeout") or float("inf")) - reply.timings.total_ms / 1e3
        if left <= 0:
            return "failed", None
        if not self.breaker.allow():
            return "open", None
        spending, started = self.budget.spend(dear), time.perf_counter()
        try:
            said = await self._said(self.target.ask(host, messages, facts, _told(how, most)), left, spending)
            judged = await asyncio.to_thread(host.judge, messages, facts, said.text)
        except Exception as error:  # there is a reply already: nothing here may keep it from being sent
            why = error.what if isinstance(error, FallbackError) else type(error).__name__
            log.warning("the fallback failed: %s", why)
            return "failed", None
        if any(what.startswith("template:") for what in judged.interventions):
            return "broke_rules", None
        took = reply.timings.total_ms + 1e3 * (time.perf_counter() - started)
        timings = replace(reply.timings, ttft_ms=took, tokens_per_s=0.0, total_ms=took)
        usage = said.usage or reply.usage
        return "answered", replace(judged, usage=usage, timings=timings, finish_reason=said.finish_reason)

    async def _said(self, asking: Awaitable[Said], left: float, spending: Spending) -> Said:
        """What the one who is asked says within ``left`` seconds; breaker and budget learn how it went."""
        try:
            async with asyncio.timeout(min(self.timeout, left)):
                said = await asking
        except TimeoutError:  # it may have spent its tokens all the same
            self.breaker.forget() if left < self.timeout else self.breaker.note(well=False)
            raise
        except Exception:
            spending.tokens = 0
            self.breaker.note(well=False)
            raise
        except BaseException:  # the client left: that tells nothing of the one who is asked
            self.breaker.forget()
            raise
        self.breaker.note(well=True)
        if said.usage is not None:
            spending.tokens = said.usage.prompt_tokens + said.usage.completion_tokens
        return said


def reasons_of(names: Sequence[str] | None) -> frozenset[str]:
    """Of those names, or all. Raises UsageError for what is no reason."""
    if strange := set(names or ()) - set(REASONS):
        raise UsageError(f"there is no reason {', '.join(sorted(strange))}", next=f"choose of {', '.join(REASONS)}")
    return frozenset(names or REASONS)


def _told(how: Options, most: int) -> Options:
    """Of how the reply was to be generated, what holds for another model too."""
    return Options(max_tokens=most, stop=how["stop"]) if how.get("stop") else Options(max_tokens=most)


@dataclass
class _Turn:
    """A turn whose reply may be somebody else's. It is known only as a whole."""

    inner: Turn
    ask: Callable[[Reply], Any]
    reply: Reply | None = None
    task: asyncio.Task[Any] | None = None
    cancelled: bool = False

    async def areply(self, *, enforce: bool = True) -> Reply:
        reply = await self.inner.areply(enforce=enforce)
        if self.cancelled:  # while the reply was on its way here
            raise Cancelled("the turn was cancelled", next="ask again")
        self.task = asyncio.ensure_future(self.ask(reply))
        try:
            self.reply = await self.task
        except asyncio.CancelledError:
            if self.cancelled:
                raise Cancelled("the turn was cancelled", next="ask again") from None
            self.task.cancel()
            raise
        return self.reply

    async def pieces(self, *, enforce: bool = True) -> AsyncIterator[str]:
        yield (await self.areply(enforce=enforce)).raw

    def finished(self) -> Reply:
        assert self.reply is not None
        return self.reply

    def cancel(self) -> None:
        self.cancelled = True
        self.inner.cancel()
        if self.task is not None:
            self.task.cancel()


class WithFallback:
    """A host whose replies are a fallback's where it has reason to ask one."""

    def __init__(self, host: Host, fallback: Fallback) -> None:
        self._host = host
        self._fallback = fallback

    @property
    def name(self) -> str:
        """The model's name."""
        return self._host.name

    @property
    def info(self) -> Info:
        """What was loaded."""
        return self._host.info

    @property
    def state(self) -> str:
        """The model's; the fallback's does not matter."""
        return self._host.state

    def refuse_if_full(self) -> None:
        """As the model's own."""
        self._host.refuse_if_full()

    def figures(self) -> Mapping[str, Any]:
        """The model's, and how asking the fallback went."""
        return {**self._host.figures(), "fallbacks": dict(self._fallback.asked)}

    def judge(self, messages: Sequence[Mapping[str, Any]], facts: Mapping[str, Any] | None, text: str) -> Reply:
        """As the model's own."""
        return self._host.judge(messages, facts, text)

    def prompt(
        self, messages: Sequence[Mapping[str, Any]], facts: Mapping[str, Any] | None = None
    ) -> Sequence[Mapping[str, Any]]:
        """As the model's own."""
        return self._host.prompt(messages, facts)

    def turn(
        self, messages: Sequence[Mapping[str, Any]], facts: Mapping[str, Any] | None = None, **options: Unpack[Options]
    ) -> Turn:
        """One turn that has not been started."""
        inner = self._host.turn(messages, facts, **options)
        return _Turn(inner, lambda reply: self._fallback.better(self._host, messages, facts or {}, options, reply))
