"""What is asked: conversations and texts of a JSONL file, and a few conversations that try every template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError, DataError
from compress.rows import numbered_rows
from export.parity.words import Messages

TALKS: tuple[Messages, ...] = tuple(
    tuple({"role": role, "content": content} for role, content in talk)
    for talk in (
        [("user", "Hello")],
        [("system", "You help customers."), ("user", "Where is order 48213?")],
        [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
        [
            ("system", " padded \n"),
            ("user", "\n two  spaces "),
            ("assistant", " é 你好 🙂\n"),
            ("user", "{{ x }} <b>'\""),
        ],
        [("user", "Thanks."), ("assistant", "You are welcome.")],
    )
)
"""Conversations that every template is tried on, besides the prompts."""


def asked(talk: Messages) -> Messages:
    """A conversation without the replies at its end."""
    kept = list(talk)
    while kept and kept[-1]["role"] == "assistant":
        kept.pop()
    return kept or talk


def plain(talk: Messages) -> str:
    """What is said in a conversation, for models without a chat template."""
    return "\n".join(str(message["content"]) for message in talk)


def read_talks(path: Path, count: int) -> tuple[list[Messages], list[str]]:
    """Conversations and plain texts of the first ``count`` usable rows of a JSONL file."""
    talks: list[Messages] = []
    texts: list[str] = []
    for number, row in numbered_rows(path, _SHAPE):
        if len(talks) + len(texts) >= count:
            break
        messages, text = _said(path, number, row)
        if messages:
            talks.append(messages)
        elif text:
            texts.append(text)
    if not talks and not texts:
        raise ArtifactError(f"{path} holds no prompts", next='give rows of {"messages": […]} or {"text": "…"}')
    return talks, texts


_SHAPE = 'a row is {"messages"} or {"text"}'


def _said(path: Path, number: int, row: Mapping[str, Any]) -> tuple[Messages, str]:
    try:
        messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in row.get("messages") or []]
        text = str(row.get("text") or "")
    except (KeyError, TypeError) as error:
        raise DataError(path, number, f"not a prompt ({error})", next=_SHAPE) from None
    return messages, text
