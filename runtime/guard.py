"""Enforcement at run time: what the rules decide, code sets; what stays broken is retried once, then replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .rules import RuleBook, Turn, Verdict

SET, RETRY, TEMPLATE, UNSAFE, CUT = "set", "retry", "template", "unsafe", "cut"


@dataclass(frozen=True)
class Enforced:
    """What is sent. ``interventions`` lists all that was done to the model's reply, in order:

    ``set:<field>`` (code set a decided field), ``retry:<rule>`` (asked again because of that rule; ``retry:contract``
    for a reply that is cut off or outside the contract), ``template:<rule>`` (the safe reply was sent),
    ``unsafe:<rule>`` (even the safe reply breaks that hard rule). A stream that had begun may end with ``cut:<rule>``:
    after its last sentence that keeps the rules, because what the model went on to say breaks that rule
    (``cut:contract``: it ran into the token limit).
    """

    text: str
    fields: dict[str, Any] | None
    interventions: tuple[str, ...]
    report: tuple[Verdict, ...]
    """Verdicts on what is sent, over every rule in force."""


def enforce(
    book: RuleBook,
    turn: Turn,
    reply_text: str,
    retry: Callable[[], str | tuple[str, bool]] | None = None,
    *,
    truncated: bool = False,
) -> Enforced:
    """Make ``reply_text`` keep the hard rules in force for ``turn``.

    ``retry`` produces one more reply (or ``(reply, truncated)``); None where a second call is not wanted.
    ``truncated``: the reply ran into the token limit. Soft rules are reported, never acted upon.
    Raises RuleError when a safe reply is needed and the rule file has a contract but no ``prompt.fallback``.
    """
    done: list[str] = []
    text, report = _attempt(book, turn, reply_text, truncated, done)
    reason = _reason(book, text, report, truncated)
    if reason and retry is not None:
        done.append(f"{RETRY}:{reason}")
        again = retry()
        second, cut = (again, False) if isinstance(again, str) else again
        text, report = _attempt(book, turn, second, cut, done)
        reason = _reason(book, text, report, cut)
    if reason:
        done.append(f"{TEMPLATE}:{reason}")
        text = book.fallback(turn)
        report = book.check(turn, text)
        done += [f"{UNSAFE}:{verdict.rule}" for verdict in _broken(report)]
    return Enforced(text, book.parse(text).fields, tuple(done), report)


def _attempt(
    book: RuleBook, turn: Turn, text: str, truncated: bool, done: list[str]
) -> tuple[str, tuple[Verdict, ...]]:
    """The reply with its decided fields set, and the verdicts on it."""
    fields = None if truncated else book.parse(text).fields
    if fields is not None and book.contract is not None:
        decided = {name: value for name, value in book.decided(turn).items() if fields[name] != value}
        done += [f"{SET}:{name}" for name in decided]
        text = book.contract.dump({**fields, **decided}) if decided else text
    return text, book.check(turn, text, truncated)


def _reason(book: RuleBook, text: str, report: tuple[Verdict, ...], truncated: bool) -> str | None:
    """Why this reply cannot be sent: ``contract``, or the first hard rule that it breaks."""
    if truncated or book.parse(text).error:
        return "contract"
    broken = _broken(report)
    return broken[0].rule if broken else None


def _broken(report: tuple[Verdict, ...]) -> list[Verdict]:
    return [verdict for verdict in report if verdict.severity == "hard" and not verdict.passed]
