"""The part of JSON Schema that describes replies; a keyword outside it is an error when the rules are loaded."""

from __future__ import annotations

from collections.abc import Mapping
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
_KNOWN = frozenset(_SIZES) | {
    "additionalProperties", "const", "description", "enum", "items", "maximum", "minimum", "pattern",
    "properties", "required", "title", "type",
}  # fmt: skip


def check_schema(schema: Any, where: str = "") -> Any:
    """Return ``schema`` if it is one that ``schema_problem`` understands; otherwise raise ValueError."""
    place = where or "the schema"
    if not isinstance(schema, Mapping):
        raise ValueError(f"{place} is not a mapping")
    unknown = sorted(set(schema) - _KNOWN)
    if unknown:
        raise ValueError(f"{place} uses {unknown[0]!r}, which is not supported (known: {', '.join(sorted(_KNOWN))})")
    for name in _listed(schema.get("type", [])):
        if name not in _TYPES:
            raise ValueError(f"{place} has the unknown type {name!r}")
    for key in (*_SIZES, "minimum", "maximum"):
        if key in schema and (not isinstance(schema[key], int | float) or isinstance(schema[key], bool)):
            raise ValueError(f"{key} of {place} is not a number")
    if "pattern" in schema:
        compile_regex(str(schema["pattern"]))
    _check_children(schema, where)
    return schema


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
    if "const" in schema and not _same(value, schema["const"]):
        return f"{place} is not {schema['const']!r}"
    if "enum" in schema and not any(_same(value, allowed) for allowed in schema["enum"]):
        return f"{place} is not one of {schema['enum']!r}"
    return _size_problem(value, schema, place) or _child_problem(value, schema, where)


def _same(a: Any, b: Any) -> bool:
    """Equal as JSON values: 1 is 1.0, but true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(a == b)


def _size_problem(value: Any, schema: Mapping[str, Any], place: str) -> str | None:
    size = len(value) if isinstance(value, str | list | dict) else None
    for key, kind in _SIZES.items():
        if key not in schema or size is None or not isinstance(value, kind):
            continue
        if size > schema[key] if key.startswith("max") else size < schema[key]:
            return f"{place} has size {size} ({key} {schema[key]})"
    if _is(value, "number") and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return f"{place} is {value}, outside its bounds"
    if "pattern" in schema and isinstance(value, str) and not compile_regex(str(schema["pattern"])).search(value):
        return f"{place} does not match {schema['pattern']!r}"
    return None


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
