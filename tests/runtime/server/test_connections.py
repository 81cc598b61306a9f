"""Connections: clients that leave, that are slow, that come while the server stops or its engine dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from served import SAID, START, Served, served, wait_until
from tiny_gguf import write_tiny_gguf

from runtime.errors import UsageError
from runtime.server.sockets import inherited, listen, reserved, url_of

ENDLESS = {"max_tokens": 3000, "temperature": 1.0, "seed": 1}
LONG = {
    **ENDLESS,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": {"type": "string", "minLength": 400, "maxLength": 400}},
    },
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("connected") / "model.gguf", context=4096)


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Served]:
    with served(model, "--slots", "2") as found:
        yield found


def test_a_choice_of_several_is_cancelled_with_its_client(server: Served) -> None:
    for stream in (False, True):
        left = server.leave_open(**LONG, n=5, stream=stream)
        wait_until(lambda: server.busy == 5, 10)
        left.close()
        wait_until(lambda: server.busy == 0, 1)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{", 413),
        (b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 404),
    ],
)
def test_what_cannot_be_a_request_is_told_so_at_once(server: Served, sent: bytes, status: int) -> None:
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port), timeout=5) as connection:
        connection.sendall(sent)
        head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
        while not body:
            body = connection.recv(65536)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert status != 404 or "/v1/chat/completions" in json.loads(body)["error"]["message"]
    assert server.ask(max_tokens=1).status_code == 200


def test_a_port_that_is_taken_is_named_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-c", START, "serve", "no such model", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"127.0.0.1:{port} cannot be listened on" in done.stderr
    assert "Traceback" not in done.stderr


def test_logs_are_lines_of_json(server: Served) -> None:
    reply = server.ask(max_tokens=2)
    wait_until(lambda: any(reply.headers["x-request-id"] in line for line in server.logged), 5)
    (told,) = [json.loads(line) for line in server.logged if reply.headers["x-request-id"] in line]
    assert (told["status"], told["completion_tokens"] <= 2) == (200, True)


def test_an_engine_that_dies_is_a_clean_error_and_comes_back(server: Served) -> None:
    replies: list[httpx.Response] = []
    parts: list[str] = []

    def stream() -> None:
        body = {"messages": SAID, **LONG, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as reply:
            parts.extend(reply.iter_lines())

    asking = [threading.Thread(target=lambda: replies.append(server.ask(**LONG))), threading.Thread(target=stream)]
    for one in asking:
        one.start()
    wait_until(lambda: server.busy == 2 and len(parts) > 2, 10)
    os.kill(server.engine, signal.SIGSEGV)
    killed = time.monotonic()
    for one in asking:
        one.join()
    assert time.monotonic() - killed < 5
    assert (replies[0].status_code, replies[0].json()["error"]["code"]) == (503, "EngineLost")
    assert int(replies[0].headers["Retry-After"]) >= 1
    assert json.loads(parts[-4].removeprefix("data: "))["error"]["code"] == "EngineLost"
    assert parts[-2] == "data: [DONE]"
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    while (reply := server.ask(max_tokens=2)).status_code != 200:
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "EngineLost")
        assert time.monotonic() < killed + 60
        time.sleep(0.05)
    assert server.figures()["holdfast_engine_restarts_total"] == 1
    assert server.figures()['holdfast_engine_state{state="ready"}'] == 1


def test_a_reply_s_pieces_do_not_wait_for_acknowledgements() -> None:
    with reserved("127.0.0.1", 0) as listening:
        listen(listening)
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as taken:
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_inherited_socket_is_one_that_listens() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams, open(os.devnull) as nothing:
        for fd, what in (
            (datagrams.fileno(), "no stream socket"),
            (nothing.fileno(), "no socket"),
            (9999, "no socket"),
        ):
            with pytest.raises(UsageError, match=f"file descriptor {fd} is {what}"):
                inherited(fd)
        assert datagrams.fileno() >= 0
        datagrams.getsockname()  # it was left open


def test_where_it_listens_is_told_for_every_kind_of_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "s"))
        assert url_of(local) == f"http://unix:{tmp_path}/s:"  # as nginx's proxy_pass has it
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert url_of(listening) == f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.slow
def test_whoever_is_cut_off_by_a_second_signal_is_told(model: Path) -> None:
    with served(model, "--slots", "1") as server, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.ask, **ENDLESS, response_format=LONG["response_format"], n=8)
        wait_until(lambda: server.busy == 8, 10)
        for _ in range(2):
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        told = waiting.result(10)
        assert (told.status_code, told.json()["error"]["code"]) == (503, "EngineLost")


@pytest.mark.slow
def test_a_stopped_server_lets_everybody_finish(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as shared, ThreadPoolExecutor(4) as pool:
        how = {"fds": (shared.fileno(),)}
        with served(model, "--fd", str(shared.fileno()), **how) as first:
            asked = [pool.submit(first.ask, **LONG) for _ in range(3)]
            wait_until(lambda: first.busy == 3, 10)
            first.process.send_signal(signal.SIGTERM)
            assert [one.result().status_code for one in asked] == [200, 200, 200]
            assert first.process.wait(timeout=20) == 0
        late = pool.submit(httpx.get, f"{first.url}/healthz", timeout=60)  # it waits in the socket for the next server
        with served(model, "--fd", str(shared.fileno()), **how) as second:
            assert late.result().status_code == 200
            assert second.url == first.url


SLOW = """
import sys
from runtime.isolated import load_isolated
from runtime.server.limits import Limits
from runtime.server.serve import run_server
from runtime.server.sockets import reserved
limits = Limits(header_timeout=1.0, body_timeout=1.0, stall=0.5, connections=20)
with load_isolated(sys.argv[1], slots=2, threads=1) as session:
    run_server(session, reserved("127.0.0.1", 0), limits=limits, started=lambda url: print(url, flush=True))
