"""The body of a chat-completions request, checked: every mistake is a UsageError that names its field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..errors import UsageError
from ..formats import schema_of
from ..reply import MOST_LOGPROBS, Options, Settings
from ..values import check_values, from_text, no_constant
from .tools import ToolUse, read_tools

if TYPE_CHECKING:
    from ..info import Info
    from .limits import Limits

ROLES = ("system", "developer", "user", "assistant", "tool")
STOPS_CAP = 16
_SAMPLING: Mapping[str, tuple[type, ...]] = {
    "temperature": (int, float),
    "top_p": (int, float),
    "top_k": (int,),
    "min_p": (int, float),
    "presence_penalty": (int, float),
    "frequency_penalty": (int, float),
    "repetition_penalty": (int, float),
    "seed": (int,),
}

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", list: "a list"}
_KINDS[dict] = "an object"


@dataclass(frozen=True)
class Ask:
    """One request."""

    messages: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]
    options: Options
    choices: int
    stream: bool
    usage: bool
    """Whether a last chunk with the usage is wanted."""
    structured: bool
    """Whether the reply was asked for as JSON."""
    tools: ToolUse | None

    def options_of(self, choice: int) -> Options:
        """The options of one of several choices: each has a seed of its own, the first the one that was given."""
        seed = self.options.get("seed")
        return self.options if seed is None or not choice else {**self.options, "seed": seed + choice}

    def held(self, info: Info) -> bool:
        """Whether nothing can be streamed before the whole reply is known: calls of functions, and JSON in whose place
        a rule may put words."""
        if self.tools is not None and not self.tools.by_contract:
            return True
        return self.structured and bool(info.rules) and info.contract is None


def read_ask(body: bytes, info: Info, limits: Limits) -> Ask:
    """Check a request body. Raises UsageError naming the field at fault."""
    try:
        given = json.loads(body, parse_constant=no_constant)
    except (ValueError, RecursionError):
        raise UsageError("the request body is not valid JSON", next="send an OpenAI chat-completions object") from None
    if not isinstance(given, dict):
        raise UsageError("the request body is not an object", next="send an OpenAI chat-completions object")
    check_values({name: value for name, value in given.items() if name != "seed"}, "the body")
    _typed(given, "model", str)
    _refuse_other_kinds(given)
    form = given.get("response_format")
    structured = schema_of(form) is not None
    tools = read_tools(given, info, most=limits.tools)
    options = _options(given, limits)
    if tools is not None and tools.response_format is not None:
        if structured:
            raise UsageError("'tools' and 'response_format' cannot be kept at once", next="send one of them")
        options["response_format"] = tools.response_format
    elif structured:
        options["response_format"] = form
    return Ask(
        messages=_with_instruction(_messages(given.get("messages"), limits.messages), tools),
        facts=_facts(given, info),
        options=options,
        choices=_count(given, "n", limits.choices) or 1,
        stream=_typed(given, "stream", bool) or False,
        usage=_wants_usage(given),
        structured=structured,
        tools=tools,
    )


def _refuse_other_kinds(given: Mapping[str, Any]) -> None:
    """What would ask for something else than words, or for calls in a way that is no more."""
    if _typed(given, "functions", list) or given.get("function_call") not in (None, "none", "auto"):
        raise UsageError("'functions' and 'function_call' are not supported", next="send 'tools' and 'tool_choice'")
    if any(kind != "text" for kind in _typed(given, "modalities", list) or ()) or given.get("audio") is not None:
        raise UsageError("'modalities' other than text, and 'audio', are not supported", next="leave them out")
    if given.get("web_search_options") is not None:
        raise UsageError("'web_search_options' is not supported: nothing is looked up", next="leave it out")


# ---- messages ----


def _messages(value: Any, most: int) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not 0 < len(value) <= most:
        raise UsageError(f"'messages' must be a list of 1 to {most} messages")
    return [_message(i, message) for i, message in enumerate(value)]


def _message(index: int, message: Any) -> Mapping[str, Any]:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise UsageError(f"messages[{index}] needs a role: {', '.join(ROLES)}")
    role, content, calls = message["role"], message.get("content"), message.get("tool_calls")
    if isinstance(content, list):  # the "content parts" form
        content = "".join(_text_of(f"messages[{index}].content[{at}]", part, role) for at, part in enumerate(content))
    if role == "assistant" and content is None:
        content = message.get("refusal")  # as the server itself says it
    if role == "assistant" and calls:
        content = "\n".join([*([content] if isinstance(content, str) and content else []), *_calls(index, calls)])
    if not isinstance(content, str):
        raise UsageError(f"messages[{index}].content must be text")
    return {"role": "system" if role == "developer" else role, "content": content}


def _text_of(place: str, part: Any, role: str) -> str:
    """The words of a content part."""
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get(kind) if kind == "text" or (kind == "refusal" and role == "assistant") else None
    if not isinstance(text, str):
        raise UsageError(f"{place} is no part of text", next='send {"type": "text", "text": …}')
    return text


def _calls(index: int, calls: Any) -> list[str]:
    """Earlier calls of the assistant, as it wrote them."""
    written = []
    for number, call in enumerate(calls if isinstance(calls, list) else [None]):
        function = call.get("function") if isinstance(call, dict) else None
        name, arguments = (function.get("name"), function.get("arguments")) if isinstance(function, dict) else (0, 0)
        if not isinstance(name, str) or not isinstance(arguments, str):
            raise UsageError(f"messages[{index}].tool_calls[{number}] is no call of a function")
        written.append(f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {arguments or "{}"}}}')
    return written


def _with_instruction(messages: list[Mapping[str, Any]], tools: ToolUse | None) -> list[Mapping[str, Any]]:
    """The messages, and at the end of the system message what there is to be called."""
    if tools is None or not tools.instruction:
        return messages
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": tools.instruction}, *messages]
    head = {**messages[0], "content": f"{messages[0]['content']}\n\n{tools.instruction}"}
    return [head, *messages[1:]]


# ---- facts ----


def _facts(given: Mapping[str, Any], info: Info) -> Mapping[str, Any]:
    """``facts``, or ``metadata`` where they are missing or null. OpenAI's clients send metadata as texts: declared
    facts of another type are read from them."""
    facts, metadata = _typed(given, "facts", dict), _typed(given, "metadata", dict)
    if facts is not None:
        return cast(Mapping[str, Any], facts)
    return {key: from_text(value, info.facts.get(key, "text")) for key, value in (metadata or {}).items()}


# ---- options ----


def _typed(given: Mapping[str, Any], name: str, *kinds: type) -> Any:
    value = given.get(name)
    if value is None or (isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))):
        return value
    raise UsageError(f"{name!r} has the wrong type", next=f"send {' or '.join(_KINDS[kind] for kind in kinds)}")


def _count(given: Mapping[str, Any], name: str, most: int | None) -> int | None:
    value: int | None = _typed(given, name, int)
    if value is not None and (value < 1 or (most is not None and value > most)):
        shown = value if abs(value) < 10**12 else "huge"
        raise UsageError(
            f"{name!r} is {shown}", next=f"ask for at least 1{'' if most is None else f' and at most {most}'}"
        )
    return value


def _options(given: Mapping[str, Any], limits: Limits) -> Options:
    if _typed(given, "logit_bias", dict):
        raise UsageError("'logit_bias' is not supported", next="leave 'logit_bias' out")
    options: dict[str, Any] = {name: _typed(given, name, *kinds) for name, kinds in _SAMPLING.items()}
    if options["top_k"] == -1:  # another spelling of "all"
        options["top_k"] = None
    options |= {
        "max_tokens": _most(given, limits.max_tokens),
        "stop": _stop(given.get("stop")),
        "timeout": _timeout(given, limits.timeout),
        "logprobs": _logprobs(given),
    }
    return cast(Options, {name: value for name, value in options.items() if value is not None})


def _most(given: Mapping[str, Any], limit: int | None) -> int | None:
    """Tokens at most, under its present or its older name; without either at most the server's limit."""
    for name in ("max_completion_tokens", "max_tokens"):
        if (value := _count(given, name, limit)) is not None:
            return value
    return None if limit is None else min(limit, Settings().max_tokens)


