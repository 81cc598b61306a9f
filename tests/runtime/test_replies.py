"""What a session promises, on every backend: rules, streams, schemas, several replies, odds, kept prefixes."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_folder import write_model
from tiny_gguf import write_tiny_gguf

import runtime
from runtime.errors import UsageError
from runtime.reply import Reply
from runtime.rules import RuleBook, Turn, read_rules
from runtime.schema import schema_grammar
from runtime.session import Session

pytest.importorskip("llguidance")
PLAIN = """
version: 1
prompt: {fallback: "Sorry."}
rules:
  - id: no-digits
    severity: hard
    must_not: {regex: '[0-9#%]'}
    fixtures: {pass: [{user: hi, reply: a}], fail: [{user: hi, reply: a 1}]}
"""
CONTRACT = """
version: 1
contract: {action: [answer, escalate], queue: [general, legal], reply: {kind: text, min: 1, max: 40}}
prompt: {fallback: {action: escalate, queue: general, reply: "Sorry."}}
rules:
  - id: legal
    severity: hard
    when: {user_regex: lawyer}
    must: {action: escalate, queue: legal}
    fixtures:
      pass: [{user: my lawyer, reply: {action: escalate, queue: legal}}]
      fail: [{user: my lawyer, reply: {action: answer, queue: legal}}]
  - id: no-digits
    severity: hard
    must_not: {regex: '[0-9#%]'}
    fixtures: {pass: [{user: hi, reply: a}], fail: [{user: hi, reply: a 1}]}
