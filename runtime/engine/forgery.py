"""Role markers in message contents: found in the template, taken out of what people write.

A template separates turns by markers. Some are control tokens, which a tokenizer flags; many are plain added tokens, or
no tokens at all but ordinary text (``[INST]``, ``<|user|>``), which would read the same in a message as between two.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import UsageError
from .template import STILL, inspected, literals, render
from .text import half_character

_BRACKETED = re.compile(r"<{1,2}[^<>\s]{1,64}>{1,2}|\[/?[A-Z][A-Z0-9_]*\]|\[\|[^\[\]\s]{1,64}\|\]")
"""What a marker in ordinary text looks like."""
NESTED = 16
"""Markers inside markers are taken out so many times; each time is a pass over the text."""
_SAID = "Zq1qZ"
_TALKS = (
    ("user",),
    ("system", "user"),
    ("user", "assistant"),
    ("system", "user", "assistant", "user"),
)
_NEXT = '{"role": "user", "content": "…"}'


class Forgery:
    """What must not stand in the messages of one model's conversations."""

    def __init__(
        self,
        template: str,
        special: Mapping[str, str],
        *,
        controls: Sequence[str],
        added: Sequence[str],
        folds: bool = False,
    ) -> None:
        """``controls``: texts of control tokens; ``added``: of the other tokens that are matched before a text is
        split. Of these, those that the template writes are markers, unless they could be words or spaces. ``folds``:
        the tokenizer normalizes by NFKC, so that full-width brackets are brackets."""
        self._folds = folds
        written = _written(template, special)
        shown = "\0".join([written, *literals(template)])
        tokens = {token for token in added if _is_marker(token) and token in shown}
        everywhere = {*controls, *tokens, *_BRACKETED.findall(written)} - {""}
        self._others = _matcher(everywhere)
        self._assistant = _matcher(everywhere - (inspected(template) - {*controls}))

    def clean(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The message without markers, whatever field they stand in.

        A model's own earlier turns keep the ones that the template itself looks for in them (``</think>``). Raises
        UsageError for a message without text, for half a character, and for values that are no JSON.
        """
        if not isinstance(message, Mapping):
            raise UsageError("a message is no object", next=_NEXT)
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise UsageError("a message needs a text role and a text content", next=_NEXT)
        marks = self._assistant if role == "assistant" else self._others
        if not re.fullmatch(r"[\w.-]{1,64}", role):
            raise UsageError(f"{role[:64]!a} is no role", next=_NEXT)
        return {self._clean(str(key), marks): self._clean(value, marks) for key, value in message.items()}

    def _clean(self, value: Any, marks: re.Pattern[str]) -> Any:
        if isinstance(value, str):
            return self._without(value, marks)
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {self._clean(str(key), marks): self._clean(item, marks) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(item, marks) for item in value]
        raise UsageError(f"a message holds a {type(value).__name__}", next="give texts, numbers, lists and objects")

    def _without(self, text: str, marks: re.Pattern[str]) -> str:
        """Taken out again and again: what is left around a marker may be one. Nobody nests them deep by accident."""
        if (at := half_character(text)) is not None:
            raise UsageError(f"a message has half a character at position {at}", next="send whole Unicode characters")
        if self._folds and not text.isascii() and marks.search(folded := unicodedata.normalize("NFKC", text)):
            text = folded
        for _ in range(NESTED):
            text, found = marks.subn("", text)
            if not found:
                return text
        raise UsageError("a message hides role markers inside role markers", next="send what people wrote")


def _matcher(texts: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _written(template: str, special: Mapping[str, str]) -> str:
    """All that the template writes around the contents of plain conversations. Roles that it refuses are left out."""
    found = []
    for roles in _TALKS:
        talk = [{"role": role, "content": _SAID} for role in roles]
        for start in (True, False):
            try:
                found.append(render(template, talk, special=special, add_generation_prompt=start, now=STILL))
            except UsageError:
                continue
    return "\0".join(found).replace(_SAID, "\0")


def _is_marker(token: str) -> bool:
    """Not a word, not spaces, not a single sign: those stand in harmless texts, too."""
    return len(token) > 1 and not token.isspace() and any(not c.isalnum() and not c.isspace() for c in token)
