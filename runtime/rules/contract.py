"""The reply contract: which fields a structured reply has, in which order, with which values.

One declaration gives the strict parser, the JSON Schema and the grammar, so the three agree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .text import plain

TEXT_LIMIT, LIST_LIMIT, ITEM_LIMIT = 1200, 8, 80
"""Default bounds of what is generated: characters of a text field, items of a list, characters of a list item."""


@dataclass(frozen=True)
class Field:
    """One field. ``low``/``high`` bound characters (text), items (list) or the value (number, integer)."""

    name: str
    kind: str
    allowed: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    def problem(self, value: Any) -> str | None:
        """Why ``value`` cannot stand in this field, or None."""
        if self.kind == "enum":
            return None if value in self.allowed else f"{self.name} is {value!r}, not one of {', '.join(self.allowed)}"
        if not _TYPES[self.kind](value):
            return f"{self.name} is {_brief(value)}, not a {self.kind}"
        if self.kind == "list":
            return self._list_problem(value)
        if self.kind == "text":
            return self._size_problem(len(value.strip()) if plain(value).strip() else 0, "characters")
        return self._size_problem(value, "as its value") if self.kind in ("integer", "number") else None

    def _list_problem(self, value: list[str]) -> str | None:
        for item in value:
            if self.allowed and item not in self.allowed:
                return f"{self.name} has {item!r}, not one of {', '.join(self.allowed)}"
            if len(item) > ITEM_LIMIT or not plain(item).strip():
                return f"{self.name} has an item that is empty or longer than {ITEM_LIMIT} characters"
        return self._size_problem(len(value), "items")

    def _size_problem(self, size: float, unit: str) -> str | None:
        if self.low is not None and size < self.low:
            return (
                f"{self.name} is empty"
                if size == 0 and self.low == 1
                else f"{self.name} has {size} {unit} (at least {self.low})"
            )
        if self.high is not None and size > self.high:
            return f"{self.name} has {size} {unit} (at most {self.high})"
        return None

    def schema(self, *, bounded: bool = False) -> dict[str, Any]:
        """JSON Schema of the field's value; ``bounded``: with default limits where the declaration sets none."""
        if self.kind == "enum":
            return {"type": "string", "enum": list(self.allowed)}
        least, most = _DEFAULTS.get(self.kind, (None, None)) if bounded else (None, None)
        given = (least if self.low is None else self.low, most if self.high is None else self.high)
        bounds = {k: v for k, v in zip(_BOUNDS.get(self.kind, ()), given, strict=False) if v is not None}
        if self.kind == "list":
            item = {"enum": list(self.allowed)} if self.allowed else {"minLength": 1, "maxLength": ITEM_LIMIT}
            return {"type": "array", "items": {"type": "string", **item}, **bounds}
        return {"type": {"bool": "boolean", "text": "string"}.get(self.kind, self.kind), **bounds}


_TYPES = {
    "bool": lambda v: isinstance(v, bool),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "list": lambda v: isinstance(v, list) and all(isinstance(item, str) for item in v),
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "text": lambda v: isinstance(v, str),
}
_DEFAULTS = {
    "integer": (-999_999_999, 999_999_999),
    "list": (None, LIST_LIMIT),
    "number": (-1e9, 1e9),
    "text": (None, TEXT_LIMIT),
}
_BOUNDS = {
    "integer": ("minimum", "maximum"),
    "list": ("minItems", "maxItems"),
    "number": ("minimum", "maximum"),
    "text": ("minLength", "maxLength"),
}


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


@dataclass(frozen=True)
class ParsedReply:
    """A reply taken apart. ``error`` says why it is not usable; ``fields`` is None in plain-text mode."""

    fields: dict[str, Any] | None
    text: str
    error: str | None = None


@dataclass(frozen=True)
class Contract:
    """The fields in the order in which a reply writes them."""

    fields: tuple[Field, ...]

    def __contains__(self, name: object) -> bool:
        return any(field.name == name for field in self.fields)

    def __getitem__(self, name: str) -> Field:
        return next(field for field in self.fields if field.name == name)

    def problems(self, value: Mapping[str, Any]) -> list[str]:
        """Everything that keeps ``value`` from being a reply object."""
        names = [field.name for field in self.fields]
        unknown = [f"unknown field {name!r}" for name in value if name not in names]
        missing = [f"field {name!r} is missing" for name in names if name not in value]
        wrong = [field.problem(value[field.name]) for field in self.fields if field.name in value]
        return unknown + missing + [problem for problem in wrong if problem]

    def parse(self, text: str) -> ParsedReply:
        """Strict: one JSON object with exactly the declared fields and nothing around it but white space."""
        if not text.strip():
            return ParsedReply(None, "", "the reply is empty")
        try:
            value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
            json.dumps(value, ensure_ascii=False).encode()  # an escape may name half a character
        except (ValueError, RecursionError) as error:
            return ParsedReply(None, text, f"the reply is not one JSON object ({error})")
        if not isinstance(value, dict):
            return ParsedReply(None, text, f"the reply is JSON but not an object: {_brief(value)}")
        problems = self.problems(value)
        shown = value.get("reply")
        shown = shown if isinstance(shown, str) else text
        return ParsedReply(None, shown, "; ".join(problems)) if problems else ParsedReply(value, shown)

    def dump(self, fields: Mapping[str, Any]) -> str:
        """The one way a reply object is written: contract order, no spaces. Training data and runtime share it."""
        ordered = {field.name: fields[field.name] for field in self.fields if field.name in fields}
        return json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))

    def schema(self, *, bounded: bool = False) -> dict[str, Any]:
        """JSON Schema (draft 2020-12) of a reply object; ``bounded``: every text, list and number has a limit."""
        return {
            "type": "object",
            "properties": {field.name: field.schema(bounded=bounded) for field in self.fields},
            "required": [field.name for field in self.fields],
            "additionalProperties": False,
        }

    def grammar(self) -> str:
        """The grammar of a reply object in llguidance's dialect: as `dump` writes it, fields in contract order."""
        schema = self.schema(bounded=True) | {"x-guidance": {"whitespace_flexible": False}}
        return f"%llguidance {{}}\nstart: %json {json.dumps(schema)}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
