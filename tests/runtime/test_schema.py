# ruff: noqa: E501  (tables are read by the row)
"""Schemas are kept to the letter or refused, whatever tokens a model would like."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from runtime.engine.grammar import Grammars, Matcher
from runtime.errors import UsageError
from runtime.rules.json_schema import schema_problem
from runtime.schema import schema_grammar

pytest.importorskip("llguidance")
END = 256


class Bytes:
    """A vocabulary of single bytes and an end."""

    n_vocab, stops = 257, frozenset({END})

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < END else b""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


GRAMMARS = Grammars(Bytes())  # type: ignore[arg-type]


def compiled(schema: Any) -> Matcher:
    return GRAMMARS.matcher(schema_grammar(schema))


def admits(schema: Any, text: str) -> bool:
    matcher = compiled(schema)
    for byte in text.encode():
        if not matcher.permits(byte):
            return False
        matcher.accept(byte)
    return matcher.permits(END)


NUMBER, STRING = {"type": "number"}, {"type": "string"}
LINES = {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({**NUMBER, "maximum": 10}, ["9.5", "10", "-3"], ["11", "10.01"]),
        ({**NUMBER, "exclusiveMinimum": 0, "maximum": 1}, ["0.01", "1"], ["0", "-1", "1.5"]),
        ({"type": "integer", "minimum": -3, "maximum": 7, "multipleOf": 3}, ["-3", "0", "6"], ["7", "9", "1", "1.0"]),
        ({**NUMBER, "multipleOf": 0.01}, ["0.25", "12"], ["0.125"]),
        ({"enum": ["😀", "é"]}, ['"😀"', '"é"'], ['"😁"', '"e"']),
        ({"enum": ['say "hi"', "a\\b", "</s>", "x\ny"]}, ['"say \\"hi\\""', '"a\\\\b"', '"</s>"', '"x\\ny"'], ['"say "hi""']),
        ({"enum": [1, None, {"a": [True]}]}, ["1", "null", '{"a":[true]}'], ["2", '"1"', "true"]),
        ({"const": "\u2028"}, ['"\u2028"'], ['""']),
        ({**STRING, "maxLength": 1}, ['"😀"', '""'], ['"ab"', '"\\ud83d"']),
        ({**STRING, "pattern": "^(foo|bär)+$"}, ['"foobär"'], ['"fo"', '""', '"xfoo"']),
        ({**STRING, "format": "date"}, ['"2025-02-28"'], ['"2025-13-01"', '"x"']),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, ["3", "null"], ["3.5", '"x"']),
        ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, ["3"], ["2"]),
        ({"type": "array", "prefixItems": [STRING], "items": {"type": "integer"}, "maxItems": 2}, ['["a",1]'], ['["a",1,2]', "[1]"]),
        (LINES, ['{"b":1}', '{"a":[],"b":2}'], ['{"a":1}', '{"b":1,"c":2}', '{"b": 1}']),
        ({"$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"}, ["[[],[[]]]"], ["[1]"]),
        ({"type": "object", "patternProperties": {"^n": {"type": "integer"}}}, ['{"n1":2}'], ['{"n1":"x"}']),
        ({**STRING, "format": "date"}, ['"2024-02-29"', '"2000-02-29"'], ['"2023-02-29"', '"1900-02-29"', '"0000-01-01"', '"2024-04-31"']),
        ({**STRING, "format": "date-time"}, ['"2024-02-29T23:59:59Z"'], ['"2023-02-29T00:00:00Z"', '"2024-01-01T12:59:60Z"']),
        ({**STRING, "format": "time"}, ['"23:59:59Z"'], ['"23:59:60Z"']),
        ({**STRING, "pattern": r"^\W\S\D$"}, ['"%xx"'], ['"éxx"', '"%\ufeffx"', '"%\u00a0x"', '"%x\u0663"', '"%\u0085x"']),
        ({**STRING, "pattern": r"^[^\w]$"}, ['"%"'], ['"é"', '"²"', '"a"']),
        ({**STRING, "pattern": r"^[^\s@]+@[^\S ]$"}, ['"a@\u00a0"'], ['"a\ufeff@\u00a0"', '"a@ "', '"a@b"']),
        ({**STRING, "pattern": "^[a&&b[~~c]+$"}, ['"&"', '"["', '"~"', '"ab"'], ['"d"']),
        ({**STRING, "pattern": "^[^a&&b]$"}, ['"c"'], ['"a"', '"&"']),
        ({"type": "array", "uniqueItems": False, "maxItems": 0}, ["[]"], ["[1]"]),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [STRING], "type": "array"}, ['["a"]'], ["[1]"]),
        ({"$schema": "https://example.com/mine", "type": "integer"}, ["1"], ['"a"']),
        ({**STRING, "contentMediaType": "text/plain"}, ['"a"'], ["1"]),
    ],
)  # fmt: skip
def test_what_a_schema_says_is_kept(schema: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    assert [text for text in right if not admits(schema, text)] == []
    assert [text for text in wrong if admits(schema, text)] == []


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"not": STRING}, "the JSON schema uses 'not'"),
        ({"properties": {"a": {"uniqueItems": True}}}, r"the JSON schema\.properties\.a uses 'uniqueItems'"),
        ({"type": "array", "items": {"contains": {}}}, r"items uses 'contains'"),
        ({"anyOf": [{"frobnicate": 1}]}, r"anyOf\[0\] uses 'frobnicate'"),
        ({"$defs": {"x": {"if": {}}}}, r"\$defs\.x uses 'if'"),
        ({**STRING, "nullable": True}, "nullable"),
        ({**STRING, "format": "colour"}, "Unknown format"),
        ({**STRING, "pattern": "(?=a)b"}, "pattern of the JSON schema cannot be kept: look-around"),
        ({"patternProperties": {"(": {}}}, "pattern of the JSON schema cannot be kept: unclosed group"),
        ({**STRING, "pattern": "[+--]"}, "has -- in a class"),
        (
            {"type": "object", "properties": {"a": {**NUMBER, "minimum": 5, "maximum": 3}}, "required": ["a"]},
            r"properties\.a cannot be kept \(maximum, minimum, type\)",
        ),
        ({"enum": [1, {"a": [2**53 + 1]}]}, r"enum of the JSON schema has 9007199254740993"),
        ({"const": 1e300}, "const of the JSON schema has 1e"),
        ({"prefixItems": [STRING], "additionalItems": False}, "'additionalItems'"),
        ({"prefixItems": [STRING], "items": [STRING]}, "'prefixItems'"),
        ({"$ref": "#/$defs/none"}, r"\(\$ref\): Pointer '/\$defs/none' does not exist"),
        ({"oneOf": [{"type": "integer"}, NUMBER]}, "oneOf"),
        ({"enum": []}, "Unsatisfiable"),
        ({"type": "colour"}, "colour"),
        ({"properties": []}, "properties is not a schema"),
        ({"anyOf": {}}, "anyOf is not a schema"),
        ({"items": 3}, "items is not a schema but 3"),
        ({"required": "a"}, "required"),
        ({**NUMBER, "maximum": "5"}, "maximum of the JSON schema is '5'"),
        ({**NUMBER, "maximum": 10**400}, "beyond all bounds"),
        ({**NUMBER, "multipleOf": 0}, "multipleOf"),
        ({**STRING, "minLength": -5}, "minLength of the JSON schema is -5"),
        ({"type": "array", "minItems": 10**7}, "minItems"),
        ({**NUMBER, "exclusiveMinimum": 0, "maximum": 0.5}, "beside an exclusive bound"),
        ({"enum": ["x" * 10] * 20_000}, "more than 32768 characters"),
        ({"$ref": "http://127.0.0.1/x"}, "not present"),
        ({"const": "\ud83d"}, "half a character"),
        ([], "no object"),
    ],
)
def test_what_cannot_be_kept_is_refused(schema: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compiled(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {**STRING, "maxLength": 100_000},
        {**STRING, "pattern": "^((a?){1000}){1000}$"},
        {**STRING, "pattern": "(a|b)*a(a|b){200}$"},
        {"type": "object", "properties": {f"k{i}": {"type": "integer"} for i in range(800)}},
        {"enum": [f"value {i}" for i in range(2000)]},
        {"$defs": {"t": {"anyOf": [{"$ref": "#/$defs/t"}]}}, "$ref": "#/$defs/t"},
    ],
)
def test_a_large_schema_is_followed_or_refused_alone(schema: dict[str, Any]) -> None:
    row = np.random.default_rng(1).normal(size=257).astype(np.float32)
    with suppress(UsageError):
        matcher = compiled(schema)
        for _ in range(50):
            matcher.accept(int(matcher.allow(row).argmax()))


def test_what_must_come_is_told() -> None:
    matcher = compiled({"type": "object", "properties": {"action": {"enum": ["a", "b"]}}, "required": ["action"]})
    assert bytes(matcher.forced()) == b'{"action":"'
    for byte in b'{"action":"a"':
        matcher.accept(byte)
    assert not matcher.complete
    matcher = compiled(LINES | {"properties": {"b": {"const": 1}}})
    for byte in b'{"b":1}':
        matcher.accept(byte)
    assert matcher.complete


def made_up(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema of the keywords that `schema_problem` knows too."""
    kind = rng.choice(
        ["integer", "number", "string", "enum", "boolean", *(["array", "object"] * 2 if depth < 3 else [])]
    )
    low, room = rng.randint(-20, 20), rng.randint(0, 30)
    if kind in ("integer", "number"):
        return {"type": kind, "minimum": low, "maximum": low + room}
    if kind == "string":
        return {"type": kind, "minLength": abs(low) % 4, "maxLength": abs(low) % 4 + room}
    if kind == "enum":
        return {
            "enum": rng.sample(["a", 'say "hi"', "😀", "é\\n\n", 1, 1.5, None, True, {"x": [1, "ü"]}, "\x7f", ""], 3)
        }
    if kind == "array":
        return {"type": kind, "items": made_up(rng, depth + 1), "minItems": room % 2, "maxItems": room % 2 + 2}
    if kind == "boolean":
        return {"type": kind}
    names = rng.sample(["a", 'q"uote', "ü", "😀", "b"], rng.randint(0, 4))
    needed = rng.sample(names, rng.randint(0, len(names)))
    others = rng.choice([False, made_up(rng, depth + 1)])
    return {
        "type": "object",
        "properties": {name: made_up(rng, depth + 1) for name in names},
        "required": needed,
        "additionalProperties": others,
    }


@pytest.mark.parametrize("seed", range(60))
def test_random_tokens_under_a_schema_are_a_value_of_it(seed: int) -> None:
    schema, rows = made_up(random.Random(seed)), np.random.default_rng(seed)
    matcher, written = compiled(schema), bytearray()
    for _ in range(3000):
        row = rows.normal(size=257).astype(np.float32)
        row[128:256] -= 3
        row[list(b'"}]')] += 1
        row[END] += 9
        token = int(matcher.allow(row).argmax())
        if token == END:
            break
        matcher.accept(token)
        written.append(token)
    value = json.loads(bytes(written))
    assert schema_problem(value, schema) is None, written.decode()
