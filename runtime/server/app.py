"""An OpenAI-compatible HTTP server around one session.

Routes: ``/v1/chat/completions`` (JSON and SSE), ``/v1/models``, ``/healthz``, ``/readyz``, ``/metrics``.
A full queue is answered with 429 and Retry-After at once; a client that goes away cancels its request, wherever it is;
SIGTERM lets running replies finish. When the engine has failed for good, ``/healthz`` and ``/readyz`` are 503 and so is
every request: whoever supervises the process restarts it. Logs carry ids, sizes and times, never words.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ..errors import HoldfastError, Overloaded, UsageError
from ..exchange import Cancelled, Exchange
from .metrics import Metrics
from .wire import as_json, chunk, completion, error_body, read_ask

if TYPE_CHECKING:
    from ..session import Session
    from .wire import Ask

log = logging.getLogger(__name__)
BODY_CAP = 1 << 20
"""Bytes of a request body."""
LEFT = 499
"""The status that is counted where the client left before the answer (nginx's number)."""


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
        alive = self._session.scheduler.alive
        return _json({"status": "ok" if alive else "the engine has failed: restart the process"}, 200 if alive else 503)

    async def _readyz(self, _: HttpRequest) -> Response:
        ready = not self.draining and self._session.scheduler.alive
        return _json({"ready": ready}, 200 if ready else 503)

    async def _metrics(self, _: HttpRequest) -> Response:
        return Response(self.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _models(self, request: HttpRequest) -> Response:
        if (refusal := self._unknown_key(request)) is not None:
            return refusal
        entry = {"id": self._session.name, "object": "model", "created": 0, "owned_by": "holdfast"}
        return _json({"object": "list", "data": [entry]})

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
            self._session.scheduler.refuse_if_full()
            ask, turn = await asyncio.to_thread(self._begin, await _body(request, self._timeout))
            if ask.stream:
                return await self._streamed(request, ask, turn)
            async with _watched(request, turn):
                reply = await turn.areply()
            self.metrics.note(reply)
            return _json(completion(self._session.name, reply))
        except (ClientDisconnect, Cancelled):
            return Response(status_code=LEFT)
        except HoldfastError as error:
            return _refuse(error, alive=self._session.scheduler.alive)
        except Exception:
            log.exception("a request could not be answered")
            return _refuse(HoldfastError("the server could not answer this request"), alive=True)

    def _begin(self, body: bytes) -> tuple[Ask, Exchange]:
        """Read a body and set up its turn: work that may take a while, away from the event loop."""
        ask = read_ask(body, self._session)
        self._session.scheduler.refuse_if_full()
        return ask, self._session.turn(ask.messages, ask.facts, timeout=self._timeout, **ask.options)

    async def _streamed(self, request: HttpRequest, ask: Ask, turn: Exchange) -> Response:
        """Server-sent events. The first piece is awaited here, so that an error still has its own status."""
        pieces = turn.pieces()
        async with _watched(request, turn):
            first = await anext(pieces, "")

        async def events() -> AsyncIterator[bytes]:
            make = chunk(self._session.name)
            try:
                yield make({"role": "assistant", "content": first})
                async with _watched(request, turn):
                    async for piece in pieces:
                        yield make({"content": piece})
                reply = turn.finished()
                self.metrics.note(reply)
                yield make({}, reply=reply)
                if ask.usage:
                    yield make(None, reply=reply)
            except HoldfastError as error:
                yield b"data: " + as_json(error_body(error)) + b"\n\n"
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
        return _json(body, 401, {"WWW-Authenticate": "Bearer"})


@asynccontextmanager
async def _watched(request: HttpRequest, turn: Exchange) -> AsyncIterator[None]:
    """Cancels the turn as soon as the request's client goes away."""
    watch = asyncio.create_task(_gone(request))
    watch.add_done_callback(lambda task: None if task.cancelled() else turn.cancel())
    try:
        yield
    finally:
        watch.cancel()


async def _gone(request: HttpRequest) -> None:
    """Returns when the client has gone away. The body has been read, so nothing else comes."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class TooLargeError(UsageError):
    """The request body is over the limit."""


async def _body(request: HttpRequest, seconds: float) -> bytes:
    """The body, read no further than the limit, and no longer than ``seconds``."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > BODY_CAP:
                    what = f"the request body is larger than {BODY_CAP} bytes"
                    raise TooLargeError(what, next="send fewer or shorter messages")
                parts.append(part)
    except TimeoutError:
        raise UsageError(f"the request body did not come within {seconds:.0f} s", next="send it at once") from None
    return b"".join(parts)


def _json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(as_json(body), status, headers, "application/json")


def _refuse(error: HoldfastError, *, alive: bool) -> Response:
    """429 for too much, 4xx for the caller's own fault, 503 once the engine has failed, else 500."""
    if not alive:
        return _json(error_body(error), 503)
    if isinstance(error, Overloaded):
        return _json(error_body(error), 429, {"Retry-After": str(max(1, round(error.retry_after)))})
    status = 413 if isinstance(error, TooLargeError) else 400 if isinstance(error, UsageError) else 500
    return _json(error_body(error), status)


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
