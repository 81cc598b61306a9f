"""Bodies of every kind: each is answered or refused with 400, and nobody else notices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tiny_gguf import write_tiny_gguf

import runtime
from runtime.errors import UsageError
from runtime.reply import Reply
from runtime.server.app import Server
from runtime.server.metrics import Metrics
from runtime.server.wire import as_json
from runtime.session import Session

SAID = [{"role": "user", "content": "hello"}]
PLAIN = {"messages": SAID, "max_tokens": 3}
RULES = """
version: 1
facts: {tier: [gold, basic], note: text, age: integer}
prompt: {system: 'Tier {tier}, note {note}, age {age}.'}
rules:
  - id: short
    severity: soft
    text: Be short.
    when: {facts: {tier: gold}}
    must: {max_words: 5}
    fixtures:
      pass: [{user: hi, facts: {tier: gold}, reply: yes indeed}]
      fail: [{user: hi, facts: {tier: gold}, reply: a b c d e f}]
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("wire")
    (folder / "rules.yaml").write_text(RULES)
    model = write_tiny_gguf(folder / "model.gguf")
    with runtime.load(model, threads=1, slots=2, rules=folder / "rules.yaml") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def client(session: Session) -> Iterator[TestClient]:
    with TestClient(Server(session).app()) as made:
        yield made


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from([5e-324, 1e-310, 1e308, -0.0, 10**400, "", "1", "\ud83d", "a\udc00", "\0"])
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
ROLES = ["system", "user", "assistant", "developer"]
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(ROLES) | VALUES, "content": st.text(max_size=20) | VALUES},
)
NAMES = st.sampled_from(["tier", "note", "age", "x"])
FIELDS = {
    "messages": st.lists(MESSAGE, max_size=3) | VALUES,
    "facts": st.dictionaries(st.sampled_from(["tier", "note", "age", "x"]), VALUES | st.just("gold"), max_size=3)
    | VALUES,
    "response_format": st.fixed_dictionaries({"type": st.sampled_from(["text", "json_object"])}) | VALUES,
} | dict.fromkeys(("temperature", "top_p", "seed", "stop", "stream", "stream_options", "n", "metadata", "user"), VALUES)


@settings(max_examples=100, deadline=None)
@given(fields=st.fixed_dictionaries({}, optional=FIELDS), warm=st.booleans())
def test_any_body_is_answered_or_refused(client: TestClient, fields: dict[str, Any], warm: bool) -> None:
    body = {**PLAIN, **({"temperature": 1.0} if warm else {}), **fields}
    reply = client.post("/v1/chat/completions", content=json.dumps(body).encode())
    assert reply.status_code in (200, 400), (body, reply.text)
    if reply.status_code == 400:
        assert reply.json()["error"]["type"] == "invalid_request_error"
    assert client.get("/healthz").status_code == 200


def test_facts_are_checked_whoever_wrote_the_system_message(client: TestClient) -> None:
    for said in (SAID, [{"role": "system", "content": "x"}, *SAID]):
        for facts in ({"tier": ["gold"]}, {"tier": "none"}, {"age": {}}, {"height": 5}):
            body = {**PLAIN, "messages": said, "facts": facts}
            reply = client.post("/v1/chat/completions", content=json.dumps(body))
            assert reply.status_code == 400
            assert next(iter(facts)) in reply.json()["error"]["message"]


EDGES = {
    "temperature": [(0, 200), (5e-324, 200), (1e-310, 200), (10, 200), (10.001, 400), (-1e-9, 400), ("0.7", 400)],
    "top_p": [(5e-324, 200), (1, 200), (1.0001, 400), (0, 400), (-1, 400), (True, 400), ("1", 400)],
    "seed": [(-1, 200), (0, 200), (2**64 + 5, 200), (-(10**300), 200), (1.5, 400), (True, 400), ("1", 400)],
    "max_tokens": [(1, 200), (10**30, 200), (0, 400), (-1, 400), (1.0, 400), (True, 400), ("3", 400)],
    "max_completion_tokens": [(1, 200), (0, 400)],
    "stop": [("x", 200), ([], 200), (["a", ""], 200), (["a"] * 17, 400), ([1], 400), ("\ud83d", 400)],
    "stream": [(False, 200), ("yes", 400), (1, 400)],
}


