"""The OpenAI chat-completions format: requests in, completions, chunks and errors out."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from ..engine.text import whole
from ..errors import HoldfastError, UsageError
from ..schema import schema_grammar
from ..values import check_values

if TYPE_CHECKING:
    from ..reply import Reply
    from ..session import Session

MESSAGES_CAP = 512


@dataclass(frozen=True)
class Ask:
    """One request, checked."""

    messages: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]
    options: Mapping[str, Any]
    stream: bool
    usage: bool
    """Whether a last chunk with the usage is wanted."""


def read_ask(body: bytes, session: Session) -> Ask:
    """Check a request body. Raises UsageError naming the field at fault."""
    try:
        fields = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise UsageError("the request body is not valid JSON", next="send an OpenAI chat-completions object") from None
    if not isinstance(fields, dict):
        raise UsageError("the request body is not an object", next="send an OpenAI chat-completions object")
    check_values({name: value for name, value in fields.items() if name != "seed"}, "the body")
    _known(fields)
    stream_options = fields.get("stream_options") or {}
    return Ask(
        messages=_messages(fields.get("messages")),
        facts=_facts(fields),
        options=_options(fields, session),
        stream=_typed(fields, "stream", bool) or False,
        usage=bool(isinstance(stream_options, dict) and stream_options.get("include_usage")),
    )


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _known(fields: Mapping[str, Any]) -> None:
    if (fields.get("n") or 1) != 1:
        raise UsageError("'n' other than 1 is not supported", next="send the request several times")
    for name in ("tools", "functions", "logprobs"):
        if fields.get(name):
            raise UsageError(f"{name!r} is not supported", next=f"leave {name!r} out")


def _messages(value: Any) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not 0 < len(value) <= MESSAGES_CAP:
        raise UsageError(f"'messages' must be a list of 1 to {MESSAGES_CAP} messages")
    return [_message(i, message) for i, message in enumerate(value)]


def _message(index: int, message: Any) -> Mapping[str, Any]:
    if not isinstance(message, dict) or message.get("role") not in ("system", "developer", "user", "assistant"):
        raise UsageError(f"messages[{index}] needs a role: system, user or assistant")
    content = message.get("content")
    if isinstance(content, list):  # the "content parts" form
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(text for text in texts if isinstance(text, str)) if len(texts) == len(content) else None
    if not isinstance(content, str):
        raise UsageError(f"messages[{index}].content must be text")
    role = "system" if message["role"] == "developer" else message["role"]
    return {"role": role, "content": content}


def _facts(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """``facts`` of the body, or ``metadata`` (whose values OpenAI clients send as texts)."""
    facts = fields.get("facts", fields.get("metadata")) or {}
    if not isinstance(facts, dict):
        raise UsageError("'facts' must be an object")
    return facts


def _typed(fields: Mapping[str, Any], name: str, *kinds: type) -> Any:
    value = fields.get(name)
    if value is None or (isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))):
        return value
    raise UsageError(f"{name!r} has the wrong type", next=f"expected {' or '.join(kind.__name__ for kind in kinds)}")


def _options(fields: Mapping[str, Any], session: Session) -> dict[str, Any]:
    options = {
        "max_tokens": _most(fields),
        "temperature": _typed(fields, "temperature", int, float),
        "top_p": _typed(fields, "top_p", int, float),
        "seed": _typed(fields, "seed", int),
        "stop": _stop(fields.get("stop")),
        "grammar": _grammar(fields.get("response_format"), session),
    }
    return {name: value for name, value in options.items() if value is not None}


def _most(fields: Mapping[str, Any]) -> int | None:
    """Tokens at most, under its present or its older name."""
    for name in ("max_completion_tokens", "max_tokens"):
        value: int | None = _typed(fields, name, int)
        if value is not None and value < 1:
            raise UsageError(f"{name!r} is {value}", next="ask for at least one token")
        if value is not None:
            return value
    return None


def _stop(value: Any) -> list[str] | None:
    stops = [value] if isinstance(value, str) else value
    if stops is None or (isinstance(stops, list) and len(stops) <= 16 and all(isinstance(s, str) for s in stops)):
        return stops
    raise UsageError("'stop' must be a text or up to 16 texts")


def _grammar(value: Any, session: Session) -> str | None:
    """``response_format`` as a grammar."""
    kind = value.get("type") if isinstance(value, dict) else None
    if value is None or kind == "text":
        return None
    if kind not in ("json_object", "json_schema"):
        raise UsageError("'response_format' must be text, json_object or json_schema")
    if not session.engine.grammars:
        raise UsageError(f"{session.backend} cannot constrain replies", next="leave 'response_format' out")
    if kind == "json_object":
        schema: Any = {"type": "object"}
    else:
        described = value.get("json_schema")
        schema = described.get("schema") if isinstance(described, dict) else None
    if not isinstance(schema, dict):
        raise UsageError("'response_format.json_schema.schema' must be an object")
    return schema_grammar(schema)


# ---- out ----


def as_json(body: Any) -> bytes:
    """A body as UTF-8 JSON. A half character, which a model may spell as an escape in its reply, becomes U+FFFD."""
    return whole(json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))).encode()


def _usage(reply: Reply) -> dict[str, Any]:
    usage = reply.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _told(reply: Reply) -> dict[str, Any]:
    """What the rules found, beside the OpenAI fields."""
    return {
        "fields": reply.fields,
        "interventions": list(reply.interventions),
        "rules": [{"rule": v.rule, "severity": v.severity, "passed": v.passed} for v in reply.report],
    }


def completion(model: str, reply: Reply) -> dict[str, Any]:
    """A ``chat.completion`` object."""
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": reply.raw},
                "finish_reason": reply.finish_reason,
                "logprobs": None,
            }
        ],
        "usage": _usage(reply),
        "holdfast": _told(reply),
    }


def chunk(model: str) -> Callable[..., bytes]:
    """A maker of server-sent ``chat.completion.chunk`` events with one id."""
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
    }

    def make(delta: Mapping[str, Any] | None, *, reply: Reply | None = None) -> bytes:
        if delta is None:
            assert reply is not None
            body = {**head, "choices": [], "usage": _usage(reply)}
        else:
            reason = reply.finish_reason if reply is not None else None
            body = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            if reply is not None:
                body["holdfast"] = _told(reply)
        return b"data: " + as_json(body) + b"\n\n"

    return make


def error_body(error: HoldfastError) -> dict[str, Any]:
    """An OpenAI error object."""
    kind = "invalid_request_error" if isinstance(error, UsageError) else "server_error"
    return {"error": {"message": str(error), "type": kind, "code": type(error).__name__}}
