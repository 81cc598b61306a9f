from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from tiny_gguf import write_tiny_gguf

SAID = [{"role": "user", "content": "hello"}]


@contextmanager
def server(model: Path, *options: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A real server process on a free loopback port."""
    start = "from runtime.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", start, "serve", str(model), "--port", "0", "--threads", "1", *options],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with started(process) as found:
        yield found


@contextmanager
def started(process: subprocess.Popen[str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The URL of a server that is starting; it is ended afterwards."""
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving on "), process.stderr and process.stderr.read()
        yield line.split()[-1], process
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("served") / "model.gguf", context=4096)


@pytest.fixture(scope="module")
def base(model: Path) -> Iterator[str]:
    with server(model, "--slots", "4") as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(base: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=base, api_key="unused", max_retries=0)


def test_the_openai_client_gets_an_answer(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="model", messages=SAID, max_tokens=9, temperature=0)
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert reply.usage is not None
    assert 0 < reply.usage.completion_tokens <= 9
    assert client.models.list().data[0].id == "model"


def test_streaming_gives_the_same_text(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="model", messages=SAID, max_tokens=20, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="model",
            messages=SAID,
            max_tokens=20,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage or chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


def test_stop_and_json_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    reply = client.chat.completions.create(
        model="model",
        messages=SAID,
        max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert reply.choices[0].finish_reason == "stop"
    assert set(json.loads(reply.choices[0].message.content or "")) == {"ok"}
    whole = client.chat.completions.create(model="model", messages=SAID, max_tokens=20).choices[0].message.content
    assert whole is not None
    cut = client.chat.completions.create(model="model", messages=SAID, max_tokens=20, stop=whole[3:5])
    assert cut.choices[0].message.content == whole[: whole.index(whole[3:5])]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "not valid JSON"),
        (b"[" * 50_000, 400, "not valid JSON"),
        (b"[]", 400, "not an object"),
        (b"{}", 400, "messages"),
        (b'{"messages": [{"role": "robot", "content": "x"}]}', 400, "messages[0]"),
        (b'{"messages": [{"role": "user", "content": 5}]}', 400, "content must be text"),
        (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": "9"}', 400, "max_tokens"),
        (b'{"messages": [{"role": "user", "content": "x"}], "n": 17}', 400, "'n'"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": -3}', 400, "temperature"),
        (b'{"messages": [{"role": "user", "content": "x"}], "tools": [{}]}', 400, "tools"),
        (
            b'{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "xml"}}',
            400,
            "response_format",
        ),
        (b'{"messages": [{"role": "user", "content": "' + b"x" * (1 << 20) + b'"}]}', 413, "body is larger"),
    ],
)
def test_bad_bodies(base: str, body: bytes, status: int, message: str) -> None:
    reply = httpx.post(f"{base}/chat/completions", content=body)
    assert reply.status_code == status
    assert message in reply.json()["error"]["message"]


def test_health_and_metrics(base: str, client: openai.OpenAI) -> None:
    root = base.removesuffix("/v1")
    client.chat.completions.create(model="model", messages=[{"role": "user", "content": "zebra"}], max_tokens=3)
    assert httpx.get(f"{root}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{root}/readyz").json() == {"ready": True}
    page = httpx.get(f"{root}/metrics").text
    assert 'holdfast_responses_total{status="200"}' in page
    assert "holdfast_time_to_first_token_seconds_bucket" in page
    assert "zebra" not in page


def test_a_client_that_goes_away_frees_its_slot(base: str) -> None:
    root = base.removesuffix("/v1")
    body = {"messages": SAID, "max_tokens": 4000, "temperature": 1.0, "seed": 3, "stream": True}
    long = {**body, "stop": [], "response_format": None}
    with httpx.stream("POST", f"{base}/chat/completions", json=long) as stream:
        next(stream.iter_lines())
    deadline = time.monotonic() + 5
    while "holdfast_running 0.0" not in httpx.get(f"{root}/metrics").text:
        assert time.monotonic() < deadline, "the request still runs"
        time.sleep(0.02)


RULED = """
version: 1
rules:
  - id: short
    severity: hard
    text: Be short.
    must: {max_words: 2}
    fixtures: {pass: [{user: hi, reply: yes indeed}], fail: [{user: hi, reply: a b c d e f}]}
"""
RULED_SERVER = """
import sys
from runtime.session import load
from runtime.server.serve import run_server
from runtime.server.sockets import reserved
with load(sys.argv[1], slots=2, threads=1, rules=sys.argv[2]) as session:
    run_server(session, reserved("127.0.0.1", 0), started=lambda url: print("serving on", url + "/v1", flush=True))
"""


@pytest.fixture(scope="module")
def ruled(model: Path) -> Iterator[str]:
    """A server whose rules are enforced: a stream comes in one piece, after it was checked."""
    rules = model.with_name("rules.yaml")
    rules.write_text(RULED)
    command = [sys.executable, "-c", RULED_SERVER, str(model), str(rules)]
    with started(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)) as (url, _):
        yield url


