"""What one request may ask for, and what it is told: choices, functions, contracts, facts, keys, ids, routes."""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tiny_gguf import write_tiny_gguf

import runtime
from runtime.errors import UsageError
from runtime.reply import Reply
from runtime.server.app import Server
from runtime.server.keys import Keys
from runtime.server.limits import Limits
from runtime.server.logs import JsonLines
from runtime.server.tools import ToolUse, closed
from runtime.session import Session

SAID = [{"role": "user", "content": "hello"}]
CONTRACT = """
version: 1
contract:
  action: [answer, escalate]
  priority: [P1, P2]
  tools: {kind: list, of: [trace, refund]}
  reply: {kind: text, max: 40}
facts: {tier: [gold, basic], age: integer}
prompt:
  system: 'Tier {tier}.'
  fallback: {action: escalate, priority: P2, tools: [trace], reply: Sorry.}
rules:
  - id: polite
    severity: hard
    text: Say sorry.
    must: {any_word: [sorry]}
    fixtures: {pass: [{user: hi, reply: {reply: Sorry.}}], fail: [{user: hi, reply: {reply: No.}}]}
"""
PLAIN = """
version: 1
rules:
  - id: polite
    severity: hard
    text: Say sorry.
    must: {any_word: [sorry]}
    fixtures: {pass: [{user: hi, reply: sorry}], fail: [{user: hi, reply: 'no'}]}
"""
OBJECT = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


def function(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "x", "parameters": parameters or {}}}


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("asked") / "model.gguf", context=1024)


@pytest.fixture(scope="module")
def bare(model: Path) -> Iterator[Session]:
    with runtime.load(model, threads=1, slots=4) as session:
        yield session


def ruled(model: Path, rules: str, name: str) -> Iterator[Session]:
    (model.parent / name).write_text(rules)
    with runtime.load(model, threads=1, slots=2, rules=model.parent / name) as session:
        yield session


@pytest.fixture(scope="module")
def contracted(model: Path) -> Iterator[Session]:
    yield from ruled(model, CONTRACT, "contract.yaml")


@pytest.fixture(scope="module")
def polite(model: Path) -> Iterator[Session]:
    yield from ruled(model, PLAIN, "plain.yaml")


TEXT = {"type": "text", "text": "a"}


def ask(session: Session, *, limits: Limits | None = None, **body: Any) -> tuple[int, dict[str, Any]]:
    with TestClient(Server(session, limits=limits).app(), raise_server_exceptions=False) as client:
        told = json.dumps({"messages": SAID, "max_tokens": 12, **body})  # half characters as escapes
        reply = client.post("/v1/chat/completions", content=told)
        return reply.status_code, reply.json()


