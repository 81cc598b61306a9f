"""Large patterns of our own, looked for fast.

Python's engine tries every alternative at every character. But each match holds one of a few words, which a look into
the text finds a hundred times as fast: only where one of them stands, the pattern is tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

Words = frozenset[str]
MOST = 120
"""Words of one part; more take as long as the pattern."""


class Sieve:
    """Searches as ``re.compile(pattern)`` does, for patterns without flags and numbered groups."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._exact = re.compile(pattern)
        self._parts: dict[str, list[re.Pattern[str]]] = {}
        for part in alternatives(pattern):
            for word in held_by(part):
                self._parts.setdefault(word, []).append(re.compile(part))

    def search(self, text: str) -> re.Match[str] | None:
        """The first match."""
        held = [word for word in self._parts if word in text]
        return self._exact.search(text) if any(p.search(text) for word in held for p in self._parts[word]) else None

    def match(self, text: str) -> re.Match[str] | None:
        """A match at the beginning."""
        held = [word for word in self._parts if word in text]
        return self._exact.match(text) if any(p.match(text) for word in held for p in self._parts[word]) else None


def alternatives(pattern: str) -> list[str]:
    """What stands between the bars of a pattern, or of the one group that it is."""
    bars, depth, at, first_closed = [], 0, 0, None
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 1
        elif character == "[":
            at = pattern.index("]", at + 2)
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            first_closed = at if depth == 0 and first_closed is None else first_closed
        elif character == "|" and depth == 0:
            bars.append(at)
        at += 1
    if pattern.startswith("(?:") and first_closed == len(pattern) - 1:
        return alternatives(pattern[3:-1])
    return [pattern[begin + 1 : end] for begin, end in pairwise([-1, *bars, len(pattern)])]


def held_by(pattern: str) -> Words:
    """Words of which every match of ``pattern`` holds one, as it is written: few and long ones where there is a choice.
    The empty word, which every text holds, where there are none."""
    return _best(_held(_parser.parse(pattern))) or frozenset({""})


def _held(items: Iterable[Any]) -> Iterator[Words]:
    """For each part of a sequence that must match, the words of which it holds one."""
    run = ""
    for kind, value in items:
        if kind is ops.LITERAL:
            run += chr(value)
            continue
        if kind is ops.AT or kind in (ops.ASSERT, ops.ASSERT_NOT):
            continue  # takes no characters: what stands around it is one run
        if run:
            yield frozenset({run})
        run = ""
        if kind is ops.SUBPATTERN or (kind is ops.MAX_REPEAT and value[0] > 0):
            yield from _held(value[-1])
        elif kind is ops.BRANCH and all(parts := [_best(_held(part)) for part in value[1]]):
            yield frozenset().union(*parts)
    if run:
        yield frozenset({run})


def _best(found: Iterable[Words]) -> Words:
    """Of several sets the one that the fewest texts hold a word of, roughly: long words, and not many."""
    usable = [words for words in found if len(words) <= MOST]
    return max(usable, key=lambda words: min(map(len, words)) - len(words) / 40, default=frozenset())