def figures(base: str) -> dict[str, float]:
    page = httpx.get(f"{base.removesuffix('/v1')}/metrics").text
    return {line.split()[0]: float(line.split()[1]) for line in page.splitlines() if line and line[0] != "#"}


def busy(base: str) -> float:
    found = figures(base)
    return found["holdfast_running"] + found["holdfast_queue_depth"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("rules", [False, True])
def test_whoever_leaves_is_forgotten_running_or_queued(base: str, ruled: str, stream: bool, rules: bool) -> None:
    url = httpx.URL(ruled if rules else base)
    body = {"messages": SAID, "max_tokens": 3000, "temperature": 1.0, "response_format": ENDLESS, "stream": stream}
    sockets = [leave_open(url, {**body, "seed": seed}) for seed in range(12)]
    wait_until(lambda: busy(str(url)) >= 10, 10)
    for one in sockets:
        one.close()
    wait_until(lambda: busy(str(url)) == 0, 0.5)
    made = figures(str(url))["holdfast_reply_tokens_total"]
    time.sleep(0.2)
    assert figures(str(url))["holdfast_reply_tokens_total"] == made


def leave_open(url: httpx.URL, body: dict[str, object]) -> socket.socket:
    """A connection on which a request was sent and nothing read."""
    data = json.dumps(body).encode()
    connection = socket.create_connection((url.host, url.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def wait_until(reached: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def test_overload_is_429_at_once_and_recovers(model: Path) -> None:
    with server(model, "--slots", "1", "--queue", "1") as (base, _):
        body = {"messages": SAID, "max_tokens": 3000, "temperature": 1.0, "seed": 1, "response_format": ENDLESS}
        times, codes = [], []

        def ask(_: int) -> None:
            started = time.perf_counter()
            reply = httpx.post(f"{base}/chat/completions", json=body, timeout=60)
            codes.append(reply.status_code)
            if reply.status_code == 429:
                times.append(time.perf_counter() - started)
                assert int(reply.headers["Retry-After"]) >= 1

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(ask, range(12)))
        assert 429 in codes
        assert 200 in codes
        assert sorted(times)[len(times) // 2] < 5
        after = httpx.post(f"{base}/chat/completions", json={"messages": SAID, "max_tokens": 2}, timeout=60)
        assert after.status_code == 200


ENDLESS = {
    "type": "json_schema",
    "json_schema": {"name": "s", "schema": {"type": "string", "minLength": 400, "maxLength": 400}},
}


def test_keys(model: Path) -> None:
    with server(model, HOLDFAST_API_KEYS="first,second") as (base, _):
        for key, status in (("second", 200), ("wrong", 401), ("", 401)):
            reply = httpx.get(f"{base}/models", headers={"Authorization": f"Bearer {key}"} if key else {})
            assert reply.status_code == status
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=base, api_key="no").chat.completions.create(model="m", messages=SAID)  # type: ignore[arg-type]


def test_sigterm_lets_running_replies_finish(model: Path) -> None:
    with server(model, "--slots", "2") as (base, process):
        found: list[httpx.Response] = []
        body = {"messages": SAID, "max_tokens": 3000, "temperature": 1.0, "seed": 1, "response_format": ENDLESS}
        asking = threading.Thread(
            target=lambda: found.append(httpx.post(f"{base}/chat/completions", json=body, timeout=60))
        )
        asking.start()
        root = base.removesuffix("/v1")
        while "holdfast_running 1.0" not in httpx.get(f"{root}/metrics").text:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        asking.join()
        assert found[0].status_code == 200
        assert found[0].json()["choices"][0]["finish_reason"] == "stop"
        assert process.wait(timeout=20) in (0, -signal.SIGTERM)
