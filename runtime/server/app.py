"""An OpenAI-compatible HTTP server around one session.

Routes: ``/v1/chat/completions`` (JSON and SSE), ``/v1/models``, ``/v1/models/{id}``, ``/openapi.json``,
``/healthz``, ``/readyz``, ``/metrics``. A full queue is answered with 429 and Retry-After at once; a client that goes
away cancels its request, wherever it is. When the engine has failed for good, ``/healthz`` and ``/readyz`` are 503 and
so is every request: whoever supervises the process restarts it. While an engine in its own process is being restarted,
requests are 503 with Retry-After. Logs carry ids, sizes and times, never words.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ..errors import Cancelled, EngineLost, HoldfastError, Overloaded, UsageError
from .ask import Ask, read_ask
from .keys import Keys
from .limits import Limits
from .logs import request_id, tell, tell_fault
from .metrics import Metrics
from .openapi import document
from .origins import origins
from .streams import Piece, cancel, merged, replies_of, with_first
from .wire import Chunks, as_json, completion, error_body, model_entry, rest, usage_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ..reply import Reply
    from .host import Host, Turn

LEFT = 499
"""The status that is counted where the client left before the answer (nginx's number)."""
CHAT = "/v1/chat/completions"


class Server:
    """The routes of one session."""

    def __init__(
        self,
        host: Host,
        *,
        keys: Keys | Sequence[str] = (),
        limits: Limits | None = None,
        cors: Sequence[str] = (),
    ) -> None:
        """``cors``: origins whose pages may ask (``*`` for all)."""
        self._host = host
        self._keys = keys if isinstance(keys, Keys) else Keys(keys)
        self._limits = limits or Limits()
        self._cors = origins(cors)
        self._since = int(time.time())
        self.metrics = Metrics(host)
        self.draining = False

    def app(self) -> Starlette:
        """The ASGI application."""
        cors = Middleware(
            CORSMiddleware,
            allow_origins=self._cors,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["retry-after", "x-request-id"],
        )
        return Starlette(
            routes=[
                Route(CHAT, self._chat, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{id:path}", self._model),
                Route("/openapi.json", self._openapi),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._metrics),
            ],
            middleware=[Middleware(Named, server=self), *([cors] if self._cors else [])],
            exception_handlers={404: self._not_found, 405: self._not_allowed, Exception: self._fault},
        )

    # ---- plain routes ----

    async def _healthz(self, _: HttpRequest) -> Response:
        failed = self._host.state == "failed"
        return _json(
            {"status": "the engine has failed: restart the process" if failed else "ok"}, 503 if failed else 200
        )

    async def _readyz(self, _: HttpRequest) -> Response:
        ready = not self.draining and self._host.state == "ready"
        return _json({"ready": ready}, 200 if ready else 503)

    async def _metrics(self, _: HttpRequest) -> Response:
        page = await asyncio.to_thread(self.metrics.page)
        return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _openapi(self, _: HttpRequest) -> Response:
        return _json(document(self._host.info, self._limits, keys=self._keys.required))

    async def _models(self, request: HttpRequest) -> Response:
        entry = model_entry(self._host.info, self._since)
        return self._unknown_key(request) or _json({"object": "list", "data": [entry]})

    async def _model(self, request: HttpRequest) -> Response:
        if (refusal := self._unknown_key(request)) is not None:
            return refusal
        if request.path_params["id"] != self._host.name:
            return _error(404, f"there is no such model here; it is {self._host.name!r}", "model_not_found")
        return _json(model_entry(self._host.info, self._since))

    async def _not_found(self, request: HttpRequest, _: Exception) -> Response:
        return _error(404, f"there is no route {request.url.path[:200]!r}; ask on {CHAT}", "unknown_route")

    async def _not_allowed(self, request: HttpRequest, error: Exception) -> Response:
        allowed = (error.headers or {}).get("Allow", "") if isinstance(error, HTTPException) else ""
        what = f"{request.method[:20]} is not for {request.url.path[:200]!r}; use {allowed}"
        return _error(405, what, "method_not_allowed", {"Allow": allowed})

    async def _fault(self, request: HttpRequest, error: Exception) -> Response:
        tell_fault(error, request_id=request.state.request_id, path=request.url.path[:200])
        return _json(error_body(_fault_of_ours()), 500)

    def _unknown_key(self, request: HttpRequest) -> Response | None:
        """A 401 unless the bearer key is one of ours."""
        if self._keys.allow(request.headers.get("authorization", "")):
            return None
        what = "the API key is missing or wrong"
        return _error(401, what, "invalid_api_key", {"WWW-Authenticate": "Bearer"}, kind="authentication_error")

    # ---- chat ----

    async def _chat(self, request: HttpRequest) -> Response:
        record = Record(request.state.request_id, self.metrics)
        response = self._unknown_key(request) or await self._answer(request, record)
        if not isinstance(response, StreamingResponse):
            record.close(response.status_code)
        return response

    async def _answer(self, request: HttpRequest, record: Record) -> Response:
        turns: list[Turn] = []
        try:
            self._host.refuse_if_full()
            body = await _body(request, self._limits)
            ask = await asyncio.to_thread(read_ask, body, self._host.info, self._limits)
            record.stream = ask.stream
            self._host.refuse_if_full()
            turns = await asyncio.to_thread(self._begin, ask)
            if ask.stream:
                return await self._streamed(request, ask, turns, record)
            async with _watched(request, turns):
                replies = await replies_of(turns)
            record.note(replies)
            return _json(completion(self._host.name, ask, replies))
        except Exception as error:
            cancel(turns)
            return self._failed(error, record)
        except asyncio.CancelledError:
            cancel(turns)
            if not self.draining:
                raise
            return self._failed(EngineLost("the server was stopped"), record)

    def _begin(self, ask: Ask) -> list[Turn]:
        """Set up the turns: templates and grammars may take a while, so away from the event loop."""
        return [self._host.turn(ask.messages, ask.facts, **ask.options_of(i)) for i in range(ask.choices)]

    async def _streamed(self, request: HttpRequest, ask: Ask, turns: list[Turn], record: Record) -> Response:
        """Server-sent events. The first piece is awaited here, so that an error still has its own status."""
        pieces = merged(turns)
        async with _watched(request, turns):
            first = await anext(pieces)

        async def events() -> AsyncIterator[bytes]:
            status = LEFT
            try:
                async with _watched(request, turns):
                    async for part in self._events(ask, turns, with_first(first, pieces), record):
                        yield part
                status = 200
            except Exception as error:
                refusal = self._failed(error, record)
                status = refusal.status_code
                yield b"data: " + bytes(refusal.body) + b"\n\n"
            finally:
                cancel(turns)
                record.close(status)
            yield b"data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    async def _events(
        self, ask: Ask, turns: Sequence[Turn], pieces: AsyncIterator[Piece], record: Record
    ) -> AsyncIterator[bytes]:
        chunks, held = Chunks.start(self._host.name), ask.held(self._host.info)
        replies: dict[int, Reply] = {}
        for index in range(len(turns)):
            yield chunks.delta(index, {"role": "assistant", "content": ""})
        async for index, piece in pieces:
            if piece is None:
                replies[index] = turns[index].finished()
                for part in rest(chunks, index, replies[index], ask, held=held):
                    yield part
            elif not held:
                yield chunks.delta(index, {"content": piece})
        ordered = [replies[index] for index in range(len(turns))]
        if any(reply.finish_reason == "cancelled" for reply in ordered):
            raise Cancelled("the client left")
        record.note(ordered)
        if ask.usage:
            yield chunks.usage(ordered)

    def _failed(self, error: Exception, record: Record) -> Response:
        """The answer to a request that went wrong: 429 for too much, 4xx for the caller's own fault, 503 while there
        is no engine, else 500."""
        if isinstance(error, ClientDisconnect | Cancelled):
            return Response(status_code=LEFT)
        if not isinstance(error, HoldfastError):
            tell_fault(error, request_id=record.id)
            error = _fault_of_ours()
        if self._host.state == "failed":
            return _json(error_body(error), 503)
        if isinstance(error, Overloaded | EngineLost):
            status = 429 if isinstance(error, Overloaded) else 503
            return _json(error_body(error), status, {"Retry-After": str(max(1, round(error.retry_after)))})
        return _json(error_body(error), _status_of(error))


