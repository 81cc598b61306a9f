"""A help desk in one process: customers chat, the staff see priorities and escalations as they come.

    .venv/bin/python examples/helpdesk work/runs/demo/bundle

Everything stays on this machine: the model is embedded (its engine in a process of its own), cases are kept in memory.
It listens on 127.0.0.1; put your own login and TLS in front before others may reach it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

try:
    from holdfast import IsolatedSession, Reply, load_isolated
    from holdfast.errors import EngineLost, HoldfastError, Overloaded, TooLong
except ModuleNotFoundError:  # in the toolkit's own checkout, where the package has another name
    from runtime import IsolatedSession, Reply, load_isolated
    from runtime.errors import EngineLost, HoldfastError, Overloaded, TooLong

PAGE = Path(__file__).with_name("page.html")
CASES, MESSAGES, LETTERS = 500, 100, 4000
"""Cases that are kept, messages of a case, characters of a message."""
SECONDS, HEARTBEAT = 60.0, 15.0
"""For a reply; between two signs of life to whoever watches."""
ROOM = 256
"""Tokens of the context that are a reply's."""
SAFE = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
}


@dataclass
class Case:
    """One customer's conversation, and what the rules made of its last reply."""

    id: int
    facts: Mapping[str, Any]
    said: list[dict[str, str]] = field(default_factory=list)
    """What the model is shown."""
    shown: list[dict[str, str]] = field(default_factory=list)
    """What the customer reads."""
    action: str | None = None
    priority: str | None = None
    queue: str | None = None
    interventions: tuple[str, ...] = ()
    rules: list[dict[str, Any]] = field(default_factory=list)
    busy: bool = False

    def answered(self, reply: Reply) -> None:
        """Keep a reply."""
        self.said.append({"role": "assistant", "content": reply.raw})
        self.shown.append({"who": "desk", "text": reply.text})
        self.action, self.priority, self.queue = reply.action, reply.priority, reply.queue
        self.interventions = reply.interventions
        self.rules = [asdict(verdict) for verdict in reply.report]

    def board(self) -> dict[str, Any]:
        """What the page is told."""
        return {name: value for name, value in asdict(self).items() if name != "said"}


class Desk:
    """The routes, the cases, and whoever watches them."""

    def __init__(self, session: IsolatedSession) -> None:
        self._session = session
        self._cases: dict[int, Case] = {}
        self._numbers = itertools.count(1000 * secrets.randbelow(1000) + 1)
        """Not those of the run before: a page that is still open must not write into another customer's case."""
        self._watchers: set[asyncio.Queue[Case]] = set()

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/api/info", self._info),
                Route("/api/cases", self._open, methods=["POST"]),
                Route("/api/cases/{id:int}/messages", self._say, methods=["POST"]),
                Route("/api/events", self._events),
            ],
            exception_handlers={HoldfastError: self._refused},
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])],
        )

    async def _page(self, _: Request) -> Response:
        return FileResponse(PAGE, headers=SAFE)

    async def _info(self, _: Request) -> Response:
        info = self._session.info
        rules = {rule.id: rule.text for rule in info.rules}
        return JSONResponse({"name": info.name, "backend": info.backend, "facts": info.facts, "rules": rules})

    async def _open(self, request: Request) -> Response:
        told = await _read(request)
        facts = told.get("facts") if isinstance(told, dict) else None
        if not isinstance(facts, dict):
            return _error(400, "facts must be an object")
        asked = [{"role": "user", "content": "-"}]
        await asyncio.to_thread(self._session.prompt, asked, facts)  # an error for facts that the rules do not know
        while len(self._cases) >= CASES:
            del self._cases[min(self._cases)]
        case = Case(next(self._numbers), facts)
        self._cases[case.id] = case
        self._tell(case)
        return JSONResponse(case.board(), 201)

    async def _say(self, request: Request) -> Response:
        told = await _read(request)
        case, text = self._cases.get(request.path_params["id"]), told.get("text") if isinstance(told, dict) else None
        if case is None:
            return _error(404, "there is no such case")
        if not isinstance(text, str) or not 0 < len(text.strip()) <= LETTERS:
            return _error(400, f"a message has 1 to {LETTERS} characters")
        if case.busy or len(case.said) >= MESSAGES:
            return _error(409, "the case is being answered, or is full")
        case.busy = True
        try:
            reply, case.said = await self._answer([*case.said, {"role": "user", "content": text}], case.facts)
        finally:
            case.busy = False
        case.shown.append({"who": "customer", "text": text})
        case.answered(reply)
        self._tell(case)
        return JSONResponse(case.board())

    async def _answer(self, said: list[dict[str, str]], facts: Mapping[str, Any]) -> tuple[Reply, list[dict[str, str]]]:
        """The reply, and what the model was shown: of a long conversation the end that leaves room for a reply."""
        context = self._session.info.context
        room = min(ROOM, context // 2)
        while True:
            try:
                reply = await self._session.achat(said, facts, timeout=SECONDS)
                if reply.usage.prompt_tokens + room <= context or len(said) < 3:
                    return reply, said
            except TooLong:
                if len(said) < 3:
                    raise
            said = said[2:]

    async def _refused(self, _: Request, error: Exception) -> Response:
        if isinstance(error, EngineLost | Overloaded):
            after = str(max(1, round(error.retry_after)))
            return _error(503, "the assistant is busy; ask again in a moment", {"Retry-After": after})
        return _error(400, error.what if isinstance(error, HoldfastError) else "")

    def _tell(self, case: Case) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(case)

    async def _events(self, _: Request) -> Response:
        """All cases, and then each as it changes, as server-sent events."""

        async def events() -> AsyncIterator[str]:
            news: asyncio.Queue[Case] = asyncio.Queue()
            self._watchers.add(news)
            try:
                for case in list(self._cases.values()):
                    yield f"data: {json.dumps(case.board())}\n\n"
                while True:
                    try:
                        case = await asyncio.wait_for(news.get(), HEARTBEAT)
                        yield f"data: {json.dumps(case.board())}\n\n"
                    except TimeoutError:
                        yield ": nothing new\n\n"  # and so it is noticed who has left
            finally:
                self._watchers.discard(news)

        return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _read(request: Request) -> Any:
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise HTTPException(415, "send JSON")  # what pages of other origins may send without asking is something else
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > 16 * LETTERS:
            return None
        parts.append(part)
    try:
        return json.loads(b"".join(parts))
    except (ValueError, RecursionError):
        return None


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


def main() -> None:
    """Start the help desk."""
    parser = argparse.ArgumentParser(prog="helpdesk", description="A help desk around a Holdfast bundle.")
    parser.add_argument("bundle", help="a bundle whose rules have a contract")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--slots", type=int, default=4, help="replies decoded together")
    parser.add_argument("--threads", type=int, help="decode threads")
    given = parser.parse_args()
    try:
        listening = socket.create_server(("127.0.0.1", given.port))
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        parser.exit(1, f"error: port {given.port} cannot be listened on ({why})\n  next: choose another --port\n")
    try:
        session = load_isolated(given.bundle, slots=given.slots, threads=given.threads)
    except HoldfastError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    with session:
        if session.info.contract is None:
            parser.exit(
                2, f"error: {given.bundle} has no rules with a contract\n  next: make one with `compress pipeline`\n"
            )
        print(f"help desk on http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        config = uvicorn.Config(Desk(session).app(), log_level="warning", timeout_graceful_shutdown=1, lifespan="off")
        uvicorn.Server(config).run([listening])


if __name__ == "__main__":
    main()
