"""An OpenAI-compatible HTTP server around one session.

Routes: ``/v1/chat/completions`` (JSON and SSE), ``/v1/models``, ``/healthz``, ``/readyz``, ``/metrics``.
A full queue is answered with 429 and Retry-After at once; a client that goes away cancels its request; SIGTERM lets
running replies finish. Logs carry ids, sizes and times, never words.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..errors import HoldfastError, Overloaded, UsageError
from .metrics import Metrics
from .wire import Ask, chunk, completion, error_body, read_ask

if TYPE_CHECKING:
    from ..reply import Reply
    from ..session import Session

log = logging.getLogger(__name__)
BODY_CAP = 1 << 20
"""Bytes of a request body."""


class Server:
    """The routes of one session."""

    def __init__(self, session: Session, *, keys: Sequence[str] = (), timeout: float = 120.0) -> None:
        self._session = session
        self._keys = [key.encode() for key in keys if key]
        self._timeout = timeout
        self.metrics = Metrics(session.scheduler)
        self.draining = False

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._metrics),
            ]
        )

    # ---- plain routes ----

    async def _healthz(self, _: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    async def _readyz(self, _: HttpRequest) -> Response:
        ready = not self.draining and self._session.scheduler.alive
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    async def _metrics(self, _: HttpRequest) -> Response:
        return Response(self.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _models(self, request: HttpRequest) -> Response:
        if (refusal := self._unknown_key(request)) is not None:
            return refusal
        entry = {"id": self._session.name, "object": "model", "created": 0, "owned_by": "holdfast"}
        return JSONResponse({"object": "list", "data": [entry]})

    # ---- chat ----

    async def _chat(self, request: HttpRequest) -> Response:
        started = time.perf_counter()
        response = self._unknown_key(request) or await self._answer(request)
        self.metrics.responses.labels(str(response.status_code)).inc()
        log.info("chat %d in %.1f ms", response.status_code, 1e3 * (time.perf_counter() - started))
        return response

    async def _answer(self, request: HttpRequest) -> Response:
        try:
            if self.draining:
                raise Overloaded("the server is shutting down", retry_after=5)
            ask = read_ask(await _body(request), self._session)
            self._session.scheduler.refuse_if_full()
            if ask.stream:
                return await self._streamed(ask)
            reply = await self._whole(request, ask)
            return JSONResponse(completion(self._session.name, reply))
        except HoldfastError as error:
            return _refuse(error)

    async def _whole(self, request: HttpRequest, ask: Ask) -> Reply:
        """The finished reply; a client that goes away cancels it."""
        turn = self._session.turn(ask.messages, ask.facts, timeout=self._timeout, **ask.options)
        task = asyncio.create_task(turn.areply())
        while not (await asyncio.wait({task}, timeout=0.1))[0]:
            if await request.is_disconnected():
                turn.cancel()
        reply = await task
        self.metrics.note(reply)
        return reply

    async def _streamed(self, ask: Ask) -> Response:
        """Server-sent events. The first piece is awaited here, so that an error still has its own status."""
        turn = self._session.turn(ask.messages, ask.facts, timeout=self._timeout, **ask.options)
        pieces = turn.pieces()
        first = await anext(pieces, "")

        async def events() -> AsyncIterator[bytes]:
            make = chunk(self._session.name)
            try:
                yield make({"role": "assistant", "content": first})
                async for piece in pieces:
                    yield make({"content": piece})
                reply = turn.finished()
                self.metrics.note(reply)
                yield make({}, reply=reply)
                if ask.usage:
                    yield make(None, reply=reply)
            except HoldfastError as error:
                yield b"data: " + json.dumps(error_body(error)).encode() + b"\n\n"
            finally:
                turn.cancel()
            yield b"data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    def _unknown_key(self, request: HttpRequest) -> Response | None:
        """A 401 unless the bearer key is one of ours. Every key is compared, in constant time."""
        if not self._keys:
            return None
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        if any(matches):
            return None
        body = {"error": {"message": "the API key is missing or wrong", "type": "authentication_error"}}
        return JSONResponse(body, status_code=401, headers={"WWW-Authenticate": "Bearer"})


class TooLargeError(UsageError):
    """The request body is over the limit."""


async def _body(request: HttpRequest) -> bytes:
    """The body, read no further than the limit."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_CAP:
            raise TooLargeError(
                f"the request body is larger than {BODY_CAP} bytes", next="send fewer or shorter messages"
            )
        parts.append(part)
    return b"".join(parts)


def _refuse(error: HoldfastError) -> Response:
    if isinstance(error, Overloaded):
        headers = {"Retry-After": str(max(1, round(error.retry_after)))}
        return JSONResponse(error_body(error), status_code=429, headers=headers)
    status = 413 if isinstance(error, TooLargeError) else 400 if isinstance(error, UsageError) else 500
    return JSONResponse(error_body(error), status_code=status)


def run_server(
    session: Session,
    *,
    host: str,
    port: int,
    keys: Sequence[str] = (),
    timeout: float = 120.0,
    drain: float = 30.0,
    started: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then let what runs finish (at most ``drain`` seconds).

    ``started`` is called with the base URL once the port is open (``port`` 0 takes a free one).
    """
    import uvicorn

    server = Server(session, keys=keys, timeout=timeout)
    config = uvicorn.Config(
        server.app(), host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=int(drain)
    )

    class Uvicorn(uvicorn.Server):  # type: ignore[misc]  # uvicorn is optional
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started and started is not None:
                bound = self.servers[0].sockets[0].getsockname()
                started(f"http://{bound[0]}:{bound[1]}")

        def handle_exit(self, sig: int, frame: Any) -> None:
            server.draining = True
            super().handle_exit(sig, frame)

    with suppress(KeyboardInterrupt):
        Uvicorn(config).run()