def _fault_of_ours() -> HoldfastError:
    return HoldfastError(
        "the server could not answer this request", next="look for its X-Request-Id in the server's log"
    )


def _status_of(error: HoldfastError) -> int:
    special: dict[type[HoldfastError], int] = {TooLargeError: 413, EncodedError: 415}
    return special.get(type(error), 400 if isinstance(error, UsageError) else 500)


class Named:
    """Gives each request an id, in the state and in the answer's headers. A server that stops closes connections."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id")
        scope["path"] = scope["path"].rstrip("/") or "/"  # else a redirect, behind which clients leave the body out
        name = scope.setdefault("state", {})["request_id"] = request_id(given.decode("latin-1") if given else None)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", name.encode())]
                if self._server.draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        await self._app(scope, receive, named)


@dataclass
class Record:
    """What is logged and counted of one request."""

    id: str
    metrics: Metrics
    stream: bool = False
    replies: Sequence[Reply] = ()
    started: float = field(default_factory=time.perf_counter)

    def note(self, replies: Sequence[Reply]) -> None:
        """Count finished replies."""
        self.replies = replies
        for reply in replies:
            self.metrics.note(reply)

    def close(self, status: int) -> None:
        """The request is over."""
        seconds = time.perf_counter() - self.started
        self.metrics.close(status, seconds)
        told: dict[str, Any] = {"request_id": self.id, "status": status, "ms": round(1e3 * seconds, 1)}
        if self.replies:
            usage, first = usage_of(self.replies), self.replies[0]
            told |= {"prompt_tokens": usage["prompt_tokens"], "completion_tokens": usage["completion_tokens"]}
            told |= {"ttft_ms": round(first.timings.ttft_ms, 1), "finish_reason": first.finish_reason}
            told["interventions"] = [what for reply in self.replies for what in reply.interventions]
        tell(**told, stream=self.stream)


@asynccontextmanager
async def _watched(request: HttpRequest, turns: Sequence[Turn]) -> AsyncIterator[None]:
    """Cancels the turns as soon as the request's client goes away."""
    watch = asyncio.create_task(_gone(request))
    watch.add_done_callback(lambda task: None if task.cancelled() else cancel(turns))
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


class EncodedError(UsageError):
    """The request body is compressed."""


async def _body(request: HttpRequest, limits: Limits) -> bytes:
    """The body, read no further than the limit, and no longer than it may take."""
    parts, size = [], 0
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise EncodedError(f"a body with Content-Encoding {coding[:40]!r} is not read", next="send it as it is")
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told[:20]) > limits.body:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_timeout):
            async for part in request.stream():
                size += len(part)
                if size > limits.body:
                    raise _too_large(limits)
                parts.append(part)
    except TimeoutError:
        what = f"the request body did not come within {limits.body_timeout:.0f} s"
        raise UsageError(what, next="send it at once") from None
    return b"".join(parts)


def _too_large(limits: Limits) -> TooLargeError:
    return TooLargeError(f"the request body is larger than {limits.body} bytes", next="send fewer or shorter messages")


def _json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(as_json(body), status, headers, "application/json")


def _error(
    status: int,
    message: str,
    code: str,
    headers: Mapping[str, str] | None = None,
    *,
    kind: str = "invalid_request_error",
) -> Response:
    return _json({"error": {"message": message, "type": kind, "param": None, "code": code}}, status, headers)
