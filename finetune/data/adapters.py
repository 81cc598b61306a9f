"""Adapters: a function each from a row of some shape to a canonical one. A new shape is one function and its rows in
``ADAPTERS`` and ``WANTED``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compress.rows import kind
from runtime.rules.instructions import published_row

Row = dict[str, Any]
Adapter = Callable[[Mapping[str, Any]], Row]
ROLES = ("system", "user", "assistant", "tool")


class ColumnsError(ValueError):
    """Columns that no adapter reads: a matter of the whole file, not of a row."""

    next = "name the adapter under adapter: and its columns under columns: (a CSV file needs a line with their names)"


def check_messages(messages: Any) -> None:
    """Raise ValueError unless ``messages`` is a conversation."""
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages must be a list that is not empty")
    for place, message in enumerate(messages):
        _check_message(f"messages[{place}]", message)


def _check_message(place: str, message: Any) -> None:
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        given = f", not {message['role']!r}" if isinstance(message, Mapping) and message.get("role") else ""
        raise ValueError(f"{place} needs a role: one of {', '.join(ROLES)}{given}")
    if message.get("tool_calls") and message["role"] == "assistant":
        return
    if not isinstance(message.get("content"), str) or not message["content"].strip():
        raise ValueError(f"{place} needs a content that is a text and not empty")


def _strings(row: Mapping[str, Any], *names: str) -> list[str]:
    for name in names:
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise ValueError(f"needs {name!r}, a text that is not empty")
    return [row[name] for name in names]


def _turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def _system(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The column ``system`` as a message, where it says something."""
    return [_turn("system", row["system"])] if isinstance(row.get("system"), str) and row["system"] else []


def _pair(asked: str, answered: str) -> Adapter:
    """A question and its answer in two columns, and perhaps ``system``; or both as lists of messages (trl)."""

    def adapter(row: Mapping[str, Any]) -> Row:
        if isinstance(row.get(asked), list):
            return {"messages": [*_turns(row, asked, "user"), *_turns(row, answered, "assistant")]}
        user, assistant = _strings(row, asked, answered)
        return {"messages": [*_system(row), _turn("user", user), _turn("assistant", assistant)]}

    adapter.__doc__ = f"``{{{asked!r}, {answered!r}}}``"
    return adapter


def _turns(row: Mapping[str, Any], name: str, role: str) -> list[dict[str, Any]]:
    """A column as messages: a text, which is one of ``role``, or messages already."""
    value = row.get(name)
    if isinstance(value, str) and value.strip():
        return [_turn(role, value)]
    if not isinstance(value, list) or not value:
        raise ValueError(f"needs {name!r}, a text or a list of messages that is not empty")
    return [_message(f"{name}[{place}]", message) for place, message in enumerate(value)]


def messages(row: Mapping[str, Any]) -> Row:
    """``{"messages": [{"role", "content"}, ...]}``, also as OpenAI's fine-tuning files have them: contents in parts,
    ``weight: 0`` for a turn that is not learnt, ``tool_calls`` and ``tools``, the role ``developer``."""
    given = row.get("messages")
    if not isinstance(given, list) or not given:
        what = "an empty list" if given == [] else kind(given)
        raise ValueError(f"messages is {what}, not a list of {{role, content}}")
    said = [_message(f"messages[{place}]", message) for place, message in enumerate(given)]
    if said[-1]["role"] != "assistant" and "chosen" in row and "rejected" in row:
        return preference({**row, "prompt": given})
    return {"messages": said, "tools": _tools(row.get("tools"))}


def _tools(given: Any) -> Any:
    """The functions that a conversation may call, as chat templates take them."""
    for place, tool in enumerate(given if isinstance(given, list) else [given] if given else []):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueError(f"tools[{place}] needs {{type: function, function: {{name, description, parameters}}}}")
    return given or None


