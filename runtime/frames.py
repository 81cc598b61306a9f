"""What an app and the engine's process say to each other: one JSON object a line over a socket pair."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from . import errors
from .errors import HoldfastError
from .info import Info, RuleInfo
from .reply import Reply, Timings, TokenLogprob, Usage

LINE_CAP = 64 << 20
"""Bytes of one message."""


def to_line(message: Mapping[str, Any]) -> bytes:
    """One message. Half characters become escapes, so that every text survives."""
    return json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def error_to(error: HoldfastError) -> dict[str, Any]:
    """An error as JSON values."""
    told: dict[str, Any] = {"kind": type(error).__name__, "what": error.what, "next": error.next}
    return told | {"retry_after": getattr(error, "retry_after", None)}


def error_from(told: Mapping[str, Any]) -> HoldfastError:
    """The error again, as an instance of its own class where `errors` has it."""
    kind = getattr(errors, str(told["kind"]), HoldfastError)
    error: HoldfastError = kind.__new__(kind)
    error.__dict__.update({"what": told["what"], "next": told["next"], "retry_after": told["retry_after"]})
    error.args = (told["what"], told["next"])
    return error


def reply_to(reply: Reply) -> dict[str, Any]:
    """A reply as JSON values."""
    return asdict(reply) | {"logprobs": None if reply.logprobs is None else [_odds_to(one) for one in reply.logprobs]}


def _odds_to(one: TokenLogprob) -> list[Any]:
    return [one.token, list(one.bytes), one.logprob, [_odds_to(other) for other in one.top]]


def _odds_from(told: Any) -> TokenLogprob:
    token, data, logprob, top = told
    return TokenLogprob(token, bytes(data), logprob, tuple(_odds_from(other) for other in top))


def reply_from(told: Mapping[str, Any]) -> Reply:
    """The reply again."""
    from .rules import Verdict

    parts = dict(told)
    parts["report"] = tuple(Verdict(**verdict) for verdict in parts["report"])
    parts["interventions"] = tuple(parts["interventions"])
    if parts["logprobs"] is not None:
        parts["logprobs"] = tuple(_odds_from(one) for one in parts["logprobs"])
    parts["usage"], parts["timings"] = Usage(**parts["usage"]), Timings(**parts["timings"])
    return Reply(**parts)


def info_to(info: Info) -> dict[str, Any]:
    """What was loaded, as JSON values."""
    return asdict(info)


def info_from(told: Mapping[str, Any]) -> Info:
    """The `Info` again."""
    return Info(**{**told, "rules": tuple(RuleInfo(**rule) for rule in told["rules"])})