"""


def onnx_folder(place: Path) -> Path:
    pytest.importorskip("onnxruntime_genai")
    from onnx_export import export_onnx

    model = write_model(place / "hf", hidden=64, ffn=128, layers=1, heads=4)
    return export_onnx(model, place / "onnx", precision="fp32")


@pytest.fixture(scope="module", params=["gguf", pytest.param("onnx", marks=pytest.mark.slow)])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    place = tmp_path_factory.mktemp(request.param)
    model = onnx_folder(place) if request.param == "onnx" else write_tiny_gguf(place / "tiny.gguf", context=512)
    with runtime.load(model, threads=1, slots=3) as loaded:
        yield loaded


@pytest.fixture
def ruled(session: Session) -> Iterator[Any]:
    def with_rules(text: str) -> RuleBook:
        session.rules = read_rules(text)
        return session.rules

    yield with_rules
    session.rules = None


def said(words: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": words}]


def keeps(book: RuleBook, words: str, text: str) -> bool:
    turn = Turn(said(words), facts={})
    return book.parse(text).error is None and all(v.passed for v in book.check(turn, text) if v.severity == "hard")


QUESTIONS = [f"{word} {n}" for n in range(4) for word in ("my lawyer", "hello")]


@pytest.mark.parametrize("rules", [PLAIN, CONTRACT])
def test_no_reply_breaks_a_hard_rule(session: Session, ruled: Any, rules: str) -> None:
    book = ruled(rules)
    done: list[str] = []
    for number, words in enumerate(QUESTIONS):
        how: dict[str, Any] = {"max_tokens": 120, "temperature": 1.0, "seed": number}
        reply = session.chat(said(words), **how)
        done += reply.interventions
        assert keeps(book, words, reply.raw), reply
        turn = session.turn(said(words), **how)
        so_far = ""
        for piece in turn.flow():
            so_far += piece
            assert keeps(book, words, so_far if rules is PLAIN else so_far.removesuffix('"}') + '"}')
        streamed = turn.finished()
        assert so_far == streamed.raw
        assert all(verdict.passed for verdict in streamed.report)
        if not reply.interventions or set(reply.interventions) <= {"set:action", "set:queue"}:
            assert streamed.raw == reply.raw
    assert any(what.startswith("template:") for what in done)  # such a model breaks rules


def test_the_contract_holds_from_the_first_token_on(session: Session, ruled: Any) -> None:
    book = ruled(CONTRACT.replace("'[0-9#%]'", "'§§'").replace("a 1", "a §§"))
    for seed in range(6):
        reply = session.chat(said("hello"), max_tokens=200, temperature=1.0, seed=seed)
        assert reply.interventions == ()
        assert reply.raw == book.contract.dump(reply.fields or {})  # type: ignore[union-attr]
        assert reply.finish_reason == "stop"


def test_a_rule_stream_for_an_event_loop(session: Session, ruled: Any) -> None:
    ruled(CONTRACT)

    async def listen() -> tuple[str, Reply]:
        turn = session.turn(said("hello"), max_tokens=120, temperature=1.0, seed=3)
        text = "".join([piece async for piece in turn.pieces()])
        return text, turn.finished()

    text, reply = asyncio.run(listen())
    assert text == reply.raw == "".join(session.stream(said("hello"), max_tokens=120, temperature=1.0, seed=3))


@pytest.mark.parametrize("rules", [PLAIN, CONTRACT])
def test_the_token_limit_is_told(session: Session, ruled: Any, rules: str) -> None:
    book = ruled(rules)
    for limit in (1, 8, 20):
        reply = session.chat(said("hello"), max_tokens=limit, temperature=1.0, seed=1)
        assert reply.finish_reason == ("stop" if reply.interventions == () else "length")
        turn = session.turn(said("hello"), max_tokens=limit, temperature=1.0, seed=1)
        text = "".join(turn.flow())
        assert keeps(book, "hello", text)
        assert turn.finished().finish_reason == ("stop" if turn.finished().interventions == () else "length")


def test_a_schema_is_kept(session: Session) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 9}, "s": {"enum": ['"', "😀"]}},
        "required": ["n", "s"],
        "additionalProperties": False,
    }
    for seed in range(5):
        reply = session.chat(said("?"), grammar=schema_grammar(schema), temperature=2.0, seed=seed)
        value = json.loads(reply.raw)
        assert (sorted(value), 3 <= value["n"] <= 9, value["s"] in ('"', "😀")) == (["n", "s"], True, True)
        assert reply.finish_reason == "stop"


def test_several_replies_to_one_question(session: Session) -> None:
    how: dict[str, Any] = {"max_tokens": 12, "temperature": 1.0}
    replies = session.choices(said("dice"), n=3, seed=7, **how)
    assert len({reply.raw for reply in replies}) > 1
    for number, reply in enumerate(replies):
        assert reply.raw == session.chat(said("dice"), seed=7 + number, **how).raw
    with pytest.raises(UsageError, match="n is 0"):
        session.choices(said("dice"), n=0)


def test_odds_of_the_tokens(session: Session) -> None:
    reply = session.chat(said("odds"), max_tokens=6, logprobs=3, temperature=1.5, seed=2, stop="\0never")
    assert reply.logprobs is not None
    assert b"".join(chance.bytes for chance in reply.logprobs).decode("utf-8", "replace") == reply.raw
    for chance in reply.logprobs:
        assert len(chance.top) == 3
        assert [other.logprob for other in chance.top] == sorted((o.logprob for o in chance.top), reverse=True)
        assert chance.logprob <= chance.top[0].logprob <= 0
        assert sum(math.exp(other.logprob) for other in chance.top) <= 1 + 1e-6
    assert session.chat(said("odds"), max_tokens=2).logprobs is None
    ended = session.chat(said("odds"), max_tokens=6, logprobs=0, temperature=1.5, seed=2, stop=reply.raw[2:4])
    assert ended.logprobs is not None
    assert b"".join(chance.bytes for chance in ended.logprobs).decode("utf-8", "replace").startswith(ended.raw)
    assert len(ended.logprobs) < ended.usage.completion_tokens


def test_odds_under_rules_show_no_words_that_were_not_checked(session: Session, ruled: Any) -> None:
    ruled(PLAIN.replace("'[0-9#%]'", "'§§'").replace("a 1", "a §§"))
    how: dict[str, Any] = {"max_tokens": 6, "logprobs": 3, "temperature": 1.5, "seed": 2}
    free = session.chat(said("odds"), enforce=False, **how)
    kept = session.chat(said("odds"), stop=free.raw[3:5], **how)
    assert kept.interventions == ()
    assert free.logprobs
    assert kept.logprobs
    assert [len(chance.top) for chance in (free.logprobs[0], kept.logprobs[0])] == [3, 0]


def test_penalties_keep_a_reply_from_repeating_itself(session: Session) -> None:
    plain = session.chat(said("la"), max_tokens=40)
    varied = session.chat(said("la"), max_tokens=40, presence_penalty=2.0, frequency_penalty=2.0, logprobs=0)
    assert varied.logprobs is not None
    assert len({chance.bytes for chance in varied.logprobs}) >= len(varied.logprobs) // 2
    assert varied.raw != plain.raw or len(set(plain.raw)) > 20
    assert session.chat(said("la"), max_tokens=40, top_k=1, temperature=5.0).raw == plain.raw


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": -1},
        {"top_k": 1.5},
        {"min_p": 1.5},
        {"presence_penalty": 3},
        {"frequency_penalty": math.nan},
        {"repetition_penalty": 0},
        {"logprobs": 21},
        {"logprobs": True},
    ],
)
def test_settings_out_of_range_are_named(session: Session, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        session.chat(said("x"), **options)


SYSTEM = {"role": "system", "content": "You answer questions about parcels, politely and in one sentence. " * 2}


def kept_run(model: Path, folder: Path | bool, *questions: str) -> tuple[list[str], int]:
    with runtime.load(model, threads=1, slots=2, prefixes=folder) as session:
        found = [session.chat([SYSTEM, *said(words)], max_tokens=8).raw for words in questions]
        return found, session.scheduler.counters.restored_tokens


def test_a_system_prompt_outlives_the_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf", context=512)
    cold, _ = kept_run(model, False, "one", "another")
    assert not (tmp_path / "tiny.gguf.prefixes").exists()
    assert kept_run(model, True, "one") == (cold[:1], 0)
    (file,) = (tmp_path / "tiny.gguf.prefixes").glob("*.prefix")
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert b"one" not in file.read_bytes().split(b"\n", 2)[1]
    found, restored = kept_run(model, True, "another", "one")
    assert found == cold[::-1]
    assert restored > len(SYSTEM["content"]) / 2
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:-9] + b"x" + whole[-8:], b"", b"{}" + whole):
        file.write_bytes(damaged)
        assert kept_run(model, True, "another") == (cold[1:], 0)
        file.write_bytes(whole)
    model.touch()  # another model, for all we know
    assert kept_run(model, True, "one") == (cold[:1], 0)
    caplog.clear()
    file.parent.chmod(0o777)
    assert kept_run(model, True, "one") == (cold[:1], 0)
    assert "not its owner's alone" in caplog.text


def test_a_cache_type_that_does_not_fit_is_named(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")  # heads of 16 values; a block of q8_0 has 32
    with pytest.raises(UsageError, match="multiple of 32"):
        runtime.load(model, kv="q8_0")
    with pytest.raises(UsageError, match="no KV cache of type 'q9'"):
        runtime.load(model, kv="q9")