def _message(place: str, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ValueError(f"{place} needs a role: one of {', '.join(ROLES)}")
    if message.get("function_call"):
        raise ValueError(f"{place} has function_call, which tool_calls replaced: write it so")
    role = "system" if message.get("role") == "developer" else message.get("role")
    kept: dict[str, Any] = {"role": role, "content": _content(place, message.get("content"))}
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise ValueError(f"{place} has the weight {weight!r}, not 0 or 1")
    if weight == 0:
        kept["weight"] = 0
    if message.get("tool_calls"):
        kept["tool_calls"] = _calls(place, message["tool_calls"])
        kept["content"] = kept["content"] or ""
    for name in ("tool_call_id", "name"):
        if isinstance(message.get(name), str):
            kept[name] = message[name]
    _check_message(place, kept)
    return kept


def _content(place: str, content: Any) -> Any:
    """A text, or the texts of its parts one after another."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            what = part.get("type") if isinstance(part, Mapping) else part
            raise ValueError(f"{place} has a part of the type {what!r}; only text can be learnt here")
    return "".join(part["text"] for part in content)


def _calls(place: str, calls: Any) -> list[dict[str, Any]]:
    """Tool calls with their arguments as objects, which chat templates write themselves."""
    if not isinstance(calls, list):
        raise ValueError(f"{place}.tool_calls is not a list")
    kept = []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueError(f"{place}.tool_calls needs {{function: {{name, arguments}}}}")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                raise ValueError(f"{place}.tool_calls has arguments that are no JSON") from None
        if not isinstance(arguments, Mapping):
            raise ValueError(f"{place}.tool_calls has arguments that are no object")
        entry = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
        kept.append({**({"id": call["id"]} if isinstance(call.get("id"), str) else {}), **entry})
    return kept


SPEAKERS = {
    "human": "user", "user": "user", "customer": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "agent": "assistant", "system": "system",
    "ai": "assistant", "bard": "assistant", "bing": "assistant", "claude": "assistant", "tool": "tool",
    "function": "tool", "observation": "tool",
}  # fmt: skip
"""Name of a speaker in others' data -> role."""


def _role(name: Any, place: str) -> str:
    role = SPEAKERS.get(str(name).strip().lower())
    if role is None:
        raise ValueError(f"{place} is spoken by {name!r}, not one of {', '.join(SPEAKERS)}")
    return role


def sharegpt(row: Mapping[str, Any]) -> Row:
    """``{"conversations": [{"from", "value"}, ...]}`` (or ``role`` and ``content``), and perhaps ``system``."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise ValueError("conversations must be a list that is not empty")
    said = []
    for place, turn in enumerate(turns):
        turn = turn if isinstance(turn, Mapping) else {}
        value = turn.get("value", turn.get("content"))
        if not isinstance(value, str):
            raise ValueError(f"conversations[{place}] is not {{from, value}}")
        said.append(_turn(_role(turn.get("from", turn.get("role")), f"conversations[{place}]"), value))
    return {"messages": [*_system(row), *said]}


def alpaca(row: Mapping[str, Any]) -> Row:
    """``{"instruction", "input", "output"}``; ``input`` may be missing or empty; ``history``: [question, answer] of the
    turns before, as LLaMA-Factory has them."""
    instruction, output = _strings(row, "instruction", "output")
    given = row.get("input")
    if given is not None and not isinstance(given, str):
        raise ValueError("needs 'input', a text that may be empty")
    asked = f"{instruction}\n\n{given}" if given and given.strip() else instruction
    return {
        "messages": [*_system(row), *_history(row.get("history")), _turn("user", asked), _turn("assistant", output)]
    }


def _history(given: Any) -> list[dict[str, Any]]:
    pairs: list[Any] = given if isinstance(given, list) else [None] if given else []
    if not all(isinstance(p, list) and len(p) == 2 and all(isinstance(said, str) for said in p) for p in pairs):
        raise ValueError("history is not a list of [question, answer]")
    return [_turn(role, said) for pair in pairs for role, said in zip(("user", "assistant"), pair, strict=True)]


_TAG = re.compile(r"<\|(system|user|assistant)\|>")
_BEGIN = re.compile(r"\s*(?:<s>|<\|(?:begin_of_text|endoftext)\|>)?\s*")
_ENDS = re.compile(r"(?:\s*(?:<\|(?:end|endoftext|im_end|eot_id)\|>|</s>))+\s*\Z")


def tagged(row: Mapping[str, Any]) -> Row:
    """``{"text"}`` with turns behind ``<|system|>``, ``<|user|>`` and ``<|assistant|>``."""
    (string,) = _strings(row, "text")
    pieces = _TAG.split(_BEGIN.sub("", string, count=1))
    if len(pieces) < 3 or pieces[0].strip():
        raise ValueError("holds no turn: expected <|user|> … <|assistant|> …")
    turns = zip(pieces[1::2], pieces[2::2], strict=True)
    return {"messages": [_turn(role, _ENDS.sub("", said).strip()) for role, said in turns]}


def text(row: Mapping[str, Any]) -> Row:
    """``{"text"}``"""
    return {"text": _strings(row, "text")[0]}


def intent(row: Mapping[str, Any]) -> Row:
    """``{"text", "category"}``: the answer is the name of the intent."""
    return _pair("text", "category")(row)


_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant): ?")


def hh(row: Mapping[str, Any]) -> Row:
    """``{"chosen"}``: a dialogue as one text with ``Human:`` and ``Assistant:`` at the start of paragraphs."""
    chosen = dialogue(_strings(row, "chosen")[0])
    if row.get("rejected") is None:
        return {"messages": chosen, "chosen": None}
    return _judged(chosen, dialogue(_strings(row, "rejected")[0]))


def preference(row: Mapping[str, Any]) -> Row:
    """``{"prompt", "chosen", "rejected"}`` (trl): texts, or lists of messages, which may hold the prompt themselves."""
    sides = [_turns(row, name, "assistant") for name in ("chosen", "rejected")]
    if any(side[0]["role"] == "assistant" for side in sides):
        asked = _turns(row, "prompt", "user")
        sides = [[*asked, *side] for side in sides]
    return _judged(*sides)


def openai_preference(row: Mapping[str, Any]) -> Row:
    """``{"input": {"messages"}, "preferred_output", "non_preferred_output"}``: OpenAI's rows for preferences."""
    asked = row["input"] if isinstance(row.get("input"), Mapping) else {}
    sides = {"chosen": row.get("preferred_output"), "rejected": row.get("non_preferred_output")}
    return preference({**sides, "prompt": asked.get("messages")})


def _judged(good: list[dict[str, Any]], bad: list[dict[str, Any]]) -> Row:
    """The conversation with the reply that is wanted, and the other one beside it. Raises ValueError where the two do
    not answer the same."""
    for name, turns in (("chosen", good), ("rejected", bad)):
        if turns and turns[-1].get("tool_calls"):
            raise ValueError(f"{name} ends with tool calls; only texts are compared here")
        if not turns or turns[-1]["role"] != "assistant" or not turns[-1]["content"]:
            raise ValueError(f"{name} does not end with a reply of the assistant")
    if good[:-1] != bad[:-1]:
        raise ValueError("chosen and rejected differ before their last reply: they do not answer the same")
    return {"messages": good, "chosen": good[-1]["content"], "rejected": bad[-1]["content"]}


def dialogue(string: str) -> list[dict[str, Any]]:
    """The turns of such a text; turns without words are left out."""
    pieces = _SPEAKER.split(string)
    if len(pieces) < 3:
        raise ValueError("holds no turn: expected 'Human: ...' and 'Assistant: ...'")
    turns = zip(pieces[1::2], pieces[2::2], strict=True)
    return [_turn(SPEAKERS[who.lower()], said.strip()) for who, said in turns if said.strip()]


def sgd(row: Mapping[str, Any]) -> Row:
    """Schema-guided dialogue: ``{"turns": [{"speaker": "USER" or "SYSTEM", "utterance"}, ...]}``."""
    turns = row.get("turns")
    if not isinstance(turns, list) or not turns:
        raise ValueError("turns must be a list that is not empty")
    said = []
    for place, turn in enumerate(turns):
        roles = {"USER": "user", "SYSTEM": "assistant"}
        if (
            not isinstance(turn, Mapping)
            or turn.get("speaker") not in roles
            or not isinstance(turn.get("utterance"), str)
        ):
            raise ValueError(f"turns[{place}] is not {{speaker: USER or SYSTEM, utterance}}")
        said.append((roles[turn["speaker"]], turn["utterance"]))
    return {"id": row.get("dialogue_id"), "messages": joined(said)}


def abcd(row: Mapping[str, Any]) -> Row:
    """ABCD: ``{"original": [["agent" or "customer" or "action", text], ...]}``; actions are no one's words."""
    turns = row.get("original")
    if not isinstance(turns, list) or not all(
        isinstance(t, list) and len(t) == 2 and all(isinstance(part, str) for part in t) for t in turns
    ):
        raise ValueError("original must be a list of [speaker, text]")
    said = [(_role(who, f"original[{i}]"), what) for i, (who, what) in enumerate(turns) if who != "action"]
    return {"id": row.get("convo_id"), "messages": joined(said)}


def joined(said: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Turns of one speaker made one, without those in which nothing is said; what is said before the first question
    and after the last answer is left out."""
    turns: list[dict[str, Any]] = []
    for role, what in said:
        if not what.strip():
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f" {what}"
        elif turns or role == "user":
            turns.append(_turn(role, what))
    while turns and turns[-1]["role"] != "assistant":
        turns.pop()
    if not turns:
        raise ValueError("holds no question with an answer")
    return turns


def ifeval(row: Mapping[str, Any]) -> Row:
    """``{"key", "prompt", "instruction_id_list", "kwargs"}``: IFEval and IFBench, for evaluation."""
    prompt, asked = published_row(row)
    named = {"id": str(row["key"])} if "key" in row else {}
    return {**named, "messages": [_turn("user", prompt)], "expected": {"answer": asked, "match": "instructions"}}


ADAPTERS: dict[str, Adapter] = {
    "abcd": abcd,
    "alpaca": alpaca,
    "hh": hh,
    "ifeval": ifeval,
    "input_output": _pair("input", "output"),
    "intent": intent,
    "messages": messages,
    "openai_preference": openai_preference,
    "preference": preference,
    "prompt_completion": _pair("prompt", "completion"),
    "prompt_response": _pair("prompt", "response"),
    "question_answer": _pair("question", "answer"),
    "sgd": sgd,
    "sharegpt": sharegpt,
    "tagged": tagged,
    "text": text,
}


WANTED = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "prompt_response": ("prompt", "response"),
    "question_answer": ("question", "answer"),
    "alpaca": ("instruction", "output"),
    "input_output": ("input", "output"),
    "preference": ("chosen", "rejected"),
    "openai_preference": ("input", "preferred_output", "non_preferred_output"),
    "hh": ("chosen",),
    "ifeval": ("prompt", "instruction_id_list", "kwargs"),
    "intent": ("text", "category"),
    "sgd": ("turns",),
    "abcd": ("original",),
    "text": ("text",),
}
"""Adapter -> the columns it needs; ``tagged`` goes by what stands in ``text``."""


def guess(row: Mapping[str, Any]) -> str:
    """The adapter whose columns the row has."""
    for adapter, columns in WANTED.items():
        if all(column in row for column in columns):
            return _nearer(adapter, row)
    raise ColumnsError(f"no adapter fits the columns {', '.join(map(str, row))}")


def _nearer(adapter: str, row: Mapping[str, Any]) -> str:
    """What tells shapes with the same columns apart."""
    if adapter == "text" and isinstance(row["text"], str) and _TAG.match(_BEGIN.sub("", row["text"], count=1)):
        return "tagged"
    told = isinstance(row.get("chosen"), str) and "prompt" not in row
    return "hh" if adapter == "preference" and told else adapter
