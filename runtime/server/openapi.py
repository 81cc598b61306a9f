"""``/openapi.json``: what the server takes and gives, with the limits that it runs under (OpenAPI 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ..reply import MOST_LOGPROBS
from .ask import ROLES, STOPS_CAP

if TYPE_CHECKING:
    from ..info import Info
    from .limits import Limits

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_FLAG: Schema = {"type": "boolean"}
_OBJECT: Schema = {"type": "object"}


def document(info: Info, limits: Limits, *, keys: bool) -> dict[str, Any]:
    """The description of a running server. ``keys``: whether requests need an API key."""
    refused = {code: _answer(about, "Error") for code, about in _REFUSALS.items() if keys or code != "401"}
    plain: dict[str, Any] = {code: refused[code] for code in ("401", "404") if code in refused}
    chat = {
        "operationId": "createChatCompletion",
        "summary": "Answer a conversation",
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("ChatRequest")}}},
        "responses": {"200": _chat_answer(), **{code: refused[code] for code in refused if code != "404"}},
    }
    named = {"name": "id", "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Holdfast", "version": _version(), "description": "OpenAI-compatible chat with rules"},
        "paths": {
            "/v1/chat/completions": {"post": chat},
            "/v1/models": {"get": _get("listModels", "The model that is served", "ModelList", plain)},
            "/v1/models/{id}": {"parameters": [named], "get": _get("readModel", "One model", "Model", plain)},
            "/healthz": {"get": _get("healthz", "Whether the process can go on", "Health", _down("Health"))},
            "/readyz": {"get": _get("readyz", "Whether requests are taken", "Ready", _down("Ready"))},
        },
        "components": {
            "schemas": {**_schemas(), "ChatRequest": _request(info, limits)},
            **({"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if keys else {}),
        },
        **({"security": [{"key": []}]} if keys else {}),
    }


_REFUSALS: Mapping[str, str] = {
    "400": "The request is at fault; the message names the field",
    "401": "The API key is missing or wrong",
    "404": "There is no such model",
    "413": "The body is too large",
    "415": "The body is compressed",
    "429": "The queue is full or the deadline passed; Retry-After says when to come again",
    "503": "The engine is being restarted, or has failed",
}


def _version() -> str:
    for name in ("holdfast-runtime", "holdfast-toolkit"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "0"


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(about: str, schema: str) -> dict[str, Any]:
    return {"description": about, "content": {"application/json": {"schema": _ref(schema)}}}


def _get(name: str, about: str, schema: str, others: Mapping[str, Any]) -> dict[str, Any]:
    return {"operationId": name, "summary": about, "responses": {"200": _answer(about, schema), **others}}


def _down(schema: str) -> dict[str, Any]:
    return {"503": _answer("Not now", schema)}


def _chat_answer() -> dict[str, Any]:
    # without a type: OpenAPI 3.1 cannot say whether it would be that of the stream or of an event
    events = {"text/event-stream": {"schema": {"description": "chat.completion.chunk events, then [DONE]"}}}
    return {
        "description": "The completion, or with stream: true its chunks",
        "content": {"application/json": {"schema": _ref("ChatCompletion")}, **events},
    }


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    kinds = schema.get("type")
    return {**schema, "type": [kinds, "null"]} if isinstance(kinds, str) else {"anyOf": [schema, {"type": "null"}]}


def _request(info: Info, limits: Limits) -> dict[str, Any]:
    tokens = {**_WHOLE, "minimum": 1, **({} if limits.max_tokens is None else {"maximum": limits.max_tokens})}
    parts = {"type": "array", "items": {**_OBJECT, "required": ["type", "text"], "properties": _part()}}
    message = {
        **_OBJECT,
        "required": ["role"],
        "properties": {"role": {"enum": list(ROLES)}, "content": _or_null({"anyOf": [_TEXT, parts]})},
    }
    stops = {"type": "array", "items": _TEXT, "maxItems": STOPS_CAP}
    form = {**_OBJECT, "required": ["type"], "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}}}
    optional: dict[str, Schema] = {
        "model": _TEXT,
        "max_tokens": tokens,
        "max_completion_tokens": tokens,
        "temperature": {**_NUMBER, "minimum": 0, "maximum": 10},
        "top_p": {**_NUMBER, "exclusiveMinimum": 0, "maximum": 1},
        "top_k": {**_WHOLE, "minimum": -1},
        "min_p": {**_NUMBER, "minimum": 0, "maximum": 1},
        "presence_penalty": {**_NUMBER, "minimum": -2, "maximum": 2},
        "frequency_penalty": {**_NUMBER, "minimum": -2, "maximum": 2},
        "repetition_penalty": {**_NUMBER, "minimum": 0.1, "maximum": 10},
        "logprobs": _FLAG,
        "top_logprobs": {**_WHOLE, "minimum": 0, "maximum": MOST_LOGPROBS},
        "seed": _WHOLE,
        "n": {**_WHOLE, "minimum": 1, "maximum": limits.choices},
        "stop": {"anyOf": [_TEXT, stops]},
        "stream": _FLAG,
        "stream_options": {**_OBJECT, "properties": {"include_usage": _or_null(_FLAG)}},
        "response_format": form,
        "timeout": {**_NUMBER, "exclusiveMinimum": 0},
        "tools": {"type": "array", "items": _OBJECT, "maxItems": limits.tools},
        "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, _OBJECT]},
        "facts": _facts(info),
        "metadata": _OBJECT,
    }
    messages = {"type": "array", "items": message, "minItems": 1, "maxItems": limits.messages}
    properties = {"messages": messages, **{name: _or_null(schema) for name, schema in optional.items()}}
    return {**_OBJECT, "required": ["messages"], "properties": properties}


def _part() -> dict[str, Any]:
    return {"type": {"const": "text"}, "text": _TEXT}


def _facts(info: Info) -> dict[str, Any]:
    kinds: Mapping[str, Schema] = {"bool": _FLAG, "integer": _WHOLE, "number": _NUMBER, "text": _TEXT}
    known = {n: kinds[kind] if isinstance(kind, str) else {"enum": list(kind)} for n, kind in info.facts.items()}
    return {**_OBJECT, **({"properties": known, "additionalProperties": False} if info.rules else {})}


def _schemas() -> dict[str, Any]:
    choice = {**_OBJECT, "required": ["index", "message", "finish_reason"]}
    error = {**_OBJECT, "required": ["message", "type", "code"], "properties": {"message": _TEXT}}
    return {
        "ChatCompletion": {
            **_OBJECT,
            "required": ["id", "object", "created", "model", "choices", "usage", "holdfast"],
            "properties": {"object": {"const": "chat.completion"}, "choices": {"type": "array", "items": choice}},
        },
        "Error": {**_OBJECT, "required": ["error"], "properties": {"error": error}},
        "Health": {**_OBJECT, "required": ["status"], "properties": {"status": _TEXT}},
        "Model": {**_OBJECT, "required": ["id", "object"], "properties": {"id": _TEXT, "object": {"const": "model"}}},
        "ModelList": {
            **_OBJECT,
            "required": ["object", "data"],
            "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _ref("Model")}},
        },
        "Ready": {**_OBJECT, "required": ["ready"], "properties": {"ready": _FLAG}},
    }
