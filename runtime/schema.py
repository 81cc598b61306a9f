"""JSON schemas from outside: what cannot be kept to the letter is refused, by its name and place.

The grammar compiler passes over keywords that it does not know; here every keyword is either one that it enforces, an
annotation, or an error. Sizes are bounded before anything is compiled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .errors import UsageError
from .values import check_values

DEPTH_CAP, SIZE_CAP = 32, 1 << 15
"""Nesting, and characters as JSON."""
COUNT_CAP = 100_000
"""``minLength``, ``maxItems`` and the like."""
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
ONE = ("additionalItems", "additionalProperties", "items")
"""Keywords with a schema under them; with a list of schemas; with schemas by name."""
LISTED = ("allOf", "anyOf", "oneOf", "prefixItems")
NAMED = ("$defs", "definitions", "patternProperties", "properties")
WITH_SCHEMAS = frozenset((*ONE, *LISTED, *NAMED))
_PLAIN = ("$ref", "const", "enum", "format", "pattern", "required", "type")
ENFORCED = frozenset((*_COUNTS, *_NUMBERS, *_PLAIN)) | WITH_SCHEMAS
ANNOTATIONS = frozenset(
    ("$comment", "$id", "$schema", "default", "deprecated", "description", "discriminator", "example", "examples")
) | {"readOnly", "title", "writeOnly"}
_NEXT = "leave it out, or simplify the schema (docs/runtime.md lists what is kept)"


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of a JSON schema (draft 2020-12), for ``chat(grammar=…)``.

    UsageError names the keyword and its place where the schema is out of bounds or says what cannot be enforced.
    """
    from .engine.grammar import of_schema  # with numpy, which the process that keeps the connections does without

    if not isinstance(schema, Mapping):
        raise UsageError("the JSON schema is no object", next="give an object such as {'type': 'object'}")
    check_values(schema, "the JSON schema", depth=DEPTH_CAP)
    if len(json.dumps(schema)) > SIZE_CAP:
        raise UsageError(f"the JSON schema has more than {SIZE_CAP} characters", next=_NEXT)
    for place, part in _parts(schema, "the JSON schema"):
        _check(place, part)
    return of_schema(schema)


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
        if name in _NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 2**53):
            raise UsageError(f"{name} of {place} is {value!r:.60}", next="use a number between -2^53 and 2^53")
        if name == "multipleOf" and not value > 0:
            raise UsageError(f"multipleOf of {place} is {value!r:.60}", next="it is above 0")
        if name in ("$ref", "format", "pattern") and not isinstance(value, str):
            raise UsageError(f"{name} of {place} is not a text", next=_NEXT)
        if name in ("required", "enum") and not isinstance(value, list):
            raise UsageError(f"{name} of {place} is not a list", next=_NEXT)
    _check_interval(place, part)


def _check_interval(place: str, part: Mapping[str, Any]) -> None:
    """llguidance 1.9.1 lets the bound itself through where an exclusive bound is whole and the other is not 1 away."""
    low, high = (part.get(f"exclusive{side}", part.get(side.lower())) for side in ("Minimum", "Maximum"))
    exclusive = [part[name] for name in ("exclusiveMinimum", "exclusiveMaximum") if name in part]
    if low is None or high is None or part.get("type") == "integer":
        return
    if abs(high - low) < 1 and any(float(bound).is_integer() for bound in exclusive):
        raise UsageError(f"{place} leaves less than 1 beside an exclusive bound", next="use minimum and maximum there")
