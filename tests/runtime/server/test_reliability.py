"""Long runs: many clients, restarts under load, engines that die, slow clients, an hour's worth of everything.

``HOLDFAST_SOAK_S`` sets the seconds of the soak (1,200 by default), ``HOLDFAST_RESTARTS``, ``HOLDFAST_KILLS`` and
``HOLDFAST_CASES`` the numbers of restarts (50), of dead engines (100) and of schemathesis's cases (20,000).
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from served import SAID, Served, served, wait_until
from tiny_gguf import write_tiny_gguf

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("long") / "model.gguf", context=1024)


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Served]:
    with served(model, "--slots", "4", "--queue", "400") as found:
        yield found


def only(text: str) -> dict[str, Any]:
    """A form that allows one text alone."""
    return {"type": "json_schema", "json_schema": {"name": "m", "schema": {"const": text}}}


def endless(length: int = 400) -> dict[str, Any]:
    schema = {"type": "string", "minLength": length, "maxLength": length}
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}


def words(reply: httpx.Response) -> str:
    """The text of an answer, streamed or not."""
    if not reply.headers["content-type"].startswith("text/event-stream"):
        return str(reply.json()["choices"][0]["message"]["content"])
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


def test_two_hundred_clients_get_their_own_answers(server: Served) -> None:
    """Each is bound to a marker of its own; and, unbound, each gets what it gets alone (but for ties of rounding)."""
    markers = [f"marker-{number:03d}-\U0001f511" for number in range(200)]

    def ask(marker: str) -> tuple[str, str]:
        mine = [{"role": "user", "content": f"Tell me about {marker}."}]
        bound = server.ask(messages=mine, response_format=only(marker), stream=marker[9] in "13579", timeout=300)
        free = server.ask(messages=mine, max_tokens=12, timeout=300)
        return json.loads(words(bound)), words(free)

    with ThreadPoolExecutor(200) as pool:
        found = list(pool.map(ask, markers))
    assert [bound for bound, _ in found] == markers
    alone = [ask(marker)[1] for marker in markers[::10]]
    together = [free for _, free in found][::10]
    same = sum(a == b for a, b in zip(alone, together, strict=True))
    assert same >= 0.8 * len(alone)
    strangers = {other for number, other in enumerate(alone) for mine in [together[number]] if mine != other}
    assert not any(mine in strangers for mine, other in zip(together, alone, strict=True) if mine != other)


def test_fifty_rolling_restarts_lose_nobody(model: Path) -> None:
    """The socket is held by whoever restarts, as systemd does; the next server is up before the last one is told."""
    counts: Counter[str] = Counter()
    stop = threading.Event()

    def load(number: int) -> None:
        with httpx.Client(timeout=120) as client:
            while not stop.is_set():
                told = {"messages": SAID, "max_tokens": 4 + number, "seed": number, "temperature": 1.0}
                try:
                    counts[str(client.post(url, json=told).status_code)] += 1
                except httpx.HTTPError as error:
                    counts[type(error).__name__] += 1

    with socket.create_server(("127.0.0.1", 0), backlog=512) as shared:
        url = f"http://127.0.0.1:{shared.getsockname()[1]}/v1/chat/completions"
        options = ("--fd", str(shared.fileno()), "--slots", "2", "--queue", "64", "--no-logs")
        last = ExitStack()
        last.enter_context(served(model, *options, fds=(shared.fileno(),)))
        clients = [threading.Thread(target=load, args=[number]) for number in range(4)]
        for one in clients:
            one.start()
        for _ in range(int(os.environ.get("HOLDFAST_RESTARTS", "50"))):
            following = ExitStack()
            following.enter_context(served(model, *options, fds=(shared.fileno(),)))
            last.close()
            last = following
        stop.set()
        for one in clients:
            one.join()
        last.close()
    assert set(counts) == {"200"}
    assert counts["200"] > 50


def test_a_hundred_dead_engines_are_clean_errors(server: Served) -> None:
    seconds, back = [], []
    for number in range(int(os.environ.get("HOLDFAST_KILLS", "100"))):
        with ThreadPoolExecutor(3) as pool:
            asked = [
                pool.submit(server.ask, temperature=1.0, seed=seed, response_format=endless(900), max_tokens=1000)
                for seed in range(3)
            ]
            wait_until(lambda: server.busy == 3, 60)
            os.kill(server.engine, random.Random(number).choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT]))
            killed = time.monotonic()
            replies = [one.result() for one in asked]
            seconds.append(time.monotonic() - killed)
        assert {(reply.status_code, reply.json()["error"]["code"]) for reply in replies} == {(503, "EngineLost")}
        server.ready(120)
        assert server.ask(max_tokens=2).status_code == 200
        back.append(time.monotonic() - killed)
    middle = sorted(back)[len(back) // 2]
    print(f"errors after at most {max(seconds):.2f} s, an answer again after {middle:.2f} s (median of {len(back)})")
    assert sorted(seconds)[int(0.95 * len(seconds))] < 1


def resident(process: int) -> tuple[float, int, int]:
    """Megabytes, descriptors and threads of a process."""
    status = Path(f"/proc/{process}/status").read_text()
    memory = int(status.split("VmRSS:")[1].split()[0]) / 1024
    return memory, len(os.listdir(f"/proc/{process}/fd")), int(status.split("Threads:")[1].split()[0])


def test_a_soak_leaves_nothing_behind(server: Served) -> None:
    """Answers, streams, choices, functions, mistakes and clients that leave, for a long time."""
    lasts = float(os.environ.get("HOLDFAST_SOAK_S", "1200"))
    stop = time.monotonic() + lasts

    def one(kind: random.Random) -> None:
        body: dict[str, Any] = {"temperature": 1.0, "seed": kind.randrange(2**70), "max_tokens": kind.randrange(1, 40)}
        match kind.randrange(8):
            case 0:
                assert server.ask(**body, stream=True).status_code == 200
            case 1:
                assert server.ask(**body, n=kind.randrange(1, 5)).status_code == 200
            case 2:
                assert server.ask(**body, temperature_=0, messages=[]).status_code == 400
            case 3:
                left = server.leave_open(**body, stream=True, response_format=endless())
                time.sleep(kind.random() / 10)
                left.close()
            case 4:
                assert server.ask(**body, response_format=only("x" * kind.randrange(40))).status_code == 200
            case 5:
                assert server.ask(**body, logprobs=True, top_logprobs=5).status_code == 200
            case 6:
                assert server.ask(**body, timeout_=1, stop=["a", "\U0001f511"]).status_code == 200
            case _:
                long = [{"role": "user", "content": "word " * kind.randrange(100)}]
                assert server.ask(**body, messages=long).status_code == 200

    def load(number: int) -> None:
        kind = random.Random(number)
        while time.monotonic() < stop:
            one(kind)

    samples = []
    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(load, number) for number in range(6)]
        while time.monotonic() < stop:
            time.sleep(min(2.0, lasts / 60))
            samples.append([*resident(server.process.pid), *resident(server.engine)])
        for done in running:
            done.result()
    wait_until(lambda: server.busy == 0, 10)
    late = np.array(samples[len(samples) // 3 :])
    hours = np.arange(len(late)) * min(2.0, lasts / 60) / 3600
    slopes = np.polyfit(hours, late, 1)[0]
    print("per hour: MB, descriptors, threads of the server and of the engine:", slopes.round(2))
    grown = late[-len(late) // 4 :].mean(0) - late[: len(late) // 4].mean(0)
    assert (grown[[0, 3]] < 5).all(), grown  # MB
    assert (np.abs(grown[[1, 2, 4, 5]]) < 4).all(), grown


def test_slow_clients_are_in_nobody_s_way(server: Served) -> None:
    """Hundreds of connections that say a byte now and then, and readers that take nothing."""
    url = httpx.URL(server.url)
    slow = [socket.create_connection((url.host, url.port)) for _ in range(300)]
    readers = [server.leave_open(stream=True, max_tokens=900, temperature=1.0, seed=seed) for seed in range(8)]
    for turn in range(20):
        for number, one in enumerate(slow):
            try:
                one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n"[turn : turn + 1] if number % 2 else b"")
            except OSError:
                continue
        if turn % 5 == 0:
            assert server.ask(max_tokens=4, timeout=30).status_code == 200
    for one in [*slow, *readers]:
        one.close()
    wait_until(lambda: server.busy == 0, 10)


def test_any_request_of_the_page_is_answered(model: Path, tmp_path: Path) -> None:
    """schemathesis, in an environment of its own: at least 20,000 cases, none of which is an error of the server."""
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "schemathesis>=4"]
    if (done := subprocess.run(install, capture_output=True, text=True)).returncode:
        pytest.skip(f"schemathesis cannot be installed here: {done.stderr.strip()[-200:]}")
    wanted = int(os.environ.get("HOLDFAST_CASES", "20000"))
    names = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
    how = [f"--checks={','.join(names)}", "--suppress-health-check=all", "--request-timeout=60", "--no-color"]
    environment = {**os.environ, "PYTHONPATH": "", "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path / "examples")}
    with served(model, "--slots", "4", "--max-tokens", "8", "--no-logs") as server:

        def run(*more: str) -> int:
            """How many cases there were; none failed."""
            command = [str(python.with_name("schemathesis")), "run", f"{server.url}/openapi.json", *how, *more]
            done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
            assert done.returncode == 0, done.stdout[-6000:]
            (cases,) = re.findall(r"(\d+) generated", done.stdout)
            return int(cases)

        seed, total = 0, run("--phases=coverage,fuzzing", f"--max-examples={min(500, wanted)}")
        while total < wanted:
            seed += 1
            most = min(2000, wanted - total)
            chat = (
                "--include-path=/v1/chat/completions",
                "--phases=fuzzing",
                f"--max-examples={most}",
                f"--seed={seed}",
            )
            total += run(*chat)
        answers = {
            name: value for name, value in server.figures().items() if name.startswith("holdfast_responses_total")
        }
        print(f"{total} cases; chats by status: {answers}")
        assert sum(value for name, value in answers.items() if 'status="5' in name) == 0