@pytest.mark.parametrize(("name", "value", "status"), [(n, v, s) for n, rows in EDGES.items() for v, s in rows])
def test_sampling_values_at_and_beyond_their_edges(client: TestClient, name: str, value: Any, status: int) -> None:
    for warm in ({}, {"temperature": 1.0}):
        reply = client.post("/v1/chat/completions", content=json.dumps({**PLAIN, **warm, name: value}).encode())
        assert reply.status_code == status, reply.text
        assert status == 200 or name in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"messages": [], "temperature": NaN}', "not valid JSON"),
        (b'{"messages": [], "temperature": -Infinity}', "not valid JSON"),
        (b'{"messages": [], "temperature": 1e999}', "the body.temperature is inf"),
        (
            b'{"messages": [{"role": "user", "content": "\\ud83d"}]}',
            "the body.messages[0].content has half a character",
        ),
        (b'{"messages": [], "facts": {"a": ["\\udc00"]}}', "the body.facts.a[0] has half a character"),
        (b'{"messages": [], "facts": {"\\udc00": 1}}', "a name in the body.facts has half a character"),
        (b'{"messages": [], "stop": "\\ud83d"}', "the body.stop has half"),
        (b'{"messages": [], "response_format": {"type": "\\ud83d"}}', "response_format.type has half"),
        (b'{"messages": [], "facts": {"a": ' + b"[" * 90 + b"]" * 90 + b"}}", "nested more than"),
        (b'{"messages": [], "facts": {"a": 1' + b"0" * 400 + b"}}", "beyond all bounds"),
        (b"\xff\xfe\x00", "not valid JSON"),
    ],
)
def test_bodies_that_no_encoder_would_write(client: TestClient, raw: bytes, message: str) -> None:
    reply = client.post("/v1/chat/completions", content=raw)
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


def test_half_a_character_in_a_reply_is_sent_as_a_replacement() -> None:
    assert as_json({"reply": "a\ud83d"}) == '{"reply":"a\ufffd"}'.encode()


def test_half_a_character_in_a_queue_does_not_break_the_metrics(session: Session) -> None:
    metrics = Metrics(session)
    metrics.note(Reply("", "", fields={"action": "escalate", "queue": "a\ud83d"}))
    assert 'holdfast_escalations_total{queue="none"} 1.0' in metrics.page().decode()


def test_a_schema_that_cannot_be_kept_is_refused(client: TestClient) -> None:
    for schema, message in (({"not": {}}, "uses 'not'"), ({"enum": []}, "enum"), ({"maxLength": -1}, "maxLength")):
        asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        reply = client.post("/v1/chat/completions", content=json.dumps({**PLAIN, "response_format": asked}))
        assert reply.status_code == 400
        assert message in reply.json()["error"]["message"]


def test_deep_grammars_are_refused_before_the_parser_overflows(session: Session) -> None:
    for grammar, message in (("root ::= " + "(" * 9000 + '"a"' + ")" * 9000, "brackets"), ("#" * 70_000, "characters")):
        with pytest.raises(UsageError, match=message):
            session.chat(SAID, grammar=grammar)


def test_a_dead_engine_says_so_and_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = runtime.load(write_tiny_gguf(tmp_path / "model.gguf"), threads=1, slots=2)

    def broken(_: object) -> None:
        raise RuntimeError("no memory left")

    with session, TestClient(Server(session).app()) as client:
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        monkeypatch.setattr(session.engine, "decode", broken)
        codes = [client.post("/v1/chat/completions", content=json.dumps(PLAIN)).status_code for _ in range(3)]
        assert codes[0] in (500, 503)
        assert codes[1:] == [503, 503]
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 503
        assert "restart" in client.get("/healthz").json()["status"]
        assert client.get("/metrics").status_code == 200


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1.5},
        {"seed": "1"},
        {"seed": True},
        {"temperature": float("nan")},
        {"temperature": "1"},
        {"top_p": float("inf")},
        {"max_tokens": 2.0},
        {"max_tokens": -(10**5000)},
        {"stop": 5},
        {"stop": ["a\ud83d"]},
        {"grammar": 5},
        {"timeout": float("inf")},
        {"timeout": -1},
    ],
)
def test_in_process_the_same_values_are_usage_errors(session: Session, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        session.chat(SAID, **options)


def test_a_single_stop_text_is_one(session: Session) -> None:
    whole = session.chat(SAID, max_tokens=24, enforce=False).raw
    stop = whole[4:6]
    assert session.chat(SAID, max_tokens=24, stop=stop, enforce=False).raw == whole[: whole.index(stop)]
