"""Large patterns of our own, looked for fast.

Python's engine tries every alternative at every character. But each match holds one of a few words or pieces of words,
which a look into the text finds a hundred times as fast: only where one of them stands, the pattern is tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple


class Held(NamedTuple):
    """What stands in a match."""

    text: str
    whole: bool
    """It is a whole word there: neither letter, digit nor underscore stands beside it."""


Some = frozenset[Held]
_COMMON = frozenset(
    """
    a about an and any are as at be by can do for from have i if in is it me my of on one or our please re s so that the
    their there they this to us was we will with would you your
    """.split()  # noqa: SIM905
)
"""Words that tell nothing, since they stand in most texts."""
_WORD = re.compile(r"\w+")


class Sieve:
    """Searches as ``re.compile(pattern)`` does, for patterns without flags and numbered groups."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._exact = re.compile(pattern)
        self._words: dict[str, list[re.Pattern[str]]] = {}
        self._pieces: dict[str, list[re.Pattern[str]]] = {}
        for part in alternatives(pattern):
            compiled = re.compile(part)
            for held in held_by(part):
                (self._words if held.whole else self._pieces).setdefault(held.text, []).append(compiled)
        self._known = frozenset(self._words)

    def search(self, text: str) -> re.Match[str] | None:
        """The first match."""
        tried = self._tried(text)
        return self._exact.search(text) if tried and any(part.search(text) for part in tried) else None

    def match(self, text: str) -> re.Match[str] | None:
        """A match at the beginning."""
        tried = self._tried(text)
        return self._exact.match(text) if tried and any(part.match(text) for part in tried) else None

    def sub(self, put: str, text: str) -> str:
        """The text with ``put`` in place of every match."""
        return self._exact.sub(put, text) if self._tried(text) else text

    def _tried(self, text: str) -> list[re.Pattern[str]]:
        """The alternatives of which a word stands in the text."""
        words = _words_of(text)
        tried: list[re.Pattern[str]] = []
        if not self._known.isdisjoint(words):
            tried = [part for word in self._known & words for part in self._words[word]]
        for piece, parts in self._pieces.items():
            if piece in text:
                tried += parts
        return tried


@lru_cache(maxsize=16)
def _words_of(text: str) -> frozenset[str]:  # several sieves look at one sentence
    return frozenset(_WORD.findall(text))


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


def held_by(pattern: str) -> Some:
    """Words and pieces of which every match of ``pattern`` holds one, as it is written: rare and few ones where there
    is a choice. The empty piece, which every text holds, where there are none."""
    return _best(_held(list(_parser.parse(pattern)), False, False)) or frozenset({Held("", False)})


def _held(items: Sequence[Any], before: bool, behind: bool) -> Iterator[Some]:
    """For each part of a sequence that must match, what it holds one of. ``before`` and ``behind``: whether it stands
    at the beginning and at the end of a word."""
    begin = 0
    for place, (kind, value) in enumerate(items):
        if kind in _RUN:
            continue
        run, starts = items[begin:place], _parted(items[:begin], before, back=True)
        left, right = _parted(items[:place], before, back=True), _parted(items[place + 1 :], behind)
        yield from _in_run(run, starts, _parted(items[place:], behind))
        if kind is ops.SUBPATTERN:
            yield from _held(list(value[-1]), left, right)
        elif kind is ops.MAX_REPEAT and value[0] > 0:
            yield from _held(list(value[-1]), left and value[1] == 1, right and value[1] == 1)
        elif kind is ops.BRANCH:  # with the run in front of it, for Python parts n(?:o|ever) from no|never
            parts = [_best(_held([*run, *part], starts, right)) for part in value[1]]
            yield frozenset().union(*parts) if all(parts) else frozenset()
        begin = place + 1
    yield from _in_run(items[begin:], _parted(items[:begin], before, back=True), behind)


_RUN = (ops.LITERAL, ops.AT, ops.ASSERT, ops.ASSERT_NOT)
"""Characters, and what takes none: what stands around it is one run."""


def _in_run(items: Sequence[Any], starts: bool, ends: bool) -> Iterator[Some]:
    """A run of characters and the whole words in it."""
    run = "".join(chr(value) for kind, value in items if kind is ops.LITERAL)
    if not run:
        return
    places = [place for place, (kind, _) in enumerate(items) if kind is ops.LITERAL]
    starts, ends = _parted(items[: places[0]], starts, back=True), _parted(items[places[-1] + 1 :], ends)
    yield frozenset({Held(run, False)})
    for word in _WORD.finditer(run):
        if (word.start() > 0 or starts) and (word.end() < len(run) or ends):
            yield frozenset({Held(word[0], True)})


def _parted(items: Sequence[Any], otherwise: bool, back: bool = False) -> bool:
    """Whether no word goes on into a sequence, or, read ``back``, out of it; ``otherwise``: of what is beyond it."""
    if not items:
        return otherwise
    kind, value = items[-1 if back else 0]
    if kind is ops.AT:
        return value is not ops.AT_NON_BOUNDARY
    if kind is ops.LITERAL:
        return _WORD.match(chr(value)) is None
    if kind is ops.IN:
        return all(k is ops.LITERAL and not _WORD.match(chr(v)) for k, v in value)
    beyond = _parted(items[:-1] if back else items[1:], otherwise, back)
    if kind is ops.BRANCH:
        return all(_parted(list(part), beyond, back) for part in value[1])
    if kind in (ops.MAX_REPEAT, ops.MIN_REPEAT):
        return (value[0] > 0 or beyond) and _parted(list(value[-1]), False, back)
    return kind in (ops.ASSERT, ops.ASSERT_NOT) and beyond


def _best(found: Iterable[Some]) -> Some:
    """Of several sets the one that the fewest texts hold a part of, roughly: rare words, and few pieces."""
    return max((some for some in found if some), key=_worth, default=frozenset())


def _worth(some: Some) -> float:
    return min(map(_rarity, some)) - sum(not held.whole for held in some) / 10


def _rarity(held: Held) -> float:
    if held.text.strip() in _COMMON:
        return 0.5 * held.whole
    return 8 + len(held.text) / 10 if held.whole else min(len(held.text), 8)
