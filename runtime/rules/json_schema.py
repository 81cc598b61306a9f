"""The part of JSON Schema that describes replies; a keyword outside it is an error when the rules are loaded."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from .text import compile_regex

_TYPES: dict[str, tuple[type, ...]] = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}
_SIZES: dict[str, type] = {
    "maxItems": list,
    "maxLength": str,
    "maxProperties": dict,
    "minItems": list,
    "minLength": str,
    "minProperties": dict,
}
_BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "exclusiveMaximum": operator.lt,
    "exclusiveMinimum": operator.gt,
    "maximum": operator.le,
    "minimum": operator.ge,
}
_REMARKS = frozenset({"$comment", "$id", "$schema", "default", "description", "examples", "title"})
"""What says nothing of a value."""
_KNOWN = (
    frozenset((*_SIZES, *_BOUNDS))
    | _REMARKS
    | {"additionalProperties", "const", "enum", "items", "multipleOf", "pattern", "properties", "required", "type"}
    | {"uniqueItems"}
)


def check_schema(schema: Any, where: str = "") -> Any:
    """Return ``schema`` if it is one that ``schema_problem`` understands; otherwise raise ValueError."""
    place = where or "the schema"
    if not isinstance(schema, Mapping):
        raise ValueError(f"{place} is not a mapping")
    unknown = sorted(set(schema) - _KNOWN)
    if unknown:
        raise ValueError(f"{place} uses {unknown[0]!r}, which is not supported (known: {', '.join(sorted(_KNOWN))})")
    for name in _listed(schema.get("type", [])):
        if not isinstance(name, str) or name not in _TYPES:
            raise ValueError(f"{place} has the unknown type {name!r}")
    for key in (*_SIZES, *_BOUNDS, "multipleOf"):
        if key in schema and (not isinstance(schema[key], int | float) or isinstance(schema[key], bool)):
            raise ValueError(f"{key} of {place} is not a number")
    if schema.get("multipleOf", 1) <= 0:
        raise ValueError(f"multipleOf of {place} is not above 0")
    if not isinstance(schema.get("enum", [0]), list) or not schema.get("enum", [0]):
        raise ValueError(f"enum of {place} is not a list with something in it")
    if not isinstance(schema.get("uniqueItems", True), bool):
        raise ValueError(f"uniqueItems of {place} is neither true nor false")
    if "pattern" in schema:
        _pattern(schema)
    _check_children(schema, where)
    return schema


def _pattern(schema: Mapping[str, Any]) -> Any:
    """Unlike a rule's own patterns, those of a schema know capitals from small letters."""
    return compile_regex(f"(?-i){schema['pattern']}")


def _check_children(schema: Mapping[str, Any], where: str) -> None:
    if not isinstance(schema.get("properties", {}), Mapping) or not isinstance(schema.get("required", []), list):
        raise ValueError(f"properties of {where or 'the schema'} is a mapping, required a list")
    for name, child in schema.get("properties", {}).items():
        check_schema(child, f"{where}.{name}".lstrip("."))
    if "items" in schema:
        check_schema(schema["items"], f"{where}[]")
    if not isinstance(schema.get("additionalProperties", True), bool):
        check_schema(schema["additionalProperties"], f"{where}.*")


def schema_problem(value: Any, schema: Mapping[str, Any], where: str = "") -> str | None:
    """The first thing in ``value`` that the schema does not allow, or None."""
    place = where or "the reply"
    if "type" in schema and not any(_is(value, name) for name in _listed(schema["type"])):
        return f"{place} is not {' or '.join(_listed(schema['type']))}"
    if "const" in schema and not same(value, schema["const"]):
        return f"{place} is not {schema['const']!r}"
    if "enum" in schema and not any(same(value, allowed) for allowed in schema["enum"]):
        return f"{place} is not one of {schema['enum']!r}"
    return _size_problem(value, schema, place) or _child_problem(value, schema, where)


def same(a: Any, b: Any) -> bool:
    """Equal as JSON values: 1 is 1.0, but true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def _size_problem(value: Any, schema: Mapping[str, Any], place: str) -> str | None:
    size = len(value) if isinstance(value, str | list | dict) else None
    for key, kind in _SIZES.items():
        if key not in schema or size is None or not isinstance(value, kind):
            continue
        if size > schema[key] if key.startswith("max") else size < schema[key]:
            return f"{place} has size {size} ({key} {schema[key]})"
    if _is(value, "number"):
        if not all(holds(value, schema[key]) for key, holds in _BOUNDS.items() if key in schema):
            return f"{place} is {value}, outside its bounds"
        if "multipleOf" in schema and not _is_multiple(value, schema["multipleOf"]):
            return f"{place} is {value}, no multiple of {schema['multipleOf']}"
    if schema.get("uniqueItems") is True and isinstance(value, list):
        twice = [one for at, one in enumerate(value) if any(same(one, other) for other in value[:at])]
        if twice:
            return f"{place} has {twice[0]!r} twice"
    if "pattern" in schema and isinstance(value, str) and not _pattern(schema).search(value):
        return f"{place} does not match {schema['pattern']!r}"
    return None


def _is_multiple(value: float, step: float) -> bool:
    """In decimal, for in binary 0.07 is no multiple of 0.01."""
    try:
        return not Decimal(str(value)) % Decimal(str(step))
    except InvalidOperation:  # infinite, or too far apart
        return False


def _child_problem(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    if isinstance(value, list) and "items" in schema:
        found = (schema_problem(item, schema["items"], f"{where}[{index}]") for index, item in enumerate(value))
        return next((problem for problem in found if problem), None)
    if not isinstance(value, dict):
        return None
    lacking = [name for name in schema.get("required", []) if name not in value]
    if lacking:
        return f"{where or 'the reply'} has no {lacking[0]!r}"
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name, item in value.items():
        if name not in known and others is False:
            return f"{where or 'the reply'} has the unknown key {name!r}"
        child = known.get(name, others if isinstance(others, Mapping) else {})
        problem = schema_problem(item, child, f"{where}.{name}".lstrip("."))
        if problem:
            return problem
    return None


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
