# ruff: noqa: E501  (sentences and schemas are read by the line)
"""Makes the pages of the rule kinds and the JSON Schema for editors from the code: python docs/make_kinds.py.

The pages' examples are kind_examples.yaml and published_examples.yaml; tests run every one of them from the pages, and
keep pages and schema true.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, TypeAdapter

import runtime.rules.file  # noqa: F401  (enters the kinds)
from runtime.rules.kinds import KINDS, Kind
from runtime.rules.spec import FixtureSpec, FixturesSpec, Name, Plain, PromptSpec, RuleSpec, TurnBounds, WhenSpec

DOCS = Path(__file__).parent
SCHEMA = DOCS.parent / "runtime" / "rules" / "rules.schema.json"
PAGES = {"rule-kinds.md": "kind_examples.yaml", "rule-kinds-published.md": "published_examples.yaml"}
INTRO = {
    "rule-kinds.md": "# Rule kinds\n\nEvery kind that may stand under `must` or `must_not` of a [rule](rules.md), with its fields and a clause that one "
    "reply keeps and another breaks. Made from the code by `python docs/make_kinds.py`; the tests run every example.",
    "rule-kinds-published.md": "# IFEval's and IFBench's instructions as rule kinds\n\nThe 25 instructions of IFEval and 56 of IFBench (55 of the 57 in "
    "its data) under their published names. They judge as the published verifiers do ([how well](rules.md#others-verifiers)), on the text as it was "
    "written. Made from the code by `python docs/make_kinds.py`; the tests run every example.",
}  # fmt: skip


# ── what the code says ───────────────────────────────────────────────────────────────────────────


@cache
def field_notes(model: type[BaseModel]) -> dict[str, str]:
    """The texts below the fields of a class and of those that it comes from."""
    notes: dict[str, str] = {}
    for base in reversed([cls for cls in model.__mro__ if cls.__module__.startswith("runtime.")]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        body = tree.body  # type: ignore[attr-defined]
        for field, note in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant):
                notes[field.target.id] = " ".join(str(note.value.value).split())  # type: ignore[union-attr]
    return notes


def sentence(text: str | None) -> str:
    """A docstring as Markdown."""
    return " ".join((text or "").replace("``", "`").split())


# ── the schema ───────────────────────────────────────────────────────────────────────────────────


def shape(hint: Any) -> dict[str, Any]:
    """JSON Schema of what a type takes in a rule file, with the notes of its fields; no references."""
    schema = TypeAdapter(hint).json_schema(mode="validation")
    defs = schema.pop("$defs", {})
    return _plain(schema, defs)


def _plain(node: Any, defs: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_plain(part, defs) for part in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _plain(defs[node["$ref"].rpartition("/")[2]], defs)
    parts = {key: _plain(value, defs) for key, value in node.items() if key not in ("title", "default")}
    options = [o for o in parts.get("anyOf", ()) if o != {"type": "null"}]  # a key is left out rather than null
    if options:
        rest = {key: value for key, value in parts.items() if key != "anyOf"}
        return {**options[0], **rest} if len(options) == 1 else {**rest, "anyOf": options}
    return parts


def model_shape(model: type[BaseModel], inner: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The schema of an argument object, or of its short form; ``inner`` replaces that of some keys."""
    notes, properties = field_notes(model), {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        found = dict((inner or {}).get(key) or shape(_annotated(field)))
        properties[key] = {**found, **({"description": sentence(notes[name])} if name in notes else {})}
    required = [field.alias or name for name, field in model.model_fields.items() if field.is_required()]
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    schema |= {"required": required} if required else {}
    short = getattr(model, "short", None)
    return schema if short is None else {"anyOf": [shape(short), schema]}


def _annotated(field: Any) -> Any:
    """A field's type with the checks that pydantic took out of it."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def kind_shape(kind: Kind) -> dict[str, Any]:
    """The schema of a kind's argument."""
    found = model_shape(kind.model) if kind.model else shape(kind.hint)
    return {"description": sentence(kind.check.__doc__), **found}


def render_schema() -> str:
    """JSON Schema (draft 2020-12) of a rule file."""
    defs: dict[str, Any] = {}
    own = {"$ref": "#/$defs/when"}
    listed = {"type": "array", "items": own, "minItems": 1}
    turn = model_shape(TurnBounds)
    defs["when"] = model_shape(WhenSpec, {"not": own, "any": listed, "all": listed, "turn": turn})
    fixture = {"type": "array", "items": {"$ref": "#/$defs/fixture"}}
    defs["fixture"] = model_shape(FixtureSpec)
    sides = {}
    for side in ("must", "must_not"):
        kinds = {name: kind_shape(kind) for (of, name), kind in sorted(KINDS.items()) if of == side}
        sides[side] = {
            "type": "object",
            "minProperties": 1,
            "properties": kinds,
            "additionalProperties": {"$ref": "#/$defs/field"},
        }
    defs["field"] = {
        "description": "A contract field: its value, or one of several; for numbers {min, max}; for lists the items.",
        "anyOf": [*({"type": t} for t in ("string", "number", "boolean")), {"type": "array", "minItems": 1}, _BOUNDS],
    }
    fixtures = model_shape(FixturesSpec, dict.fromkeys(("pass", "fail", "inactive"), fixture)) | {
        "required": ["pass", "fail"]
    }
    rule = model_shape(RuleSpec, {"when": own, "fixtures": fixtures, **sides})
    defs["rule"] = rule | {"required": ["id", "severity", "fixtures"], "anyOf": [{"required": [s]} for s in sides]}
    properties = {
        "version": {"const": 1},
        "contract": _CONTRACT,
        "facts": {"type": "object", "description": "Fact -> its values, or text, number, integer, bool.", "propertyNames": shape(Name),
                  "additionalProperties": {"anyOf": [{"enum": ["text", "number", "integer", "bool"]}, {"type": "array", "minItems": 1, "items": shape(Plain)}]}},
        "labels": {**_TEXTS, "description": "Labels that rows may carry besides those that a when names."},
        "prompt": model_shape(PromptSpec),
        "rules": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/rule"}},
    }  # fmt: skip
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Rule file",
        "type": "object",
        "properties": properties,
        "required": ["version", "rules"],
        "additionalProperties": False,
        "$defs": defs,
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
_BOUNDS = {
    "type": "object",
    "properties": {"min": {"type": "number"}, "max": {"type": "number"}},
    "additionalProperties": False,
    "minProperties": 1,
}
_KINDS = {"enum": ["text", "list", "number", "integer", "bool"]}
_CONTRACT = {
    "type": "object",
    "description": "The fields of a reply object, in order: allowed texts, a kind, or {kind, min, max, of}.",
    "properties": {"reply": {"anyOf": [{"const": "text"}, {"type": "object", "properties": {"kind": {"const": "text"}}, "required": ["kind"]}]}},
    "required": ["reply"],
    "additionalProperties": {
        "anyOf": [
            _KINDS,
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True},
            {
                "type": "object",
                "properties": {"kind": _KINDS, "min": {"type": "number"}, "max": {"type": "number"}, "of": {"type": "array", "items": {"type": "string"}}},
                "required": ["kind"],
                "additionalProperties": False,
            },
        ]
    },
}  # fmt: skip


