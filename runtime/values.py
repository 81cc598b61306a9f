"""Values from outside: texts and numbers that nothing later can do anything with are refused by their place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from .engine.text import half_character
from .errors import UsageError

DEPTH_CAP = 64
"""Objects and lists inside one another."""
MOST_THREADS = 512
"""As many as llama.cpp takes (GGML_MAX_N_THREADS)."""


def check_loading(how: Mapping[str, Any]) -> None:
    """Raise UsageError naming the argument of `load` that is of the wrong type or out of range."""
    bounds = {"threads": MOST_THREADS, "slots": None, "context": None, "queue": None}
    for name, most in bounds.items():
        value = how.get(name)
        if value is None and name in ("threads", "context"):
            continue
        if type(value) is not int or value < 1 or (most is not None and value > most):
            told = "at least 1" if most is None else f"1 to {most}"
            raise UsageError(f"{name} is {value!r:.80}", next=f"give a whole number, {told}")
    if (rules := how.get("rules")) is not None and isinstance(rules, dict | list | bytes | int):
        raise UsageError(f"rules are a {type(rules).__name__}", next="give the path of a rule file")


def from_text(value: Any, declared: Sequence[Any] | str) -> Any:
    """A fact's value as declared, where it came as text: from a command line, or a field that holds texts alone."""
    if not isinstance(value, str) or declared == "text" or (not isinstance(declared, str) and value in declared):
        return value
    try:
        return json.loads(value, parse_constant=no_constant)
    except (ValueError, RecursionError):
        return value


def no_constant(name: str) -> NoReturn:
    """For `json.loads`: NaN and infinities are no JSON."""
    raise ValueError(f"{name} is no JSON")


def check_values(value: Any, name: str, *, depth: int = DEPTH_CAP) -> None:
    """Raise UsageError that names the first text with half a character, number without a value (NaN, infinity, an
    integer beyond every float) or nesting deeper than ``depth`` inside ``value``, which is called ``name``."""
    level = [(name, value)]
    for _ in range(depth + 1):
        for place, item in level:
            if (problem := _problem(item)) is not None:
                raise UsageError(
                    f"{place:.200} {problem}", next="send whole characters, finite numbers and what JSON has"
                )
        level = [child for place, item in level for child in _children(place, item)]
        if not level:
            return
    raise UsageError(f"{name} is nested more than {depth} deep", next="send it flatter")


def check_turn(messages: Any, facts: Any) -> None:
    """Raise UsageError unless these are a list of messages and facts by name, all of JSON's values."""
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise UsageError(f"messages are a {type(messages).__name__}", next="give a list of role and content")
    if not all(isinstance(message, Mapping) for message in messages):
        raise UsageError("a message is no object", next='give {"role": "user", "content": "…"}')
    if not isinstance(facts, Mapping):
        raise UsageError(f"facts are a {type(facts).__name__}", next='give them by name, such as {"tier": "gold"}')
    check_values({"messages": messages, "facts": facts}, "the turn")


def _problem(item: Any) -> str | None:
    if isinstance(item, str) and half_character(item) is not None:
        return "has half a character (a lone surrogate)"
    if isinstance(item, float) and not math.isfinite(item):
        return f"is {item}, which is no number"
    if isinstance(item, int) and item.bit_length() > 1000:
        return "is a number beyond all bounds"
    if item is not None and not isinstance(item, str | int | float | Mapping | list | tuple):
        return f"is a {type(item).__name__}, which is no JSON"
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
