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
_WORDS, _INLINE = re.compile(r"(#{1,6} ?)?[A-Z][\w ]{1,30}:"), re.compile(r"\s([A-Z]{4,}:)$")
"""Markers that are words: a line of their own, or capitals within one."""
_NO_WORD = re.compile(r"<\|.*\|>|<{2}.*|\[.*")
"""Of these, what is no tag of a document: a marker also where only some conversations bring it."""
_SAID = "Zq1qZ"
_ROLES = ("tool", "developer", "function", "ipython", "observation", "context", "documents", "model")
"""Further roles that templates know; many write whatever role they are given."""
_TALKS = (
    ("user",),
    ("system", "user"),
    ("user", "assistant"),
    ("system", "user", "assistant", "user"),
    *((role,) for role in _ROLES),
    *(("user", "assistant", role) for role in _ROLES),
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
        the tokenizer takes characters for one another (see `folded`)."""
        written = _written(template, special)
        spelled = "\0".join(literals(template))
        shown = f"{written}\0{spelled}"
        tokens = {token for token in added if _is_marker(token) and token in shown}
        rare = {marker for marker in _BRACKETED.findall(spelled) if _NO_WORD.fullmatch(marker)}
        everywhere = {*controls, *tokens, *rare, *_BRACKETED.findall(written)} - {""}
        words = _words(written, _matcher(everywhere))
        self._others = _Marks(everywhere, words, folds=folds)
        self._assistant = _Marks(everywhere - (inspected(template) - {*controls}), words, folds=folds)

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

    def _clean(self, value: Any, marks: _Marks) -> Any:
        if isinstance(value, str):
            if (at := half_character(value)) is not None:
                raise UsageError(
                    f"a message has half a character at position {at}", next="send whole Unicode characters"
                )
            return marks.taken_out(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {self._clean(str(key), marks): self._clean(item, marks) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(item, marks) for item in value]
        raise UsageError(f"a message holds a {type(value).__name__}", next="give texts, numbers, lists and objects")


class _Marks:
    """Markers, and texts without them."""

    def __init__(self, markers: Iterable[str], words: Iterable[str], *, folds: bool) -> None:
        """``words``: regular expressions of markers that are words."""
        self._plain = re.compile("|".join([_matcher(markers).pattern, *sorted(words)]), re.MULTILINE)
        self._folded = _matcher(map(folded, markers)) if folds else None

    def taken_out(self, text: str) -> str:
        """Taken out again and again: what is left around a marker may be one. Nobody nests them deep by accident."""
        for _ in range(NESTED):
            left = self._plain.sub("", text)
            if self._folded is not None and self._folded.search(folded(left)):
                left = _without_folded(left, self._folded)
            if left == text:
                return text
            text = left
        raise UsageError("a message hides role markers inside role markers", next="send what people wrote")


def folded(text: str) -> str:
    """``text`` as a tokenizer may see it that normalizes before it splits (NFKC, SentencePiece's tables, lower case,
    accents off): compatible forms are one, case is none, and what is not seen is not there."""
    shown = unicodedata.normalize("NFKD", text).casefold()
    return shown if shown.isascii() and shown.isprintable() else "".join(filter(_seen, shown))


def _seen(character: str) -> bool:
    """Neither a control or format character (zero width) nor an accent."""
    return character in "\t\n\r" or unicodedata.category(character) not in ("Cc", "Cf", "Mn")


def _without_folded(text: str, marks: re.Pattern[str]) -> str:
    """``text`` less the characters that a marker is made of."""
    pieces = [folded(character) for character in text]
    places = [place for place, piece in enumerate(pieces) for _ in piece]
    gone: set[int] = set()
    for found in marks.finditer("".join(pieces)):
        gone.update(range(places[found.start()], places[found.end() - 1] + 1))
    return "".join(character for place, character in enumerate(text) if place not in gone)


def _matcher(texts: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted({*texts} - {""}, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _words(written: str, markers: re.Pattern[str]) -> set[str]:
    """Of what is written in front of contents (and of replies), roles as words: ``### Response:``, ``USER:``. Each
    counts where the template has it: at the beginning of a line, or behind a space."""
    found = set()
    for before in markers.sub("\n", written).split("\0"):
        line = before.rstrip().rpartition("\n")[2]
        if _WORDS.fullmatch(line.lstrip()):
            found.add(rf"^[ \t]*{re.escape(line.lstrip())}")
        elif inline := _INLINE.search(line):
            found.add(rf"(?<!\S){re.escape(inline[1])}")
    return found


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
