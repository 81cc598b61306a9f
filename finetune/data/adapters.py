"""Adapters: a function each from a row of some shape to a canonical one. A new shape is one function and its rows in
``ADAPTERS`` and ``WANTED``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Row = dict[str, Any]
Adapter = Callable[[Mapping[str, Any]], Row]
ROLES = ("system", "user", "assistant", "tool")


def check_messages(messages: Any) -> None:
    """Raise ValueError unless ``messages`` is a conversation."""
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages must be a list that is not empty")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise ValueError(f"messages[{place}] needs a role: one of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise ValueError(f"messages[{place}] needs a content that is a text and not empty")


def _strings(row: Mapping[str, Any], *names: str) -> list[str]:
    for name in names:
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise ValueError(f"needs {name!r}, a text that is not empty")
    return [row[name] for name in names]


def _pair(row: Mapping[str, Any], asked: str, answered: str) -> Row:
    user, assistant = _strings(row, asked, answered)
    system = (
        [{"role": "system", "content": row["system"]}] if isinstance(row.get("system"), str) and row["system"] else []
    )
    return {"messages": [*system, {"role": "user", "content": user}, {"role": "assistant", "content": assistant}]}


def messages(row: Mapping[str, Any]) -> Row:
    """``{"messages": [{"role", "content"}, ...]}``"""
    check_messages(row.get("messages"))
    return {"messages": [{"role": m["role"], "content": m["content"]} for m in row["messages"]]}


def text(row: Mapping[str, Any]) -> Row:
    """``{"text"}``"""
    return {"text": _strings(row, "text")[0]}


def prompt_completion(row: Mapping[str, Any]) -> Row:
    """``{"prompt", "completion"}``"""
    return _pair(row, "prompt", "completion")


def question_answer(row: Mapping[str, Any]) -> Row:
    """``{"question", "answer"}``"""
    return _pair(row, "question", "answer")


def intent(row: Mapping[str, Any]) -> Row:
    """``{"text", "category"}``: the answer is the name of the intent."""
    return _pair(row, "text", "category")


_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant): ?")


def hh(row: Mapping[str, Any]) -> Row:
    """``{"chosen"}``: a dialogue as one text with ``Human:`` and ``Assistant:`` at the start of paragraphs."""
    chosen = dialogue(_strings(row, "chosen")[0])
    if not isinstance(row.get("rejected"), str):
        return {"messages": chosen}
    return {"messages": chosen, "chosen": chosen[-1]["content"], "rejected": dialogue(row["rejected"])[-1]["content"]}


def dialogue(string: str) -> list[dict[str, str]]:
    """The turns of such a text; turns without words are left out."""
    pieces = _SPEAKER.split(string)
    if len(pieces) < 3:
        raise ValueError("holds no turn: expected 'Human: ...' and 'Assistant: ...'")
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(pieces[1::2], pieces[2::2], strict=True)
    return [{"role": roles[who], "content": said.strip()} for who, said in turns if said.strip()]


ADAPTERS: dict[str, Adapter] = {
    "hh": hh,
    "intent": intent,
    "messages": messages,
    "prompt_completion": prompt_completion,
    "question_answer": question_answer,
    "text": text,
}


WANTED = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "question_answer": ("question", "answer"),
    "hh": ("chosen",),
    "intent": ("text", "category"),
    "text": ("text",),
}


def guess(row: Mapping[str, Any]) -> str:
    """The adapter whose columns the row has."""
    for adapter, columns in WANTED.items():
        if all(column in row for column in columns):
            return adapter
    raise ValueError(
        f"no adapter fits the columns {', '.join(map(str, row))}; name one under adapter: and map columns:"
    )
