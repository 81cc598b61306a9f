"""From tokens to text while a reply grows: whole UTF-8 characters only, and nothing past a stop string."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Sequence


class TextStream:
    """Bytes in, text out. Text that could be the beginning of a stop string is held back."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(s for s in stops if s)
        self._held = ""
        self.stopped = False

    def push(self, data: bytes, *, final: bool = False) -> str:
        """The text that ``data`` makes certain. After a stop string `stopped` is True and no more comes."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(data, final)
        if not self._stops:
            text, self._held = self._held, ""
            return text
        return self._release(final)

    def _release(self, final: bool) -> str:
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            keep = min(found)
        else:
            keep = len(self._held) - (0 if final else self._possible_beginning())
        text, self._held = self._held[:keep], self._held[keep:]
        return text

    def _possible_beginning(self) -> int:
        """Length of the longest tail of the held text with which some stop string begins."""
        longest = min(max(map(len, self._stops)) - 1, len(self._held))
        for size in range(longest, 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0


_HALVES = re.compile("[\ud800-\udfff]")


def half_character(text: str) -> int | None:
    """Position of a lone surrogate (half an emoji, which no encoding knows), or None."""
    found = None if text.isascii() else _HALVES.search(text)
    return found.start() if found else None


_HALF_ESCAPE = re.compile(r"(?:\\u[dD][89abAB][0-9a-fA-F]{2})?\\(?:u[0-9a-fA-F]{0,3})?$|\\u[dD][89abAB][0-9a-fA-F]{2}$")
"""The beginning of an escape, or of the two that spell one character, at the end of a text."""


def begun(inside: str) -> str | None:
    """What a JSON string says of which this is the inside, up to where it was cut off; None where it has ended."""
    try:
        return str(json.loads('"' + _HALF_ESCAPE.sub("", inside) + '"'))
    except ValueError:
        return None


def whole(text: str) -> str:
    """``text`` with a replacement character for each lone surrogate."""
    return _HALVES.sub("\ufffd", text)


def join(tokens: Sequence[int], piece: Callable[[int], bytes]) -> str:
    """The text of a finished reply."""
    return b"".join(map(piece, tokens)).decode("utf-8", "replace")
