"""JSON schemas from outside: what cannot be kept to the letter is refused, by its name and place.

The grammar compiler passes over keywords that it does not know; here every keyword is either one that it enforces, an
annotation, or an error. Sizes are bounded before anything is compiled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .errors import UsageError
from .patterns import narrowed
from .values import check_values

DEPTH_CAP, SIZE_CAP = 32, 1 << 15
"""Nesting, and characters as JSON."""
COUNT_CAP = 100_000
"""``minLength``, ``maxItems`` and the like."""
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
LARGEST = 2**53
"""Beyond it not every whole number is a float, and the compiler reads numbers as floats."""
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
ONE = ("additionalItems", "additionalProperties", "items")
"""Keywords with a schema under them; with a list of schemas; with schemas by name."""
LISTED = ("allOf", "anyOf", "oneOf", "prefixItems")
NAMED = ("$defs", "definitions", "patternProperties", "properties")
WITH_SCHEMAS = frozenset((*ONE, *LISTED, *NAMED))
_PLAIN = ("$ref", "const", "enum", "format", "pattern", "required", "type", "uniqueItems")
ENFORCED = frozenset((*_COUNTS, *_NUMBERS, *_PLAIN)) | WITH_SCHEMAS
ANNOTATIONS = frozenset(
    ("$comment", "$id", "$schema", "default", "deprecated", "description", "discriminator", "example", "examples")
) | {"contentEncoding", "contentMediaType", "readOnly", "title", "writeOnly"}
_DAY = r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
_LEAP = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29"
_DATE = rf"(?:(?:\d{{3}}[1-9]|\d\d[1-9]\d|\d[1-9]\d\d|[1-9]\d{{3}})-{_DAY}|{_LEAP})"
_CLOSER = {
    "date": {"pattern": f"^{_DATE}$"},
    "date-time": {"pattern": f"^{_DATE}.\\d\\d:\\d\\d:[0-5]"},
    "hostname": {"maxLength": 253},
    "time": {"pattern": r"^\d\d:\d\d:[0-5]"},
}
"""What the library's formats let through: 29 February in any year, the year 0, leap seconds at any time (RFC 3339), and
names longer than a host's (RFC 1123)."""
_BLAMED = 500
"""Parts that are looked at for the one at fault."""
_NEXT = "leave it out, or simplify the schema (docs/runtime.md lists what is kept)"


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of a JSON schema (draft 2020-12), for ``chat(grammar=…)``.

    UsageError names the keyword and its place where the schema is out of bounds or says what cannot be enforced.
    """
    from .engine.grammar import complaint, of_schema  # with numpy, which the process with the connections does without

    if not isinstance(schema, Mapping):
        raise UsageError("the JSON schema is no object", next="give an object such as {'type': 'object'}")
    check_values(schema, "the JSON schema", depth=DEPTH_CAP)
    if len(json.dumps(schema)) > SIZE_CAP:
        raise UsageError(f"the JSON schema has more than {SIZE_CAP} characters", next=_NEXT)
    for place, part in _parts(schema, "the JSON schema"):
        _check(place, part)
    grammar = of_schema(remade(schema, _kept))
    if (why := complaint(grammar)) is not None:
        raise UsageError(_blamed(schema, why), next=_NEXT)
    return grammar


def remade(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A copy of the schema in which ``change`` was made to it and to every schema inside it."""
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    for name in WITH_SCHEMAS & made.keys():
        below = made[name]
        if isinstance(below, list):
            made[name] = [remade(one, change) for one in below]
        elif name in NAMED and isinstance(below, Mapping):
            made[name] = {key: remade(one, change) for key, one in below.items()}
        else:
            made[name] = remade(below, change)
    return change(made)


def _kept(part: dict[str, Any]) -> dict[str, Any]:
    """One schema as the compiler has to be told it: always in the present draft, with patterns and formats that it
    takes no further than validators do."""
    made = {name: value for name, value in part.items() if name not in ("$schema", "uniqueItems")}
    if "pattern" in made:
        made["pattern"] = narrowed(made["pattern"])
    if isinstance(names := made.get("patternProperties"), Mapping):
        made["patternProperties"] = {narrowed(name): below for name, below in names.items()}
    if (closer := _CLOSER.get(made.get("format", ""))) is not None:
        made["allOf"] = [*made.get("allOf", ()), closer]
    return made


