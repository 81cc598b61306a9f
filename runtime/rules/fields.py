"""Contract fields in a rule file: their declaration, and clauses such as ``must: {action: escalate}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .contract import Contract, Field
from .spec import nearest
from .turn import Reply

FieldArgument = tuple[str, Any]


def read_contract(raw: Mapping[str, Any], reserved: frozenset[str]) -> tuple[Contract, list[tuple[str, str]]]:
    """The contract, and ``(field, problem)`` pairs. ``reserved``: names of rule kinds, which no field may take."""
    fields, problems = [], []
    for name, spec in raw.items():
        try:
            if name in reserved:
                raise ValueError("is the name of a rule kind; call the field otherwise")
            fields.append(_read_field(name, spec))
        except ValueError as error:
            problems.append((name, str(error)))
    if raw.get("reply", "text") == "text" and "reply" not in raw:
        problems.append(("reply", "is missing: the contract needs the text that the customer reads (reply: text)"))
    elif not problems and next(f for f in fields if f.name == "reply").kind != "text":
        problems.append(("reply", "must be a text"))
    return Contract(tuple(fields)), problems


def _read_field(name: str, spec: Any) -> Field:
    if isinstance(spec, list):
        return Field(name, "enum", _texts(spec))
    options = {"kind": spec} if isinstance(spec, str) else spec
    if not isinstance(options, Mapping):
        raise ValueError("is a list of allowed values, or text, list, number, integer, bool, or {kind, min, max, of}")
    for key in options:
        if key not in ("kind", "min", "max", "of"):
            raise ValueError(f"unknown key {key!r}{nearest(key, ('kind', 'min', 'max', 'of'))}")
    kind = options.get("kind")
    if kind not in _DEFAULTS:
        raise ValueError(f"unknown kind {kind!r}{nearest(str(kind), _DEFAULTS)}")
    bounds: list[Any] = [
        options.get(key, default) for key, default in zip(("min", "max"), _DEFAULTS[kind], strict=True)
    ]
    low, high = bounds
    if any(not isinstance(v, int | float | None) or isinstance(v, bool) for v in (low, high)):
        raise ValueError("min and max are numbers")
    if low is not None and high is not None and low > high:
        raise ValueError("min is above max")
    return Field(name, kind, _texts(options["of"]) if "of" in options else (), low, high)


_DEFAULTS: dict[str, tuple[int | None, int | None]] = {
    "bool": (None, None),
    "integer": (None, None),
    "list": (0, 8),
    "number": (None, None),
    "text": (1, 1200),
}


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not values or not all(isinstance(v, str) and v.strip() for v in values):
        raise ValueError(
            f"allowed values are a list of texts (got {values!r}; put quotes around yes, no, on, off and numbers)"
        )
    if len(set(values)) != len(values):
        raise ValueError("an allowed value is given twice")
    return tuple(values)


def field_argument(field: Field, raw: Any) -> FieldArgument:
    """Compile the right-hand side of a clause on ``field``. Raises ValueError for a value the field cannot have."""
    if field.kind in ("integer", "number") and isinstance(raw, Mapping):
        return field.name, _bounds(raw)
    values = raw if isinstance(raw, list) else [raw]
    if not values:
        raise ValueError("the list is empty")
    for value in values:
        problem = field.problem([value] if field.kind == "list" else value)
        if problem:
            raise ValueError(problem + (nearest(str(value), field.allowed) if field.allowed else ""))
    return field.name, tuple(values)


def _bounds(raw: Mapping[str, Any]) -> tuple[float, float, str]:
    for key, value in raw.items():
        if key not in ("min", "max"):
            raise ValueError(f"unknown key {key!r}{nearest(key, ('min', 'max'))}")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"{key} is not a number")
    low, high = raw.get("min", float("-inf")), raw.get("max", float("inf"))
    if not raw or low > high:
        raise ValueError("give min, max or both, with min <= max")
    return low, high, "bounds"


def one_of(reply: Reply, argument: FieldArgument) -> tuple[bool, str]:
    """The field has one of the values, or lies within the bounds."""
    name, wanted = argument
    value = (reply.fields or {})[name]
    if len(wanted) == 3 and wanted[2] == "bounds":
        return wanted[0] <= value <= wanted[1], f"{name} is {value}"
    return value in wanted, f"is {value!r}"


def holds_every(reply: Reply, argument: FieldArgument) -> tuple[bool, str]:
    """The list has every one of the items (``must`` on a list field)."""
    name, wanted = argument
    lacking = [item for item in wanted if item not in (reply.fields or {})[name]]
    return not lacking, f"lacks {', '.join(map(repr, lacking))}"


def holds_some(reply: Reply, argument: FieldArgument) -> tuple[bool, str]:
    """The list has one of the items (``must_not`` on a list field)."""
    name, barred = argument
    hit = next((item for item in (reply.fields or {})[name] if item in barred), None)
    return hit is not None, f"has {hit!r}"


def field_check(field: Field, side: str) -> Any:
    """The check for a clause on ``field``."""
    if field.kind != "list":
        return one_of
    return holds_every if side == "must" else holds_some