def stream(session: Session, **body: Any) -> list[dict[str, Any]]:
    with TestClient(Server(session).app()) as client:
        told = client.post("/v1/chat/completions", json={"messages": SAID, "stream": True, **body}).text
    lines = [line.removeprefix("data: ") for line in told.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


# ---- choices ----


def test_choices_have_seeds_of_their_own_and_come_again(bare: Session) -> None:
    how = {"temperature": 1.0, "seed": 5, "n": 3}
    status, told = ask(bare, **how)
    texts = [choice["message"]["content"] for choice in told["choices"]]
    assert status == 200
    assert [choice["index"] for choice in told["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts[0] == ask(bare, temperature=1.0, seed=5)[1]["choices"][0]["message"]["content"]
    assert told["usage"]["completion_tokens"] == sum(
        ask(bare, temperature=1.0, seed=5 + i)[1]["usage"]["completion_tokens"] for i in range(3)
    )
    chunks = stream(bare, **how, max_tokens=12, stream_options={"include_usage": True})
    streamed = ["", "", ""]
    for chunk in chunks:
        for choice in chunk["choices"]:
            streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == texts
    assert chunks[-1]["usage"] == {
        **told["usage"],
        "prompt_tokens_details": chunks[-1]["usage"]["prompt_tokens_details"],
    }


# ---- functions ----


def test_a_forced_function_is_called_with_arguments_that_fit(bare: Session) -> None:
    tools = [function("look", OBJECT), function("wait")]
    named = {"type": "function", "function": {"name": "look"}}
    status, told = ask(bare, tools=tools, tool_choice=named, max_tokens=200)
    message = told["choices"][0]["message"]
    assert status == 200
    assert told["choices"][0]["finish_reason"] == "tool_calls"
    (call,) = message["tool_calls"]
    assert (call["function"]["name"], message["content"]) == ("look", None)
    assert set(json.loads(call["function"]["arguments"])) == {"ok"}
    (delta,) = [
        c["delta"]
        for chunk in stream(bare, tools=tools, tool_choice=named, max_tokens=200)
        for c in chunk["choices"]
        if "tool_calls" in c["delta"]
    ]
    assert delta["tool_calls"][0]["function"] == call["function"]


def test_a_call_that_the_token_limit_cuts_comes_as_far_as_it_goes(bare: Session) -> None:
    tools = [function("look", {"type": "object", "properties": {"a": {"type": "string", "minLength": 90}}})]
    how = {"tools": tools, "tool_choice": "required", "max_tokens": 50}
    told = ask(bare, **how)[1]["choices"][0]
    (call,) = told["message"]["tool_calls"]
    assert (told["finish_reason"], told["message"]["content"], call["function"]["name"]) == ("length", None, "look")
    assert call["function"]["arguments"].startswith('{"a":"')
    *_, delta, end = [choice for chunk in stream(bare, **how) for choice in chunk["choices"]]
    assert delta["delta"]["tool_calls"][0]["function"] == call["function"]
    assert end["finish_reason"] == "length"
    use = ToolUse((), forced=False)
    for raw, words in (
        ('{"reply":"Good\\ud83d', "Good"),
        ('{"reply":"a\\n', "a\n"),
        ('{"rep', None),
        ('{"name":"lo', None),
    ):
        assert use.read(Reply(raw, raw, finish_reason="length")) == (words, [])


def test_a_slash_at_the_end_changes_nothing(bare: Session) -> None:
    with TestClient(Server(bare).app(), follow_redirects=False) as client:
        assert client.post("/v1/chat/completions/", json={"messages": SAID, "max_tokens": 2}).status_code == 200
        assert client.get("/v1/models/").json()["object"] == "list"


def test_arguments_are_those_that_a_function_names(bare: Session) -> None:
    """pydantic's schemas leave objects open; a call needs nothing more."""
    inner = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    told = {"type": "object", "properties": {"properties": inner, "all": {"items": {"$ref": "#/$defs/P"}}}}
    found = closed({**told, "$defs": {"P": {**inner, "additionalProperties": True}}})
    assert found["additionalProperties"] is found["properties"]["properties"]["additionalProperties"] is False
    assert found["$defs"]["P"]["additionalProperties"] is True
    assert "additionalProperties" not in told
    status, reply = ask(bare, tools=[function("f", inner)], tool_choice="required", max_tokens=200)
    (call,) = reply["choices"][0]["message"]["tool_calls"]
    assert status == 200
    assert set(json.loads(call["function"]["arguments"])) == {"on"}


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"const": 1}}, "required": ["a", "b"]},
        {"properties": {"a": {"const": 1}}, "anyOf": [{"properties": {"b": {"const": 2}}, "required": ["b"]}]},
        {"$defs": {"A": {"properties": {"a": {"const": 1}}}}, "$ref": "#/$defs/A", "required": ["b"], "properties": {}},
        {"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}, "required": ["b"]}]},
    ],
)
def test_objects_that_are_put_together_stay_open(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


def test_functions_or_words(bare: Session) -> None:
    calls = set()
    for seed in range(3):
        told = ask(bare, tools=[function("look", OBJECT)], temperature=1.0, seed=seed, max_tokens=100)[1]
        message = told["choices"][0]["message"]
        calls.add(bool(message.get("tool_calls")))
        assert message.get("tool_calls") or isinstance(message["content"], str)
    assert ask(bare, tools=[function("look")], tool_choice="none")[1]["choices"][0]["finish_reason"] != "tool_calls"
    said = [
        *SAID,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"ok": true}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "a lamp"},
    ]
    assert ask(bare, messages=said, tools=[function("look", OBJECT)])[0] == 200


