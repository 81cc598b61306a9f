"""A real server process, and what tests ask of it."""

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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

START = "from runtime.cli import main; main()"
SAID = [{"role": "user", "content": "hello"}]


@dataclass
class Served:
    """A running server."""

    process: subprocess.Popen[str]
    url: str
    """Without ``/v1``."""
    logged: list[str] = field(default_factory=list)

    def ask(self, *, timeout: float = 60, **body: Any) -> httpx.Response:
        """One chat completion."""
        told = {"messages": SAID, **body}
        return httpx.post(f"{self.url}/v1/chat/completions", content=json.dumps(told).encode(), timeout=timeout)

    def figures(self) -> dict[str, float]:
        """The metrics page."""
        page = httpx.get(f"{self.url}/metrics", timeout=30).text
        lines = (line.rsplit(" ", 1) for line in page.splitlines() if line and line[0] != "#")
        return {name: float(value) for name, value in lines}

    @property
    def busy(self) -> float:
        """Requests that run or wait."""
        found = self.figures()
        return found["holdfast_num_requests_running"] + found["holdfast_num_requests_waiting"]

    @property
    def engine(self) -> int:
        """The engine's process id."""
        (child,) = (
            Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split() or self._later()
        )
        return int(child)

    def _later(self) -> list[str]:
        threads = Path(f"/proc/{self.process.pid}/task").iterdir()
        return [child for thread in threads for child in (thread / "children").read_text().split()]

    def ready(self, seconds: float = 30) -> None:
        """Wait until requests are taken."""
        wait_until(lambda: httpx.get(f"{self.url}/readyz").status_code == 200, seconds)

    def leave_open(self, **body: Any) -> socket.socket:
        """A connection on which a request was sent and nothing read."""
        url, data = httpx.URL(self.url), json.dumps({"messages": SAID, **body}).encode()
        connection = socket.create_connection((url.host, url.port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        return connection


@contextmanager
def served(model: Path, *options: str, fds: tuple[int, ...] = (), **environment: str) -> Iterator[Served]:
    """``holdfast serve`` on a free loopback port; ended afterwards."""
    command = [sys.executable, "-c", START, "serve", str(model), "--port", "0", "--threads", "1", *options]
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=fds,
    )
    assert process.stdout is not None
    found = Served(process, "")
    reader = threading.Thread(target=lambda: found.logged.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        line = process.stdout.readline()
        assert line.startswith("serving on "), "".join(found.logged)
        found.url = line.split()[-1].removesuffix("/v1")
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=40)
        finally:
            process.kill()
            process.wait()
            reader.join(5)
            process.stdout.close()


def wait_until(reached: Callable[[], bool], seconds: float) -> float:
    """Wait for something; how many seconds it took."""
    started = time.monotonic()
    while not reached():
        assert time.monotonic() < started + seconds, f"not within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - started