# ── the pages ────────────────────────────────────────────────────────────────────────────────────


def told(schema: Mapping[str, Any]) -> str:
    """What a schema asks for, in a few words."""
    if "anyOf" in schema:
        options = [told(option) for option in schema["anyOf"]]
        if len(options) == 2 and options[1] == f"a list of: {options[0]}":
            return f"{options[0]}; or a list"
        return " or ".join(dict.fromkeys(options))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        shown = [f"`{json.dumps(v) if isinstance(v, bool) else v}`" for v in values]
        return ", ".join(shown) if len(shown) <= 9 else f"one of {len(shown)} codes such as {', '.join(shown[:3])}"
    if schema.get("type") == "array":
        return f"a list of: {told(schema.get('items', {}))}"
    bounds = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    name = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "`true` or `false`",
        "object": "object",
    }
    return " ".join([name.get(str(schema.get("type")), "anything"), *bounds])


def fields_of(kind: Kind) -> list[str]:
    """The lines that say what a kind takes."""
    if kind.model is None:
        return [f"Takes {told(kind_shape(kind))}."]
    schema = model_shape(kind.model)
    objects = schema["anyOf"][1] if "anyOf" in schema else schema
    lines = [f"In place of the object: {told(schema['anyOf'][0])}.", ""] if "anyOf" in schema else []
    lines += ["| field | takes | |", "|---|---|---|"]
    for name, given in objects["properties"].items():
        field = next(f for n, f in kind.model.model_fields.items() if name in (n, f.alias))
        set_ = not field.is_required() and field.default is not None and field.default_factory is None
        default = f"default `{json.dumps(field.default)}`" if set_ else ""
        note = sentence(given.get("description")) or ("required" if field.is_required() else default)
        cells = [f"`{name}`", told(given), note + (f" ({default})" if default and default != note else "")]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def fixture_of(example: Any) -> dict[str, Any]:
    """An example's reply as a fixture."""
    return example if isinstance(example, dict) else {"user": "Hello.", "reply": example}


