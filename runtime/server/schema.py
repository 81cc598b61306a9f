"""``response_format`` schemas as grammars, within bounds: the converter and llama.cpp's grammars know none.

Both spell repetitions out: a string of at most 100,000 characters overflows the stack of llama.cpp's parser and ends
the process; a thousand optional parts in a row take it minutes for a token. The bounds were measured with
llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import UsageError
from ..values import check_values

DEPTH_CAP, SIZE_CAP = 32, 1 << 15
"""Nesting, and characters as JSON."""
COUNT_CAP = 1000
"""``minLength``, ``maxItems`` and the like."""
PATTERN_CAP = 256
"""Parts of a ``pattern`` once its repetitions are spelled out."""
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
_NEXT = "simplify the JSON schema"


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """The GBNF grammar of a JSON schema; UsageError when the schema cannot be expressed or is out of bounds."""
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    check_values(schema, "the JSON schema", depth=DEPTH_CAP)
    text = json.dumps(schema)
    if len(text) > SIZE_CAP:
        raise UsageError(f"the JSON schema has more than {SIZE_CAP} characters", next=_NEXT)
    for part in _parts(schema):
        _check_part(part)
    try:
        grammar: str = json_schema_to_gbnf(text)
    except Exception as error:  # the converter raises whatever it stumbles on
        raise UsageError(f"the JSON schema cannot be turned into a grammar ({error})", next=_NEXT) from None
    return grammar


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Every object in a schema, the schema included."""
    if isinstance(schema, Mapping):
        yield schema
    inner = schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list) else ()
    for child in inner:
        yield from _parts(child)


def _check_part(part: Mapping[str, Any]) -> None:
    for name in _COUNTS:
        count = part.get(name, 0)
        if isinstance(count, int | float) and not 0 <= count <= COUNT_CAP:
            raise UsageError(f"{name} of the JSON schema is {count}", next=f"use 0 to {COUNT_CAP}, or leave it out")
    pattern = part.get("pattern")
    if isinstance(pattern, str) and spelled_out(pattern) > PATTERN_CAP:
        raise UsageError(
            f"the pattern {pattern[:60]!r} of the JSON schema has more than {PATTERN_CAP} parts with its repetitions",
            next=_NEXT,
        )


_TOKEN = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\{(\d*),?(\d*)\}|.", re.DOTALL)


def spelled_out(pattern: str) -> int:
    """How many characters and classes a regular expression has once ``{m,n}`` is written out."""
    totals, last = [0], 0
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        if text == "(":
            totals.append(0)
            last = 0
        elif text == ")" and len(totals) > 1:
            last = totals.pop()
            totals[-1] += last
        elif text[0] == "{" and len(text) > 1:
            times = max(int(number[:9] or 1) for number in (token[1] or "", token[2] or ""))
            totals[-1] += last * (times - 1)
            last *= times
        elif text not in "?*+|^$":
            last = 1
            totals[-1] += 1
    return sum(totals)
