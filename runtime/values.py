"""Values from outside: texts and numbers that nothing later can do anything with are refused by their place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from .engine.text import half_character
from .errors import UsageError

DEPTH_CAP = 64
"""Objects and lists inside one another."""


def check_values(value: Any, name: str, *, depth: int = DEPTH_CAP) -> None:
    """Raise UsageError that names the first text with half a character, number without a value (NaN, infinity, an
    integer beyond every float) or nesting deeper than ``depth`` inside ``value``, which is called ``name``."""
    level = [(name, value)]
    for _ in range(depth + 1):
        for place, item in level:
            if (problem := _problem(item)) is not None:
                raise UsageError(f"{place:.200} {problem}", next="send whole characters and finite numbers")
        level = [child for place, item in level for child in _children(place, item)]
        if not level:
            return
    raise UsageError(f"{name} is nested more than {depth} deep", next="send it flatter")


def _problem(item: Any) -> str | None:
    if isinstance(item, str) and half_character(item) is not None:
        return "has half a character (a lone surrogate)"
    if isinstance(item, float) and not math.isfinite(item):
        return f"is {item}, which is no number"
    if isinstance(item, int) and item.bit_length() > 1000:
        return "is a number beyond all bounds"
    return None


def _children(place: str, item: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(item, Mapping):
        for key, child in item.items():
            if isinstance(key, str) and half_character(key) is not None:
                raise UsageError(f"a name in {place:.200} has half a character", next="send whole characters")
            yield f"{place}.{key}", child
    elif isinstance(item, list | tuple):
        for number, child in enumerate(item):
            yield f"{place}[{number}]", child
