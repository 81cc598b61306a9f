"""Who is asked where the model cannot help: within a budget, behind a circuit breaker, under this bundle's rules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import served
from starlette.testclient import TestClient
from tiny_bundle import write_ruled_bundle

import runtime
from runtime.errors import Cancelled, HoldfastError, UsageError
from runtime.reply import Reply, Usage
from runtime.server.app import Server
from runtime.server.fallback import Breaker, Budget, Fallback, Said, UrlTarget, WithFallback, reasons_of
from runtime.session import Session

BROKEN = [{"role": "user", "content": "My kettle is broken."}]
FACTS = {"tier": "basic", "urgency": "low", "policy": "K7"}
GOOD = {
    "action": "repair",
    "priority": "P2",
    "queue": "support",
    "citations": ["K7"],
    "reply": "Sorry. We will repair it.",
}


TOOK = Usage(30, 20)


class Colleague:
    """Answers what it is told to, or fails."""

    def __init__(self, says: Any, usage: Usage | None = TOOK, *, takes: float = 0.0, ends: str = "stop") -> None:
        self.says, self.usage, self.takes, self.ends = says, usage, takes, ends
        self.asked = 0
        self.told: Any = None

    async def ask(self, *told: Any) -> Said:
        self.asked += 1
        self.told = told[-1]
        await asyncio.sleep(self.takes)
        if isinstance(self.says, Exception):
            raise self.says
        return Said(json.dumps(self.says), self.usage, self.ends)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ruled_bundle(tmp_path_factory.mktemp("fallback") / "bundle", context=1024)


@pytest.fixture(scope="module")
def session(bundle: Path) -> Iterator[Session]:
    with runtime.load(bundle, threads=1, slots=2) as loaded:
        yield loaded


def ask(session: Session, fallback: Fallback, **body: Any) -> tuple[Any, dict[str, float]]:
    with TestClient(Server(WithFallback(session, fallback)).app()) as client:
        told = {"messages": BROKEN, "facts": FACTS, "max_tokens": 8, **body}
        reply = client.post("/v1/chat/completions", json=told)
        assert reply.status_code == 200, reply.text
        page = client.get("/metrics").text
    counts = {
        o: float(page.split(f'holdfast_fallbacks_total{{outcome="{o}"}} ')[1].split("\n")[0]) for o in fallback.asked
    }
    return reply if body.get("stream") else reply.json(), counts


def test_its_reply_is_sent_and_counted(session: Session) -> None:
    told, counts = ask(session, Fallback(Colleague(GOOD)))
    assert json.loads(told["choices"][0]["message"]["content"]) == GOOD
    assert told["holdfast"]["interventions"] == ["fallback:safe"]
    assert told["usage"]["completion_tokens"] == 20
    assert (counts["answered"], sum(counts.values())) == (1, 1)
    streamed, _ = ask(session, Fallback(Colleague(GOOD)), stream=True)
    pieces = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert json.loads("".join(c["delta"].get("content", "") for p in pieces for c in p["choices"])) == GOOD


def test_our_rules_hold_for_it_too(session: Session) -> None:
    lawyer = [{"role": "user", "content": "I will call my lawyer."}]
    told, _ = ask(session, Fallback(Colleague({**GOOD, "reply": "Sorry. A colleague takes over."})), messages=lawyer)
    assert told["holdfast"]["fields"]["queue"] == "legal"  # code set it
    for bad in (
        {**GOOD, "reply": "Sorry, see http://evil.example"},
        {**GOOD, "citations": ["Z9"]},
        {"reply": "hi"},
        "no",
    ):
        told, counts = ask(session, Fallback(Colleague(bad)))
        assert counts["broke_rules"] == 1
        assert "Sorry, I pass this on" in told["choices"][0]["message"]["content"]
        assert not any(what.startswith("fallback") for what in told["holdfast"]["interventions"])


def test_it_is_asked_with_reason_only(session: Session) -> None:
    colleague = Colleague(GOOD)
    ask(session, Fallback(colleague, frozenset({"refused"})))
    form = {"type": "json_object"}
    fallback = Fallback(colleague)
    assert fallback.reason(Reply("x", "x", fields={"action": "repair"})) is None
    assert fallback.reason(Reply("x", "x", fields={"action": "escalate"})) == "escalated"
    assert fallback.reason(Reply("x", "x", fields={"action": "refuse"})) == "refused"
    assert colleague.asked == 0
    with pytest.raises(UsageError, match="no reason bored"):
        reasons_of(["bored"])
    assert ask(session, fallback, response_format=form)[1]["answered"] in (0, 1)


def test_whatever_goes_wrong_with_it_the_reply_is_sent(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    for fault in (HoldfastError("no"), TimeoutError(), ValueError("x"), ModuleNotFoundError("httpx")):
        told, counts = ask(session, Fallback(Colleague(fault)))
        assert counts["failed"] == 1
        assert told["holdfast"]["fields"]["queue"] == "supervisor"
    monkeypatch.setattr(session, "judge", lambda *_: 1 / 0)
    assert ask(session, Fallback(Colleague(GOOD)))[1]["failed"] == 1


def test_its_budget_is_kept(session: Session) -> None:
    clock, colleague = Clock(), Colleague(GOOD)
    prompt = ask(session, Fallback(Colleague(HoldfastError("no"))))[0]["usage"]["prompt_tokens"]
    fallback = Fallback(colleague, budget=Budget(prompt + 8 + 50, clock))
    for expected in (1, 2, 2):  # 50 tokens each; there must be as many left as the next may take
        ask(session, fallback)
        assert colleague.asked == expected
    assert fallback.asked["over_budget"] == 1
    clock.now = 3601
    ask(session, fallback)
    assert colleague.asked == 3


def test_its_budget_holds_for_several_at_once_and_for_one_who_does_not_tell(session: Session) -> None:
    prompt = ask(session, Fallback(Colleague(HoldfastError("no"))))[0]["usage"]["prompt_tokens"]
    slow = Fallback(Colleague(GOOD, takes=0.2), budget=Budget(2 * (prompt + 8)))
    told, _ = ask(session, slow, n=4)
    assert slow.asked["answered"] == 2
    assert slow.asked["over_budget"] == 2
    silent = Fallback(Colleague(GOOD, None), budget=Budget(2 * (prompt + 8) - 1))
    told, _ = ask(session, silent)
    assert told["usage"]["completion_tokens"] > 0
    ask(session, silent)
    assert silent.asked["over_budget"] == 1
    down = Fallback(Colleague(HoldfastError("no")), budget=Budget(prompt + 8))
    assert [ask(session, down)[1]["failed"] for _ in range(2)] == [1, 2]  # what was not answered costs nothing


def test_it_has_what_is_left_of_the_request_s_time(session: Session) -> None:
    breaker = Breaker(failures=1)
    slow = Fallback(Colleague(GOOD, takes=30), breaker=breaker)
    told, counts = ask(session, slow, timeout=1.5)
    assert counts["failed"] == 1
    assert told["holdfast"]["fields"]["queue"] == "supervisor"
    assert breaker.allow()  # one impatient customer tells nothing about it
    stuck = Fallback(Colleague(GOOD, takes=30), breaker=breaker, timeout=0.05)
    ask(session, stuck)
    assert not breaker.allow()


def test_who_leaves_tells_nothing_about_it(session: Session) -> None:
    fallback = Fallback(colleague := Colleague(GOOD, takes=30), breaker=Breaker(failures=1))

    async def leave() -> None:
        turn = WithFallback(session, fallback).turn(BROKEN, FACTS, max_tokens=8)
        waiting = asyncio.create_task(turn.areply())
        while not colleague.asked:
            await asyncio.sleep(0.01)
        turn.cancel()
        with pytest.raises(Cancelled):
            await waiting

    asyncio.run(leave())
    assert fallback.breaker.allow()


def test_what_is_sent_says_how_it_ended_and_what_it_took(session: Session) -> None:
    told, _ = ask(session, Fallback(cut := Colleague(GOOD, takes=0.05, ends="length")), stop=["@@"])
    assert told["choices"][0]["finish_reason"] == "length"
    assert cut.told["stop"] == ["@@"]
    turn = WithFallback(session, Fallback(Colleague(GOOD, takes=0.05))).turn(BROKEN, FACTS, max_tokens=8)
    reply = asyncio.run(turn.areply())
    own = session.chat(BROKEN, FACTS, max_tokens=8)
    assert reply.timings.ttft_ms > 50 + 0.1 * own.timings.total_ms


def test_what_is_no_url_is_said_at_once() -> None:
    for url in ("http://", "http://h:port/v1"):
        with pytest.raises(UsageError, match="no URL to ask"):
            UrlTarget(url, "m")


def test_its_breaker_opens_tries_and_closes(session: Session) -> None:
    clock, colleague = Clock(), Colleague(HoldfastError("no"))
    fallback = Fallback(colleague, breaker=Breaker(failures=2, pause=10, clock=clock))
    for at, says, asked in (
        (0, None, 1), (1, None, 2), (2, None, 2), (11.5, None, 3),  # opened for 10 s; the trial fails: for 20 s
        (22, None, 3), (32, GOOD, 4), (33, GOOD, 5),
    ):  # fmt: skip
        clock.now, colleague.says = at, says or HoldfastError("no")
        told, _ = ask(session, fallback)
        assert colleague.asked == asked, at
    assert told["holdfast"]["interventions"] == ["fallback:safe"]
    assert fallback.asked == {"answered": 2, "broke_rules": 0, "failed": 3, "open": 2, "over_budget": 0}


def test_requests_that_fail_together_open_its_breaker_once() -> None:
    breaker = Breaker(failures=2, pause=10, clock=(clock := Clock()))
    assert [breaker.allow() for _ in range(8)] == [True] * 8
    for _ in range(8):
        breaker.note(well=False)
    clock.now = 10.5
    assert [breaker.allow(), breaker.allow()] == [True, False]
    breaker.note(well=False)
    clock.now = 30
    assert not breaker.allow()  # the trial failed: for 20 s


def test_who_leaves_when_the_reply_is_there_does_not_have_it_asked(session: Session) -> None:
    fallback = Fallback(colleague := Colleague(GOOD))
    turn = WithFallback(session, fallback).turn(BROKEN, FACTS, max_tokens=8)
    whole = turn.inner.areply  # type: ignore[attr-defined]

    async def leave(*, enforce: bool) -> Reply:
        reply: Reply = await whole(enforce=enforce)
        turn.cancel()
        return reply

    turn.inner.areply = leave  # type: ignore[attr-defined]
    with pytest.raises(Cancelled):
        asyncio.run(turn.areply())
    assert colleague.asked == 0


@pytest.mark.slow
def test_another_server_is_asked_for_real(session: Session, bundle: Path) -> None:
    """The other server is a real one; its random model's reply is its own safe one, which keeps our rules."""
    with served(bundle, "--slots", "2", HOLDFAST_API_KEYS="secret") as other:
        target = UrlTarget(f"{other.url}/v1", "test", "secret")
        told, counts = ask(session, Fallback(target))
        assert counts["answered"] == 1
        assert told["holdfast"]["interventions"] == ["fallback:safe"]
        assert ask(session, Fallback(UrlTarget(f"{other.url}/v1", "test", "wrong")))[1]["failed"] == 1
    assert ask(session, Fallback(target))[1]["failed"] == 1


@pytest.mark.slow
def test_a_bundle_is_asked_by_the_command(bundle: Path) -> None:
    with served(bundle, "--fallback", str(bundle), "--slots", "2") as server:
        assert server.ask(messages=BROKEN, facts=FACTS, max_tokens=8).status_code == 200
        assert server.figures()['holdfast_fallbacks_total{outcome="failed"}'] == 1  # its safe reply is no help