"""


@pytest.fixture(scope="module")
def impatient(model: Path) -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(model)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def connect(url: str, data: bytes) -> socket.socket:
    address = httpx.URL(url)
    made = socket.create_connection((address.host, address.port), timeout=10)
    made.sendall(data)
    return made


@pytest.mark.parametrize(
    "data",
    [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /he"],
    ids=["nothing", "half a head", "half a second head"],
)
def test_a_head_that_does_not_come_ends_the_connection(impatient: str, data: bytes) -> None:
    slow = connect(impatient, data)
    found = b""
    while part := slow.recv(4096):
        found += part
    assert (b'"ok"' in found) == (data.count(b"GET") == 2)


def test_a_body_that_does_not_come_is_refused(impatient: str) -> None:
    slow = connect(impatient, b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n{")
    assert slow.recv(4096).startswith(b"HTTP/1.1 400")


def push(end: socket.socket, rest: bytes, seconds: float) -> None:
    """Write ``rest``, and then more, for so long."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            rest = rest[end.send(rest or b"G") :]
        except BlockingIOError:
            time.sleep(0.02)


@pytest.mark.slow
def test_whoever_does_not_read_is_cut_off(impatient: str) -> None:
    """More is asked for than the buffers of a connection hold, and nothing is read."""
    slow = connect(impatient, b"")
    slow.setblocking(False)
    with pytest.raises(ConnectionError):  # closed from the other side
        push(slow, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 4000, seconds=20)
    assert httpx.get(f"{impatient}/healthz").status_code == 200


def test_too_many_connections_are_refused_and_others_go_on(impatient: str) -> None:
    address = httpx.URL(impatient)
    many = [socket.create_connection((address.host, address.port)) for _ in range(25)]
    assert httpx.get(f"{impatient}/healthz").status_code == 503
    for one in many:
        one.close()
    wait_until(lambda: httpx.get(f"{impatient}/healthz").status_code == 200, 5)