def block(example: Mapping[str, Any]) -> str:
    """An example as the part of a rule file that it is."""
    side = next(side for side in ("must", "must_not") if side in example)
    top = {key: example[key] for key in ("contract", "facts") if key in example}
    lines = [f"{key}: {_flow(value)}" for key, value in top.items()]
    lines += [f"{side}: {_flow(example[side])}", "fixtures:"]
    lines += [f"  {group}: [{_flow(fixture_of(example[group]))}]" for group in ("pass", "fail")]
    return "```yaml\n" + "\n".join(lines) + "\n```"


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000, sort_keys=False)
    return text.strip().removesuffix("...").strip()


def render_page(page: str) -> str:
    """One page: for each kind its sentence, fields and examples."""
    examples = yaml.safe_load((DOCS / PAGES[page]).read_text(encoding="utf-8"))
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for example in examples:
        by_kind.setdefault(_name(example), []).append(example)
    parts = [INTRO[page]]
    for name, own in by_kind.items():
        sides = [side for side in ("must", "must_not") if (side, name) in KINDS]
        parts.append(f"## {name}")
        checks = {KINDS[side, name].check for side in sides}
        for side in sides if len(checks) > 1 else sides[:1]:
            kind = KINDS[side, name]
            under = [side] if len(checks) > 1 else sides
            needs = f" Needs a contract with `{kind.needs}`." if kind.needs else ""
            says = " and ".join(f"`{s}` {'asks' if s == 'must' else 'forbids'}" for s in under)
            parts.append(f"{says}: {sentence(kind.check.__doc__)}{needs}")
        parts.append("\n".join(fields_of(KINDS[sides[0], name])))
        parts += [block(example) for example in own]
    return "\n\n".join(parts) + "\n"


def _name(example: Mapping[str, Any]) -> str:
    (name,) = example.get("must") or example["must_not"]
    return str(name)


def yaml_blocks(page: str) -> Iterable[dict[str, Any]]:
    """The examples of a page as they stand on it."""
    for text in re.findall(r"```yaml\n(.*?)\n```", page, re.S):
        yield yaml.safe_load(text)


if __name__ == "__main__":
    for page in PAGES:
        (DOCS / page).write_text(render_page(page), encoding="utf-8")
    SCHEMA.write_text(render_schema(), encoding="utf-8")
