"""``response_format``: which grammar a reply is bound to, and what a bundle's contract leaves of the choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .values import check_values

if TYPE_CHECKING:
    from .info import Info

_PARTS = {"title", "description", "default", "examples", "$schema", "$id", "$defs", "definitions", "deprecated"}
"""Keywords that forbid nothing."""
_CAP = 32
"""References and branches followed inside one another."""


def grammar_of(form: Any, info: Info) -> str | None:
    """The GBNF grammar of a ``response_format``; None where nothing has to be forced.

    Raises UsageError for a form that is none, a backend without grammars, a schema that cannot be expressed, and a
    schema that replies of the bundle's contract may break.
    """
    schema = schema_of(form)
    if schema is None:
        return None
    if info.contract is not None:  # enforcement keeps every reply within the contract
        check_values(schema, "the JSON schema", depth=_CAP)
        if (why := _first_breach(info.contract, schema)) is not None:
            raise UsageError(
                f"the contract of {info.name!r} does not allow this response_format: {why}",
                next="leave response_format out, or ask for a schema that every reply of the contract fits",
            )
        return None
    if not info.grammars:
        raise UsageError(f"{info.backend} cannot constrain replies", next="leave 'response_format' out")
    from .schema import schema_grammar

    return schema_grammar(schema)


def schema_of(form: Any) -> Mapping[str, Any] | None:
    """The JSON schema that a ``response_format`` asks for; None for text."""
    kind = form.get("type") if isinstance(form, Mapping) else None
    if form is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise UsageError("'response_format' must be text, json_object or json_schema")
    described = form.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if not isinstance(schema, Mapping):
        raise UsageError("'response_format.json_schema.schema' must be an object")
    return schema


def _first_breach(contract: Mapping[str, Any], schema: Mapping[str, Any]) -> str | None:
    try:
        return next(_breaks(contract, schema, schema, "the reply", 0), None)
    except (AttributeError, KeyError, TypeError):  # whatever stands where a list, a number or an object should
        return "it is not a JSON schema"


def _breaks(made: Mapping[str, Any], schema: Any, root: Mapping[str, Any], place: str, depth: int) -> Iterator[str]:
    """Why values of the contract's schema ``made`` may not fit ``schema``; nothing when all of them do."""
    schema = _resolved(schema, root)
    if schema is True:
        return
    if depth > _CAP or not isinstance(schema, Mapping):
        yield f"{place} may be nothing that the schema allows"
        return
    if "anyOf" in schema and all(any(_breaks(made, s, root, place, depth + 1)) for s in schema["anyOf"]):
        yield f"{place} fits none of anyOf"
    for part in schema.get("allOf", ()):
        yield from _breaks(made, part, root, place, depth + 1)
    known = _PARTS | {"anyOf", "allOf", "type", "const", "enum"}
    yield from _wrong_type(made, schema, place)
    yield from _wrong_value(made, schema, place)
    match made["type"]:
        case "object":
            known |= {"properties", "required", "additionalProperties"}
            yield from _wrong_parts(made, schema, root, place, depth)
        case "array":
            known |= {"items", "minItems", "maxItems"}
            yield from _out_of_bounds(made, schema, place, "minItems", "maxItems")
            if "items" in schema:
                yield from _breaks(made["items"], schema["items"], root, f"an item of {place}", depth + 1)
        case "string":
            known |= {"minLength", "maxLength"}
            if "enum" in made:
                made = {"minLength": min(map(len, made["enum"])), "maxLength": max(map(len, made["enum"]))}
            yield from _out_of_bounds(made, schema, place, "minLength", "maxLength")
        case "integer" | "number":
            known |= {"minimum", "maximum"}
            yield from _out_of_bounds(made, schema, place, "minimum", "maximum")
    yield from (f"{place} has {name!r}, which the contract does not promise" for name in schema if name not in known)


def _resolved(schema: Any, root: Mapping[str, Any]) -> Any:
    for _ in range(_CAP):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            return schema
        found: Any = root
        for step in str(schema["$ref"]).removeprefix("#").strip("/").split("/"):
            found = found.get(step) if isinstance(found, Mapping) and step else found
        schema = found if str(schema["$ref"]).startswith("#") else None
    return None


def _wrong_type(made: Mapping[str, Any], schema: Mapping[str, Any], place: str) -> Iterator[str]:
    if "type" not in schema:
        return
    kinds = [schema["type"]] if isinstance(schema["type"], str) else list(schema["type"])
    fits = {made["type"], "number"} if made["type"] == "integer" else {made["type"]}
    if not fits & set(kinds):
        yield f"{place} is of type {made['type']}, not {' or '.join(map(str, kinds))}"


def _wrong_value(made: Mapping[str, Any], schema: Mapping[str, Any], place: str) -> Iterator[str]:
    wanted = [schema["const"]] if "const" in schema else schema.get("enum")
    if wanted is None:
        return
    if not isinstance(wanted, list):
        raise TypeError("enum is no list")
    possible = made.get("enum")
    if possible is None:
        yield f"{place} is not limited to a list of values"
    elif extra := [value for value in possible if value not in wanted]:
        yield f"{place} may also be {', '.join(map(repr, extra))}"


def _wrong_parts(
    made: Mapping[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], place: str, depth: int
) -> Iterator[str]:
    own, wanted, required = made.get("properties", {}), schema.get("properties", {}), schema.get("required", [])
    if not isinstance(wanted, Mapping) or not isinstance(required, list):
        raise TypeError("properties are no object, or required is no list")
    for name in required:
        if name not in own:
            yield f"{place} has no {name!r}; it has {', '.join(own)}"
    for name, part in own.items():
        if name in wanted:
            yield from _breaks(part, wanted[name], root, name, depth + 1)
        elif (rest := schema.get("additionalProperties", True)) is not True:
            if rest is False:
                yield f"{place} always has {name!r}, which the schema does not know"
            else:
                yield from _breaks(part, rest, root, name, depth + 1)


def _out_of_bounds(
    made: Mapping[str, Any], schema: Mapping[str, Any], place: str, least: str, most: str
) -> Iterator[str]:
    low, high = made.get(least, 0 if least.startswith("min") and least != "minimum" else None), made.get(most)
    if least in schema and (low is None or low < schema[least]):
        yield f"{place} may be below the schema's {least}"
    if most in schema and (high is None or high > schema[most]):
        yield f"{place} may be above the schema's {most}"