def _timeout(given: Mapping[str, Any], most: float) -> float:
    value = _typed(given, "timeout", int, float)
    if value is None:
        return most
    if not value > 0:
        raise UsageError(f"'timeout' is {value}", next="give the seconds that the reply may take")
    return float(min(value, most))


def _logprobs(given: Mapping[str, Any]) -> int | None:
    """How many alternatives are wanted for each token, None where no log probabilities are."""
    wanted, others = _typed(given, "logprobs", bool), _typed(given, "top_logprobs", int)
    if others is not None and not wanted:
        raise UsageError("'top_logprobs' is given without 'logprobs'", next="send logprobs: true")
    if others is not None and not 0 <= others <= MOST_LOGPROBS:
        raise UsageError(f"'top_logprobs' is not within 0..{MOST_LOGPROBS}", next=f"ask for 0 to {MOST_LOGPROBS}")
    return (others or 0) if wanted else None


def _stop(value: Any) -> list[str] | None:
    stops = [value] if isinstance(value, str) else value
    if stops is None or (
        isinstance(stops, list) and len(stops) <= STOPS_CAP and all(isinstance(s, str) for s in stops)
    ):
        return stops
    raise UsageError(f"'stop' must be a text or up to {STOPS_CAP} texts")


def _wants_usage(given: Mapping[str, Any]) -> bool:
    return bool(_typed(_typed(given, "stream_options", dict) or {}, "include_usage", bool))
