"""Streaming under rules: what of a growing reply may be sent already.

The invariant: what was sent is at every moment a reply that keeps every hard rule in force. So text leaves by whole
sentences, each after the reply up to there was checked as if it ended there; what a later sentence would break is not
sent with it, and a string that is forbidden never leaves as a whole, however it comes in pieces. A rule that asks for
something holds the reply back until it is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .engine.text import begun
from .rules import RuleBook, Turn

_END = re.compile(r"[.!?…:;。！？][\"'”’)\]]*(?=\s)|\n")
"""Where a sentence may end: nothing but white space follows, so no word is cut."""
_REPLY = re.compile(r'"reply"\s*:\s*"')


class Holding:
    """One reply on its way out. ``push`` and ``end`` take all that was generated so far and give what may go."""

    def __init__(self, book: RuleBook, turn: Turn) -> None:
        self._book, self._turn = book, turn
        contract = book.contract
        self._streams = contract is None or contract.fields[-1].name == "reply"
        self._tested = 0
        self.sent = ""
        """The raw text that has gone out."""
        self.words = 0
        """How many characters of the customer's words are in it."""
        self.changed: dict[str, Any] = {}
        """Contract fields that code set."""

    def push(self, raw: str) -> str:
        """The next piece that may go out, or an empty text."""
        parts = self._parts(raw) if self._streams else None
        if parts is None:
            return ""
        fields, words = parts
        ready = self.words
        for end in _ends(words, self._tested):
            self._tested = end
            if self._keeps(fields, words[:end]):
                ready = end
        return self._release(fields, words[:ready]) if ready > self.words else ""

    def end(self, raw: str, *, truncated: bool) -> tuple[str, str | None]:
        """At the end of a generation: the last piece, and why the rest cannot be sent (``contract`` or a rule), or
        None where all of it was. A text that the token limit cut is never sent to its end."""
        parsed = self._book.parse(raw)
        if truncated or parsed.error:
            return "", "contract"
        fields, words = self._decided(parsed.fields), parsed.text
        text = self._whole(fields, words)
        broken = [v.rule for v in self._book.check(self._turn, text) if v.severity == "hard" and not v.passed]
        if broken or not text.startswith(self.sent):
            return "", broken[0] if broken else "contract"
        piece, self.sent, self.words = text[len(self.sent) :], text, len(words)
        return piece, None

    def close(self) -> str:
        """What makes the text sent so far a whole reply."""
        piece = "" if self._book.contract is None else '"}'
        self.sent += piece
        return piece

    def _parts(self, raw: str) -> tuple[Mapping[str, Any] | None, str] | None:
        """Fields before the customer's words (None without a contract) and the words so far; None where they have not
        begun, or the reply is no such object."""
        if self._book.contract is None:
            return None, raw
        at = _REPLY.search(raw)
        if at is None:
            return None
        try:
            head = json.loads(raw[: at.start()].rstrip().rstrip(",") + "}")
        except ValueError:
            return None  # this is no such object: `end` will tell
        words = begun(raw[at.end() :])  # None: they have ended
        return (self._decided(head), words) if isinstance(head, dict) and words is not None else None

    def _decided(self, fields: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The fields with what the rules decide set."""
        if fields is None or self._book.contract is None:
            return None
        decided = self._book.decided(self._turn)
        self.changed = {name: value for name, value in decided.items() if name in fields and fields[name] != value}
        return {**fields, **{name: value for name, value in decided.items() if name in fields}}

    def _whole(self, fields: Mapping[str, Any] | None, words: str) -> str:
        contract = self._book.contract
        return words if contract is None else contract.dump({**(fields or {}), "reply": words})

    def _keeps(self, fields: Mapping[str, Any] | None, words: str) -> bool:
        """Whether the reply could end here."""
        text = self._whole(fields, words)
        if self._book.parse(text).error:
            return False
        return all(v.passed for v in self._book.check(self._turn, text) if v.severity == "hard")

    def _release(self, fields: Mapping[str, Any] | None, words: str) -> str:
        whole = self._whole(fields, words)
        text = whole if self._book.contract is None else whole.removesuffix('"}')
        if not text.startswith(self.sent):  # a field before the words came out otherwise: what was sent stays
            return ""
        piece, self.sent, self.words = text[len(self.sent) :], text, len(words)
        return piece


def _ends(words: str, after: int) -> Iterator[int]:
    """Where sentences end behind the first ``after`` characters."""
    for match in _END.finditer(words, after):
        end = match.end() if match[0] != "\n" else match.start()
        if end > after:
            yield end
