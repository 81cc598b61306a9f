"""The engine in a process of its own: what goes wrong there is a clean error here."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from broken_gguf import setting
from served import wait_until
from tiny_gguf import write_tiny_gguf

from runtime.errors import Cancelled, EngineLost, HoldfastError, Overloaded, UsageError
from runtime.isolated import IsolatedSession, load_isolated

ROOT = Path(__file__).parents[2]
SAID = [{"role": "user", "content": "hello \U0001f600"}]
LONG = {"max_tokens": 900, "temperature": 1.0, "seed": 1}
ENDLESS = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "string", "minLength": 900}}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("isolated") / "model.gguf", context=1024)


@pytest.fixture(scope="module")
def session(model: Path) -> Iterator[IsolatedSession]:
    with load_isolated(model, threads=1, slots=2, queue=2) as loaded:
        yield loaded


def kill(session: IsolatedSession, number: signal.Signals) -> None:
    assert session.pid is not None
    os.kill(session.pid, number)


def test_whoever_serves_loads_no_numbers() -> None:
    """The process that keeps the connections stays small."""
    code = "import sys, runtime.server.serve, runtime.isolated; print({'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


def test_errors_come_as_what_they_are(session: IsolatedSession) -> None:
    for options, kind in (
        ({"temperature": -1}, UsageError),
        ({"timeout": 1e-6}, Overloaded),
        ({"grammar": "("}, UsageError),
    ):
        with pytest.raises(kind):
            session.chat(SAID, **options)
    for said in ([], [{"role": "user", "content": "x" * 5000}], [{"role": "user", "content": "\ud83d"}]):
        with pytest.raises(UsageError):
            session.chat(said)
    assert session.state == "ready"


def test_what_the_engine_logs_is_logged_here(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with load_isolated(model, threads=1, slots=1):
        assert any(record.name == "runtime.engine.backends.llama" for record in caplog.records)


def test_a_full_queue_refuses_at_once(session: IsolatedSession) -> None:
    turns = [session.turn(SAID, **LONG, response_format=ENDLESS) for _ in range(4)]
    ended: list[str] = []

    def wait(number: int) -> None:
        try:
            turns[number].reply()
        except Cancelled:
            ended.append("cancelled")

    waiting = [threading.Thread(target=wait, args=[number]) for number in range(4)]
    for one in waiting:
        one.start()
    wait_until(lambda: session.figures()["running"] + session.figures()["waiting"] == 4, 10)
    with pytest.raises(Overloaded, match="queue is full"):
        session.chat(SAID)
    for turn in turns:
        turn.cancel()
    for one in waiting:
        one.join(10)
    assert ended == ["cancelled"] * 4
    assert session.figures()["running"] == 0


def test_a_turn_can_be_cancelled_before_it_begins(session: IsolatedSession) -> None:
    turn = session.turn(SAID)
    turn.cancel()
    with pytest.raises(Cancelled):
        turn.reply()

    async def later() -> None:
        task = asyncio.create_task(session.achat(SAID, **LONG, response_format=ENDLESS))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(later())
    wait_until(lambda: session.figures()["running"] == 0, 5)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_an_engine_that_ends_is_told_and_replaced(session: IsolatedSession, number: signal.Signals) -> None:
    before = session.figures()["restarts"]
    stream = session.stream(SAID, **LONG, response_format=ENDLESS)
    pieces = [next(stream) for _ in range(3)]
    kill(session, number)
    with pytest.raises(EngineLost, match=number.name):
        pieces.extend(stream)
    with pytest.raises(EngineLost, match="started again"):
        session.chat(SAID)
    assert session.state == "restarting"
    wait_until(lambda: session.state == "ready", 60)
    assert session.chat(SAID, max_tokens=3).usage.completion_tokens <= 3
    assert session.figures()["restarts"] == before + 1


def test_a_stuck_engine_is_killed(session: IsolatedSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.isolated_turn.OVERDUE", 0.2)
    engine = session.pid
    kill(session, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(EngineLost, match="stuck"):
        session.chat(SAID, timeout=0.3)
    assert time.monotonic() - started < 5
    wait_until(lambda: session.pid not in (None, engine), 60)


def test_a_process_that_says_nothing_is_ended(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.isolated.PULSE", 0.1)
    monkeypatch.setattr("runtime.isolated.SILENCE", 0.5)
    with load_isolated(model, threads=1, slots=1) as watched:
        kill(watched, signal.SIGSTOP)
        with pytest.raises(EngineLost, match="SIGKILL"):
            watched.chat(SAID)


def test_a_forked_process_is_told_so(session: IsolatedSession) -> None:
    if (child := os.fork()) == 0:
        try:
            session.chat(SAID)
        except UsageError:
            session.close()
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with pytest.raises(UsageError, match=r"since is a datetime"):
        session.chat(SAID, {"since": datetime(2025, 1, 1)})
    assert session.chat(SAID, max_tokens=1).usage.completion_tokens == 1


def test_what_cannot_be_loaded_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_isolated(tmp_path / "none")
    (tmp_path / "bad.gguf").write_bytes(model.read_bytes()[:2000])
    with pytest.raises(HoldfastError, match=r"bad\.gguf"):
        load_isolated(tmp_path / "bad.gguf")


@pytest.mark.slow
def test_damaged_models_do_not_take_the_host_down(model: Path, tmp_path: Path) -> None:
    """Each is refused, or answers what a damaged model answers. The host goes on."""
    whole = model.read_bytes()
    damaged = [whole[:length] for length in (0, 3, 24, len(whole) // 2, len(whole) - 1)]
    damaged += [
        whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :] for at in (0, 5, 9, 17, 30, 60, 200, 1000, 5000)
    ]
    files = []
    for number, data in enumerate(damaged):
        files.append(tmp_path / f"{number}.gguf")
        files[-1].write_bytes(data)
    for key, value in (("llama.attention.head_count", 0), ("llama.block_count", 2**31), ("llama.embedding_length", 7)):
        files.append(tmp_path / f"{key}.gguf")
        files[-1].write_bytes(whole)
        setting(files[-1], key, "I", value)
    refused = 0
    for file in files:
        try:
            with load_isolated(file, threads=1, slots=1) as loaded:
                loaded.chat(SAID, max_tokens=4)
        except HoldfastError:
            refused += 1
    assert refused >= len(files) // 2


@pytest.mark.slow
def test_a_file_that_is_gone_makes_the_session_fail_and_coming_back_heals_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.isolated.PATIENCE", 1)
    monkeypatch.setattr("runtime.isolated.LONGEST_WAIT", 0.3)
    file = write_tiny_gguf(tmp_path / "model.gguf")
    with load_isolated(file, threads=1, slots=1) as session:
        file.rename(tmp_path / "away.gguf")
        kill(session, signal.SIGKILL)
        wait_until(lambda: session.state == "failed", 60)
        with pytest.raises(EngineLost):
            session.chat(SAID)
        (tmp_path / "away.gguf").rename(file)
        wait_until(lambda: session.state == "ready", 60)
        session.chat(SAID, max_tokens=2)


def test_a_closed_one_still_tells_its_figures(model: Path) -> None:
    with load_isolated(model, slots=1, threads=1) as session:
        session.chat([{"role": "user", "content": "x"}], max_tokens=2)
        session.figures()
    assert session.figures()["reply_tokens"] == 2