def test_schemas_of_functions_refer_to_themselves(bare: Session) -> None:
    """Each has ``$defs`` of its own, and ``#`` is the function's schema, not that of the call."""
    refer = {"type": "object", "properties": {"x": {"$ref": "#/$defs/X"}}, "required": ["x"]}
    one = {**refer, "$defs": {"X": {"const": 1}}}
    two = {**refer, "$defs": {"X": {"const": 2}}}
    old = {**refer, "properties": {"x": {"$ref": "#/definitions/X"}}, "definitions": {"X": {"const": 3}}}
    nested = {"type": "object", "properties": {"x": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}, "required": ["x"]}
    tools = [function("one", one), function("two", two), function("old", old), function("nested", nested)]
    for name, found in (("one", {1}), ("two", {2}), ("old", {3}), ("nested", {None})):
        named = {"type": "function", "function": {"name": name}}
        told = ask(bare, tools=tools, tool_choice=named, max_tokens=200)[1]
        (call,) = told["choices"][0]["message"]["tool_calls"]
        inner = json.loads(call["function"]["arguments"])["x"]
        while isinstance(inner, dict):
            inner = inner["x"]
        assert inner in found


def test_what_the_server_said_goes_back_in(bare: Session) -> None:
    refused = [
        {"role": "assistant", "content": None, "refusal": "Sorry.", "tool_calls": None},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "Sorry."}]},
        {"role": "assistant", "content": "Sorry."},
    ]
    told = [ask(bare, messages=[*SAID, said, *SAID], max_tokens=3) for said in refused]
    assert {status for status, _ in told} == {200}
    assert len({reply["choices"][0]["message"]["content"] for _, reply in told}) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"tools": [{}]}, r"tools\[0\] is no function"),
        ({"tools": [function("a b")]}, r"tools\[0\]"),
        ({"tools": [function("a"), function("a")]}, "same name"),
        ({"tools": [function("a", {"type": "string"})]}, "parameters must be a JSON schema of an object"),
        ({"tools": [function("a", {"type": "object", "properties": {"b": {"$ref": "http://x/y"}}})]}, "schema"),
        ({"tools": 5}, "'tools' must be a list"),
        ({"tool_choice": "required"}, "without 'tools'"),
        ({"tools": [function("a")], "tool_choice": {"type": "function", "function": {"name": "b"}}}, "tool_choice"),
        ({"tools": [function("a")], "response_format": form(OBJECT)}, "cannot be kept at once"),
        ({"functions": [{"name": "a"}]}, "'functions'"),
        ({"n": 0}, "'n' is 0"),
        ({"n": True}, "'n'"),
        ({"max_tokens": 10**30}, "'max_tokens' is huge"),
        ({"timeout": 0}, "'timeout'"),
        ({"timeout": "5"}, "'timeout'"),
        ({"stream_options": {}}, None),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": 5}, "stream_options"),
        ({"facts": []}, "'facts' has the wrong type"),
        ({"facts": False}, "'facts' has the wrong type"),
        ({"metadata": ""}, "'metadata' has the wrong type"),
        ({"functions": {}}, "'functions'"),
        ({"logit_bias": 0}, "'logit_bias'"),
        ({"logprobs": True, "top_logprobs": 21}, "'top_logprobs' is not within 0..20"),
        ({"messages": [{"role": "user", "content": None}]}, r"messages\[0\]\.content must be text"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, r"messages\[0\]\.content\[0\]"),
        ({"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}]}, "no part of text"),
        ({"messages": [{"role": "user", "content": [TEXT, {"type": "image_url"}]}]}, r"content\[1\] is no part"),
        ({"modalities": ["text", "audio"]}, "'modalities'"),
        ({"modalities": ["text"], "function_call": "auto"}, None),
        ({"function_call": {"name": "a"}}, "'function_call'"),
        ({"web_search_options": {}}, "'web_search_options'"),
        ({"model": 5}, "'model'"),
        ({"logit_bias": {"5": 100}}, "logit_bias"),
    ],
)
def test_mistakes_are_named(bare: Session, body: dict[str, Any], message: str | None) -> None:
    status, told = ask(bare, limits=Limits(max_tokens=100), **body)
    if message is None:
        assert status == 200
        return
    assert (status, told["error"]["type"]) == (400, "invalid_request_error")
    assert re.search(message, told["error"]["message"])


