"""Patterns of JSON schemas, for the compiler of grammars.

Which characters ``\\w``, ``\\d`` and ``\\s`` mean is another matter in ECMA-262 (ASCII, and the byte order mark is a
space), in Python's validators (Unicode) and in the compiler. A reply has to satisfy whoever checks it, so each is
taken to match only what all of them let it match. The compiler also reads set operations (``&&``, ``~~``, ``--``) and
classes in classes, which are plain characters elsewhere.
"""

from __future__ import annotations

import re

from .errors import UsageError

_SPACES = r"\t\n\x0B\x0C\r \x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
_ALL_SPACES, _WORDS = r"\s\x1C-\x1F\x{FEFF}\s", r"\p{L}_\p{N}"  # a class at each end: no range begins there
_NARROW = {"W": f"[^{_WORDS}]", "D": r"\P{Nd}", "s": f"[{_SPACES}]", "S": f"[^{_ALL_SPACES}]"}
_WIDE = {"w": _WORDS, "d": r"\p{Nd}", "s": _ALL_SPACES, "S": f"[^{_SPACES}]"}
_PIECE = re.compile(r"\\.|.", re.DOTALL)


def narrowed(pattern: str) -> str:
    """The pattern for the compiler; UsageError for ``--`` in a class, which no two of them read alike."""
    made: list[str] = []
    opened: str | None = None  # how the class that is being read begins; None outside of classes
    for piece in _PIECE.findall(pattern):
        if piece[0] == "\\":
            made.append((_WIDE if opened == "[^" else _NARROW).get(piece[1:], piece))
        elif opened is None:
            made.append(piece)
            opened = piece if piece == "[" else None
        elif piece == "^" and made[-1] == "[":
            made.append(piece)
            opened = "[^"
        elif piece == "]" and "".join(made[-len(opened) :]) != opened:
            made.append(piece)
            opened = None
        elif piece == made[-1] == "-":
            raise UsageError(f"the pattern {pattern!r:.80} has -- in a class", next="write \\- for the sign")
        else:
            made.append(f"\\{piece}" if piece in "&~[]" else piece)
    return "".join(made)
