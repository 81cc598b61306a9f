"""The process around the routes: connections that are too slow are cut, and stopping loses nobody."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import UsageError
from .app import Server
from .limits import Limits
from .sockets import listen, url_of
from .wire import as_json, error_body

if TYPE_CHECKING:
    from .host import Host
    from .keys import Keys

KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open: longer than clients keep theirs, so that they close first."""
SETTLE = 1.0
"""Seconds for which a server that stops keeps idle connections: a request may be on its way on them."""


def _no_http() -> list[h11.Event]:
    body = as_json(error_body(UsageError("this is no valid HTTP request", next="send HTTP/1.1")))
    head = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
    return [h11.Response(status_code=400, headers=head), h11.Data(data=body), h11.EndOfMessage()]


def patient(limits: Limits) -> type[H11Protocol]:
    """uvicorn's HTTP protocol with an end to patience: the head of each request must come within
    ``limits.header_timeout`` of its first byte (of the connection, for the first), and a reader that takes nothing for
    ``limits.stall`` is cut off, which cancels its reply."""

    class Patient(H11Protocol):  # type: ignore[misc]  # uvicorn is optional
        _head: asyncio.TimerHandle | None = None
        _stalled: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:
                self._await_head()
            else:
                self._clear_head()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
                self._await_head()  # the next one came with it, in part

        def connection_lost(self, exc: Exception | None) -> None:
            self._clear_head()
            if self._stalled is not None:
                self._stalled.cancel()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            """What is no HTTP gets OpenAI's error, too, unless a reply has begun."""
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self.transport.write(b"".join(self.conn.send(event) or b"" for event in _no_http()))
            self.transport.close()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stalled = self.loop.call_later(limits.stall, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None

        def _await_head(self) -> None:
            if self._head is None:
                self._head = self.loop.call_later(limits.header_timeout, self.transport.abort)

        def _clear_head(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

    return Patient


def run_server(
    host: Host,
    listening: socket.socket,
    *,
    keys: Keys | Sequence[str] = (),
    limits: Limits | None = None,
    cors: Sequence[str] = (),
    drain: float = 30.0,
    grace: float = 0.0,
    started: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then let what runs finish (at most ``drain`` seconds).

    ``grace``: seconds for which, after SIGTERM, connections are still taken while ``/readyz`` is 503, so that a load
    balancer can look. ``listening``: see `sockets`; what waits in one that is inherited (from systemd, a parent
    process) is taken by the next one when this process stops. ``started`` is called with the base URL.
    """
    limits = limits or Limits()
    server = Server(host, keys=keys, limits=limits, cors=cors)
    config = uvicorn.Config(
        server.app(),
        http=patient(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=int(drain),
    )
    listen(listening)
    with suppress(KeyboardInterrupt):
        _Uvicorn(config, server, grace, started).run([listening])


class _Uvicorn(uvicorn.Server):  # type: ignore[misc]  # uvicorn is optional
    """uvicorn that says where it listens and, when it is told to stop, serves those who come meanwhile."""

    def __init__(
        self, config: uvicorn.Config, server: Server, grace: float, started: Callable[[str], None] | None
    ) -> None:
        super().__init__(config)
        self._server, self._grace, self._told = server, grace, started
        self._stopping: float | None = None
        self._closed: float | None = None

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started and self._told is not None:
            self._told(url_of(sockets[0]))

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self._stopping is not None:  # asked twice
            self.should_exit = self.force_exit = True
        self._server.draining, self._stopping = True, self._stopping or time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second. Stop taking connections, let those that were taken ask, then end."""
        done: bool = await super().on_tick(counter)
        if self._stopping is None or done:
            return done
        now = time.monotonic()
        if self._closed is None:
            if now < self._stopping + self._grace:
                return False
            self._closed = now
            for one in self.servers:
                one.close()
        connections = self.server_state.connections
        expected = any(one.cycle is None for one in connections)  # until their time for a head is up
        return not connections or (now > self._closed + SETTLE and not expected)
