"""Whether two rows ask the same, however they are written."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Any

Row = dict[str, Any]
JOINERS = "\u200c\u200d\ufe0e\ufe0f\u00ad"
"""Signs without width that change how others look."""


def fingerprint(row: Row) -> bytes:
    """Digest of what the user said, with the facts and sources that decide the reply.

    Case, spaces and punctuation make no difference, nor does a system message; signs that make words (vowel signs,
    emoji, ``C++``) do.
    """
    said = [words(m["content"]) for m in row["messages"] if m["role"] == "user"]
    return digest([said, row.get("facts") or {}, row.get("sources")])


def words(text: str) -> str:
    """Letters, marks, digits and symbols of a text, folded; all else is space."""
    kept = (
        sign if unicodedata.category(sign)[0] in "LMNS" or sign in "#@&%" else "" if sign in JOINERS else " "
        for sign in unicodedata.normalize("NFKC", text).casefold()
    )
    return " ".join("".join(kept).split())


def digest(value: Any) -> bytes:
    """16 bytes that stand for a JSON value."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).digest()