def test_the_contract_says_which_functions_there_are(contracted: Session) -> None:
    status, told = ask(contracted, tools=[function("trace"), function("refund")])
    assert status == 200  # the random model breaks the contract: the safe reply names `trace`
    assert [call["function"]["name"] for call in told["choices"][0]["message"]["tool_calls"]] == ["trace"]
    for tools, choice, message in (
        ([function("dance")], "auto", "does not know the function 'dance'"),
        ([function("trace", OBJECT)], "auto", "needs some"),
        ([function("trace")], "required", "none can be forced"),
    ):
        status, told = ask(contracted, tools=tools, tool_choice=choice)
        assert status == 400
        assert message in told["error"]["message"]


# ---- forms ----

FITS = {
    "type": "object",
    "properties": {
        "action": {"enum": ["answer", "escalate", "refuse"]},
        "priority": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/P"}]},
        "tools": {"type": "array", "items": {"type": "string"}},
        "reply": {"type": "string", "maxLength": 100},
        "note": {"type": "string"},
    },
    "required": ["action", "priority", "tools", "reply"],
    "additionalProperties": False,
    "$defs": {"P": {"type": "string", "enum": ["P1", "P2"], "title": "Priority"}},
}


def changed(name: str, value: Any) -> dict[str, Any]:
    return {**FITS, "properties": {**FITS["properties"], name: value}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (FITS, None),
        ({"type": "object"}, None),
        ({}, None),
        (changed("action", {"enum": ["answer"]}), "action may also be 'escalate'"),
        (changed("action", {"type": "integer"}), "action is of type string"),
        (changed("reply", {"type": "string", "maxLength": 10}), "reply may be above the schema's maxLength"),
        (changed("reply", {"type": "string", "pattern": "^a"}), "'pattern', which the contract does not promise"),
        (changed("tools", {"type": "array", "minItems": 1}), "tools may be below"),
        ({**FITS, "required": ["sentiment"]}, "has no 'sentiment'"),
        ({**FITS, "properties": {"reply": {"type": "string"}}}, "always has 'action'"),
        ({"type": "array"}, "of type object"),
        ({"not": {}}, "'not'"),
        ({"required": 5}, "not a JSON schema"),
        ({"required": "a"}, "not a JSON schema"),
        ({"type": 5}, "not a JSON schema"),
        ({"properties": []}, "not a JSON schema"),
        (changed("action", {"enum": "answer escalate refuse"}), "not a JSON schema"),
        ({"$ref": "#/$defs/none"}, "may be nothing"),
        ({"$ref": "#"}, "may be nothing"),
        (False, "must be an object"),
    ],
)
def test_a_schema_is_refused_where_the_contract_may_break_it(
    contracted: Session, schema: dict[str, Any], why: str | None
) -> None:
    status, told = ask(contracted, response_format=form(schema))
    if why is None:
        assert status == 200
        assert set(json.loads(told["choices"][0]["message"]["content"])) == {"action", "priority", "tools", "reply"}
    else:
        assert status == 400
        assert why in told["error"]["message"]


