"""The process that an isolated session's engine lives in, and the socket to it."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .frames import to_line

Told = Mapping[str, Any]
"""What the two processes say to each other."""


class EngineProcess:
    """One process, from its start to its end."""

    def __init__(self, how: Told) -> None:
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", f"{__package__}.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        theirs.close()
        self.pid = self._process.pid
        self._socket = ours
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._write, name="holdfast-outbox", daemon=True).start()
        self.send(how)

    def send(self, message: Told) -> None:
        """Never waits: a thread does the writing."""
        self._outbox.put(to_line(message))

    def _write(self) -> None:
        with suppress(OSError):
            while (line := self._outbox.get()) is not None:
                self._socket.sendall(line)
            self._socket.shutdown(socket.SHUT_WR)

    def messages(self) -> Iterator[Told]:
        """What the process says, until it ends."""
        with suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):  # else it died in the middle of a word
                    yield json.loads(line)

    def end(self) -> None:
        """Ask it to end."""
        self._outbox.put(None)

    def kill(self) -> None:
        """End it now."""
        self._process.kill()

    def wait(self, seconds: float) -> str:
        """How it ended; killed when it has not within ``seconds``."""
        self._outbox.put(None)
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._socket.close()
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