def _blamed(schema: Mapping[str, Any], why: str) -> str:
    """What the compiler said of the whole, by the smallest part that it says it of, too."""
    from .engine.grammar import complaint, of_schema

    for place, part in list(_parts(schema, "the JSON schema"))[:-_BLAMED:-1]:
        alone = isinstance(part, Mapping) and '"$ref"' not in json.dumps(part)
        if alone and (own := complaint(of_schema(remade(part, _kept)))) is not None:
            return f"{place} cannot be kept ({', '.join(sorted(ENFORCED & part.keys()))}): {own}"
    return f"the JSON schema cannot be kept{' ($ref)' if '$ref' in json.dumps(schema) else ''}: {why}"


def _parts(schema: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every schema inside a schema, itself first."""
    yield place, schema
    if not isinstance(schema, Mapping):
        return
    for name in (*ONE, *LISTED, *NAMED):
        below = schema.get(name)
        if name in NAMED and isinstance(below, Mapping):
            inner = [(f"{place}.{name}.{key}", child) for key, child in below.items()]
        elif name in NAMED or (name in LISTED and not isinstance(below, list)):
            inner = [] if below is None else [(f"{place}.{name}", None)]
        elif isinstance(below, list) and name != "additionalProperties":
            inner = [(f"{place}.{name}[{number}]", child) for number, child in enumerate(below)]
        else:
            inner = [] if below is None else [(f"{place}.{name}", below)]
        for where, child in inner:
            yield from _parts(child, where)


def _check(place: str, part: Any) -> None:
    if isinstance(part, bool):
        return
    if not isinstance(part, Mapping):
        raise UsageError(f"{place} is not a schema but {part!r:.60}", next="give an object, true or false")
    for name, value in part.items():
        if name not in ENFORCED and name not in ANNOTATIONS:
            raise UsageError(f"{place} uses {name!r:.60}, which cannot be enforced", next=_NEXT)
        if name in _COUNTS and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= COUNT_CAP):
            raise UsageError(f"{name} of {place} is {value!r:.60}", next=f"use a whole number from 0 to {COUNT_CAP}")
        if name in _NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST):
            raise UsageError(f"{name} of {place} is {value!r:.60}", next="use a number between -2^53 and 2^53")
        if name in ("const", "enum") and (huge := _beyond(value)) is not None:
            raise UsageError(f"{name} of {place} has {huge!r:.60}", next="use numbers between -2^53 and 2^53")
        if name == "multipleOf" and not value > 0:
            raise UsageError(f"multipleOf of {place} is {value!r:.60}", next="it is above 0")
        if name in ("$ref", "format", "pattern") and not isinstance(value, str):
            raise UsageError(f"{name} of {place} is not a text", next=_NEXT)
        if name in ("required", "enum") and not isinstance(value, list):
            raise UsageError(f"{name} of {place} is not a list", next=_NEXT)
        if name == "uniqueItems" and value is not False:
            raise UsageError(f"{place} uses 'uniqueItems', which cannot be enforced", next=_NEXT)
    if "additionalItems" in part and not (isinstance(part.get("items"), list) and "prefixItems" not in part):
        what = f"{place} uses 'additionalItems', which means nothing without a list of 'items'"
        raise UsageError(what, next="write prefixItems and items")
    if isinstance(part.get("items"), list) and "prefixItems" in part:
        raise UsageError(f"{place} has a list of 'items' and 'prefixItems'", next="write prefixItems and items")
    names = part.get("patternProperties")
    for pattern in (part.get("pattern", ""), *(names if isinstance(names, Mapping) else ())):
        _check_pattern(place, pattern)
    _check_interval(place, part)


def _check_pattern(place: str, pattern: str) -> None:
    from .engine.grammar import complaint, of_schema

    if pattern and (why := complaint(of_schema({"type": "string", "pattern": narrowed(pattern)}))) is not None:
        raise UsageError(f"pattern of {place} cannot be kept: {why}", next=_NEXT)


def _beyond(value: Any) -> Any:
    """The first number inside a value that the compiler would round; None where there is none."""
    if isinstance(value, Mapping | list):
        below = value.values() if isinstance(value, Mapping) else value
        return next((found for one in below if (found := _beyond(one)) is not None), None)
    return value if isinstance(value, int | float) and abs(value) > LARGEST else None


def _check_interval(place: str, part: Mapping[str, Any]) -> None:
    """llguidance 1.9.1 lets the bound itself through where an exclusive bound is whole and the other is not 1 away."""
    low, high = (part.get(f"exclusive{side}", part.get(side.lower())) for side in ("Minimum", "Maximum"))
    exclusive = [part[name] for name in ("exclusiveMinimum", "exclusiveMaximum") if name in part]
    if low is None or high is None or part.get("type") == "integer":
        return
    if abs(high - low) < 1 and any(float(bound).is_integer() for bound in exclusive):
        raise UsageError(f"{place} leaves less than 1 beside an exclusive bound", next="use minimum and maximum there")