def test_a_safe_reply_in_the_place_of_json_is_a_refusal(polite: Session) -> None:
    message = ask(polite, response_format=form(OBJECT), max_tokens=200)[1]["choices"][0]["message"]
    assert message["content"] is None
    assert "sorry" in message["refusal"]
    deltas = [c["delta"] for chunk in stream(polite, response_format=form(OBJECT)) for c in chunk["choices"]]
    assert [delta["refusal"] for delta in deltas if "refusal" in delta] == [message["refusal"]]
    assert not any(delta.get("content") for delta in deltas)


def test_embedded_the_same_forms_are_kept(bare: Session, contracted: Session) -> None:
    reply = bare.chat(SAID, response_format=form(OBJECT), max_tokens=100)
    assert set(json.loads(reply.raw)) == {"ok"}
    with pytest.raises(UsageError, match="no 'ok'"):
        contracted.chat(SAID, response_format=form(OBJECT))
    with pytest.raises(UsageError, match="both"):
        bare.chat(SAID, response_format=form(OBJECT), grammar='root ::= "a"')


# ---- facts ----


def test_null_facts_do_not_hide_metadata(contracted: Session) -> None:
    for facts in ({}, {"facts": None}):
        assert ask(contracted, metadata={"tier": "silver"}, **facts)[0] == 400
        assert ask(contracted, metadata={"tier": "gold", "age": "41"}, **facts)[0] == 200
    assert ask(contracted, metadata={"tier": "silver"}, facts={"tier": "gold"})[0] == 200
    assert ask(contracted, metadata={"age": "old"})[0] == 400
    assert ask(contracted, facts={"age": "41"})[0] == 400


# ---- keys ----


def test_keys_in_every_spelling(bare: Session) -> None:
    with TestClient(Server(bare, keys=[" first ", "sécond"]).app()) as client:
        for header, status in (
            (b"Bearer first", 200),
            (b"bearer first", 200),
            (b"BEARER   first ", 200),
            ("Bearer sécond".encode(), 200),
            (b"Bearer", 401),
            (b"Basic first", 401),
            (b"first", 401),
            (b"Bearer \xff", 401),
        ):
            assert client.get("/v1/models", headers={b"Authorization": header}).status_code == status, header
        for route in ("/v1/models/model", "/v1/chat/completions"):
            assert client.request("POST" if "chat" in route else "GET", route).status_code == 401
        assert client.get("/healthz").status_code == 200


def test_a_key_file_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"\xef\xbb\xbfzero\r\n# ours\n one \ntwo # for the shop\n\nthr#ee\n")
    keys = Keys(file=file)
    assert [keys.allow(f"Bearer {key}") for key in ("zero", "one", "two", "thr#ee")] == [True] * 4
    assert [keys.allow(f"Bearer {key}") for key in ("three", "thr", "ours", "")] == [False] * 4
    assert [keys.allow(header) for header in ("bearer\t one ", "", "Bearer", "one", "Basic one")] == [
        True,
        *[False] * 4,
    ]
    (tmp_path / "new").write_text("three\n")
    os.replace(tmp_path / "new", file)
    assert [keys.allow(f"Bearer {key}") for key in ("one", "two", "three")] == [False, False, True]
    file.unlink()
    assert keys.allow("Bearer three")
    assert "cannot be read" in caplog.text
    assert "three" not in caplog.text
    file.write_text("")
    assert not keys.allow("Bearer three")
    assert keys.required
    with pytest.raises(UsageError, match="cannot be read"):
        Keys(file=tmp_path / "none")


# ---- routes, ids, origins, logs ----


def test_routes_that_there_are_not(bare: Session) -> None:
    with TestClient(Server(bare).app()) as client:
        for route in ("/v1/responses", "/v1/completions", "/", "/v1/embeddings"):
            reply = client.post(route, json={})
            assert reply.status_code == 404
            assert "/v1/chat/completions" in reply.json()["error"]["message"]
        assert client.get("/v1/chat/completions").headers["allow"] == "POST"
        assert client.get("/v1/chat/completions").status_code == 405
        assert client.get("/v1/models/model").json()["id"] == "model"
        assert client.get("/v1/models/a/b").json()["error"]["code"] == "model_not_found"


