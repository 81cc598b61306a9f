"""Whether two rows ask the same, however they are written."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from typing import Any

Row = dict[str, Any]
JOINERS = "\u200b\u200c\u200d\ufe0e\ufe0f\ufeff\u00ad"
"""Signs without width that change how others look."""


def fingerprint(row: Row) -> bytes:
    """Digest of what the user said, with the facts and sources that decide the reply.

    Case, spaces and punctuation make no difference, nor does a system message; signs that make words (vowel signs,
    emoji, ``C++``) do.
    """
    return _of([words(m["content"]) for m in row["messages"] if m["role"] == "user"], row)


def answered(row: Row) -> set[bytes]:
    """The questions that a training row answers: its own, and those of earlier turns whose replies may be learnt."""
    said: list[str] = []
    found = set()
    for message in row["messages"]:
        if message["role"] == "user":
            said.append(words(message["content"]))
        elif message["role"] == "assistant" and message.get("weight", 1):
            found.add(_of(said, row))
    return found | {_of(said, row)}


def _of(said: list[str], row: Row) -> bytes:
    facts = {name: _whole(value) for name, value in (row.get("facts") or {}).items()}
    return digest([said, facts, row.get("sources") or None])


def _whole(value: Any) -> Any:
    """1.0 as 1: a table with gaps holds whole numbers as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_MINUS = re.compile(r"(?<!\w)[-\u2013](?=\d)|(?<=\d )[-\u2013](?= \d)")
_DOTLESS = str.maketrans({"\u0307": None, "\u0131": "i"})
"""Case does not tell the letters i of Turkish apart."""
_POINTS = re.compile("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0652\u0670]")
"""Vowel points that Hebrew and Arabic may leave out, and the Arabic sign that draws a word out."""


def words(text: str) -> str:
    """Letters, marks, digits, minus signs and symbols of a text, folded; all else is space, unless nothing is left."""
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_DOTLESS)
    folded = _POINTS.sub("", folded).replace("!=", "\u2260")
    kept = "".join(map(_kept, _MINUS.sub("\u2212", folded))).split()
    return " ".join(kept) or folded.strip()


def _kept(sign: str) -> str:
    category = unicodedata.category(sign)
    if category == "Nd":
        return str(unicodedata.decimal(sign))
    return sign if category[0] in "LMNS" or sign in "#@&%" else "" if sign in JOINERS else " "


def digest(value: Any) -> bytes:
    """16 bytes that stand for a JSON value."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).digest()
