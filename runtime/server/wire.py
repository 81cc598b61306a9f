"""The OpenAI chat-completions format: completions, chunks and errors out."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..engine.text import whole
from ..errors import HoldfastError, TooLong, UsageError

if TYPE_CHECKING:
    from ..info import Info
    from ..reply import Reply, TokenLogprob
    from .ask import Ask


def as_json(body: Any) -> bytes:
    """A body as UTF-8 JSON. A half character, which a model may spell as an escape in its reply, becomes U+FFFD."""
    return whole(json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))).encode()


def usage_of(replies: Sequence[Reply]) -> dict[str, Any]:
    """The tokens of all choices: the prompt once, what was generated together."""
    prompt = replies[0].usage.prompt_tokens
    made = sum(reply.usage.completion_tokens for reply in replies)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": replies[0].usage.cached_tokens},
    }


def _told(reply: Reply) -> dict[str, Any]:
    """What the rules found, beside the OpenAI fields."""
    return {
        "fields": reply.fields,
        "interventions": list(reply.interventions),
        "rules": [{"rule": v.rule, "severity": v.severity, "passed": v.passed} for v in reply.report],
    }


def message_of(reply: Reply, ask: Ask) -> tuple[dict[str, Any], str]:
    """The assistant's message, and why it ended.

    Where JSON was asked for and a rule put the safe reply, which is prose, in its place, that reply is the ``refusal``.
    """
    reason = reply.finish_reason
    if ask.tools is not None:
        words, calls = ask.tools.read(reply)
        if calls:
            message = {"role": "assistant", "content": words, "tool_calls": calls}
            return message, reason if reason == "length" else "tool_calls"
        return {"role": "assistant", "content": words}, reason
    if ask.structured and reply.fields is None and any(w.startswith("template:") for w in reply.interventions):
        return {"role": "assistant", "content": None, "refusal": reply.raw}, reason
    return {"role": "assistant", "content": reply.raw, "refusal": None}, reason


def logprobs_of(reply: Reply) -> dict[str, Any] | None:
    """The log probabilities of a reply's tokens, where they were asked for."""
    if reply.logprobs is None:
        return None

    def told(one: TokenLogprob) -> dict[str, Any]:
        return {"token": one.token, "bytes": list(one.bytes), "logprob": one.logprob}

    content = [{**told(one), "top_logprobs": [told(other) for other in one.top]} for one in reply.logprobs]
    return {"content": content, "refusal": None}


def completion(model: str, ask: Ask, replies: Sequence[Reply]) -> dict[str, Any]:
    """A ``chat.completion`` object."""
    choices = []
    for index, reply in enumerate(replies):
        message, reason = message_of(reply, ask)
        odds = logprobs_of(reply) if message.get("content") == reply.raw else None
        choices.append({"index": index, "message": message, "finish_reason": reason, "logprobs": odds})
    told = [_told(reply) for reply in replies]
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": usage_of(replies),
        "holdfast": told[0] if len(told) == 1 else {"choices": told},
    }


@dataclass(frozen=True)
class Chunks:
    """Makes the server-sent ``chat.completion.chunk`` events of one reply."""

    head: Mapping[str, Any]

    @classmethod
    def start(cls, model: str) -> Chunks:
        """Events with a new id."""
        made, what = int(time.time()), "chat.completion.chunk"
        return cls({"id": f"chatcmpl-{uuid.uuid4().hex}", "object": what, "created": made, "model": model})

    def delta(self, index: int, delta: Mapping[str, Any]) -> bytes:
        """A piece of one choice."""
        return event({**self.head, "choices": [{"index": index, "delta": delta, "finish_reason": None}]})

    def end(self, index: int, reply: Reply, reason: str) -> bytes:
        """The last event of one choice."""
        choice = {"index": index, "delta": {}, "finish_reason": reason, "logprobs": logprobs_of(reply)}
        return event({**self.head, "choices": [choice], "holdfast": _told(reply)})

    def usage(self, replies: Sequence[Reply]) -> bytes:
        """The event that carries the tokens."""
        return event({**self.head, "choices": [], "usage": usage_of(replies)})


def rest(chunks: Chunks, index: int, reply: Reply, ask: Ask, *, held: bool) -> list[bytes]:
    """The events at the end of one choice: all of it where it was ``held`` back, calls of functions, and the end."""
    message, reason = message_of(reply, ask)
    delta = {name: value for name, value in message.items() if name != "role" and value}
    if "tool_calls" in delta:
        delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(delta["tool_calls"])]
    if not held:
        delta.pop("content", None)
    return [*([chunks.delta(index, delta)] if delta else []), chunks.end(index, reply, reason)]


def event(body: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + as_json(body) + b"\n\n"


def model_entry(info: Info, since: int) -> dict[str, Any]:
    """One model of ``/v1/models``."""
    held = {"id": info.name, "object": "model", "created": since, "owned_by": "holdfast"}
    return {**held, "max_model_len": info.context, "holdfast": {"contract": info.contract, "rules": len(info.rules)}}


def error_body(error: HoldfastError) -> dict[str, Any]:
    """An OpenAI error object."""
    kind = "invalid_request_error" if isinstance(error, UsageError) else "server_error"
    code = "context_length_exceeded" if isinstance(error, TooLong) else type(error).__name__  # clients look for it
    return {"error": {"message": str(error), "type": kind, "param": None, "code": code}}