def test_a_compressed_body_is_told_so(bare: Session) -> None:
    body = gzip.compress(json.dumps({"messages": SAID}).encode())
    with TestClient(Server(bare).app()) as client:
        reply = client.post("/v1/chat/completions", content=body, headers={"Content-Encoding": "gzip"})
        same = client.post(
            "/v1/chat/completions", json={"messages": SAID, "max_tokens": 1}, headers={"Content-Encoding": "identity"}
        )
    assert (reply.status_code, same.status_code) == (415, 200)
    assert "Content-Encoding 'gzip'" in reply.json()["error"]["message"]


def test_every_answer_has_an_id(bare: Session) -> None:
    with TestClient(Server(bare).app()) as client:
        for path in ("/healthz", "/none", "/v1/models"):
            assert client.get(path, headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
        made = {
            client.get("/healthz", headers={"X-Request-Id": bad}).headers["x-request-id"]
            for bad in ("", "a b", "x" * 500)
        }
        assert len(made) == 3
        assert all(name.startswith("req-") for name in made)


def test_origins(bare: Session) -> None:
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    with TestClient(Server(bare, cors=["https://shop.example"], keys=["k"]).app()) as client:
        reply = client.options("/v1/chat/completions", headers=asked)
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, "https://shop.example")
        other = client.options("/v1/chat/completions", headers={**asked, "Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers
    with TestClient(Server(bare).app()) as client:
        assert "access-control-allow-origin" not in client.get("/healthz", headers=asked).headers


def test_logs_tell_how_it_went_and_no_words(polite: Session, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    said = [{"role": "user", "content": "zebra \ud83d"[:5] + " crossing"}]
    with TestClient(Server(polite).app(), raise_server_exceptions=False) as client:
        for body in ({}, {"stream": True}, {"temperature": "hot zebra"}):
            client.post("/v1/chat/completions", json={"messages": said, "max_tokens": 4, **body})
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "holdfast.access"]
    assert [line["status"] for line in lines] == [200, 200, 400]
    assert all(line["request_id"] and line["ms"] > 0 for line in lines)
    assert any(what.startswith("template:") for what in lines[0]["interventions"])
    assert "zebra" not in caplog.text


def test_a_fault_is_told_without_words(bare: Session, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("zebra")

    monkeypatch.setattr(bare, "turn", broken)
    status, told = ask(bare)
    assert (status, told["error"]["type"]) == (500, "server_error")
    [fault] = [record for record in caplog.records if record.levelname == "ERROR"]
    line = json.loads(JsonLines().format(fault))
    assert line["error"] == "RuntimeError"
    assert "broken" in line["at"][-1]
    assert "zebra" not in json.dumps(line)


def test_limits_are_kept_and_named(bare: Session) -> None:
    limits = Limits(body=400, messages=2, max_tokens=5, choices=2, timeout=0.000001)
    for body, name in (({"messages": SAID * 3}, "messages"), ({"n": 3}, "n"), ({"max_tokens": 6}, "max_tokens")):
        status, told = ask(bare, limits=limits, **{"max_tokens": 5, **body})
        assert (status, told["error"]["message"].split()[0]) == (400, f"'{name}'")
    assert ask(bare, limits=limits, user="x" * 500)[0] == 413
    status, told = ask(bare, limits=limits, max_tokens=5)
    assert (status, told["error"]["code"]) == (429, "Overloaded")
    short = Limits(max_tokens=5)
    with TestClient(Server(bare, limits=short).app()) as client:
        made = client.post("/v1/chat/completions", json={"messages": SAID}).json()["usage"]["completion_tokens"]
    assert made <= 5


def test_log_probabilities_in_process_and_over_http(bare: Session) -> None:
    status, told = ask(bare, logprobs=True, top_logprobs=3, max_tokens=6)
    content = told["choices"][0]["logprobs"]["content"]
    assert status == 200
    assert len(content) == told["usage"]["completion_tokens"]
    text = b"".join(bytes(token["bytes"]) for token in content).decode("utf-8", "replace")
    assert text == told["choices"][0]["message"]["content"]
    for token in content:
        assert [other["logprob"] for other in token["top_logprobs"]] == sorted(
            (other["logprob"] for other in token["top_logprobs"]), reverse=True
        )
        assert token["top_logprobs"][0]["logprob"] == token["logprob"]  # greedy
    streamed = [
        c.get("logprobs")
        for chunk in stream(bare, logprobs=True, top_logprobs=3, max_tokens=6)
        for c in chunk["choices"]
    ]
    (again,) = [odds["content"] for odds in streamed if odds]
    assert [token["bytes"] for token in again] == [token["bytes"] for token in content]
    assert [token["logprob"] for token in again] == pytest.approx([token["logprob"] for token in content], abs=0.05)
    assert ask(bare, top_logprobs=3)[0] == ask(bare, logprobs=True, top_logprobs=21)[0] == 400
    assert ask(bare)[1]["choices"][0]["logprobs"] is None


# ---- edges ----

NUMBERS = r"""-1 0 1 2 -2 10 0.5 -0.0 5e-324 1e-310 1e308 1e400 -1e400 1e-400 NaN Infinity 9007199254740993 true
    false null "1" "" [] [1] {} "\ud83d" """.split()  # noqa: SIM905
HUGE = ["1" + "0" * 400, "-" + "9" * 5000]
NAMES = """temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty seed max_tokens
    max_completion_tokens n logprobs top_logprobs timeout stop stream logit_bias tool_choice""".split()  # noqa: SIM905


def test_every_value_at_and_beyond_its_edge_is_an_answer_or_a_refusal(bare: Session) -> None:
    told: set[tuple[str, int]] = set()
    with TestClient(Server(bare, limits=Limits(max_tokens=4, choices=2)).app()) as client:
        for name in NAMES:
            for value in [*NUMBERS, *HUGE]:
                body = f'{{"messages": [{{"role": "user", "content": "hi"}}], "{name}": {value}, "user": "\U0001f511"}}'
                reply = client.post("/v1/chat/completions", content=body.encode())
                assert reply.status_code in (200, 400, 429 if name == "timeout" else 200), (name, value, reply.text)
                told.add((name, reply.status_code))
                if reply.status_code == 400:
                    assert name in reply.text or "JSON" in reply.text or "the body" in reply.text, (
                        name,
                        value,
                        reply.text,
                    )
        assert client.get("/healthz").status_code == 200
    assert {(name, status) for name in NAMES for status in (200, 400)} <= told


SIGNS = "a\0b \x7f \u200f \ufeff \ufffe \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0010ffff e\u0301 \u202e x"


def test_every_sign_is_taken_everywhere(contracted: Session) -> None:
    said = [{"role": role, "content": SIGNS} for role in ("system", "user", "assistant", "user")]
    for more in (
        {},
        {"stop": [SIGNS]},
        {"user": SIGNS, "model": SIGNS},
        {"metadata": {"tier": "gold"}},
        {"stream": True},
    ):
        with TestClient(Server(contracted).app()) as client:
            reply = client.post("/v1/chat/completions", json={"messages": said, "max_tokens": 4, **more})
        assert reply.status_code == 200, reply.text
    status, told = ask(contracted, metadata={SIGNS: SIGNS})
    assert (status, told["error"]["type"]) == (400, "invalid_request_error")
    for half in (
        {"messages": [{"role": "user", "content": "a\ud83d"}]},
        {"stop": "\udc00"},
        {"model": "\ud83d"},
        {"facts": {"\ud83d": 1}},
    ):
        status, told = ask(contracted, **half)
        assert (status, "half a character" in told["error"]["message"]) == (400, True)
