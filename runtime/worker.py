"""The engine's process: ``python -m holdfast.worker FD``, started by `isolated.IsolatedSession` and by nobody else.

It loads a session, says what it is, and then answers: ``{"id", "ask"}`` with pieces and a reply or an error,
``{"id", "cancel"}`` by stopping, ``{"id", "figures"}`` with numbers. It ends when the other side does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any

from .answers import Session
from .errors import Cancelled, HoldfastError
from .exchange import Exchange
from .frames import LINE_CAP, error_to, info_to, reply_to, to_line
from .session import load

log = logging.getLogger(__name__)


class Worker:
    """One session behind one socket."""

    def __init__(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._session = session
        self._reader = reader
        self._writer = writer
        self._turns: dict[int, Exchange | None] = {}
        """What is being answered; None while it is being set up."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Answer until the other side is gone."""
        self._say({"ready": info_to(self._session.info)})
        while line := await self._reader.readline():
            message = json.loads(line)
            number = message["id"]
            if "cancel" in message:
                self._cancel(number)
            elif "figures" in message:
                self._say({"id": number, "figures": self._session.figures(), "state": self._session.state})
            elif "ask" in message:
                self._turns[number] = None
                self._begin(self._answer(number, message["ask"]))
            else:
                self._begin(self._tell(number, message))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cancel(self, number: int) -> None:
        turn = self._turns.get(number)
        if turn is not None:
            turn.cancel()
        else:  # it is over, or notices when it is set up
            self._turns.pop(number, None)

    async def _answer(self, number: int, ask: Mapping[str, Any]) -> None:
        try:
            turn = await asyncio.to_thread(self._session.turn, ask["messages"], ask["facts"], **ask["options"])
            if number not in self._turns:
                raise Cancelled("the turn was cancelled", next="ask again")
            self._turns[number] = turn
            if ask["stream"]:
                async for piece in turn.pieces(enforce=ask["enforce"]):
                    self._say({"id": number, "piece": piece})
                reply = turn.finished()
            else:
                reply = await turn.areply(enforce=ask["enforce"])
            told: dict[str, Any] = {"reply": reply_to(reply)}
        except HoldfastError as error:
            told = {"error": error_to(error)}
        except Exception as error:
            log.error("a request failed: %s", type(error).__name__)
            told = {"error": error_to(HoldfastError(f"the request failed: {type(error).__name__}"))}
        self._turns.pop(number, None)
        self._say({"id": number, **told, "state": self._session.state})

    async def _tell(self, number: int, message: Mapping[str, Any]) -> None:
        """What needs no generation."""
        session = self._session
        try:
            if "judge" in message:
                given = message["judge"]
                reply = await asyncio.to_thread(session.judge, given["messages"], given["facts"], given["text"])
                told: dict[str, Any] = {"reply": reply_to(reply)}
            else:
                given = message["prompt"]
                told = {"messages": await asyncio.to_thread(session.prompt, given["messages"], given["facts"])}
        except HoldfastError as error:
            told = {"error": error_to(error)}
        self._say({"id": number, **told})

    def _say(self, message: Mapping[str, Any]) -> None:
        self._writer.write(to_line(message))


class _Told(logging.Handler):
    """Hands log records to the other side, which writes them as it writes its own."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._writer = writer
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        """Called from any thread."""
        told = {"log": [record.levelno, record.name, self.format(record)]}
        with suppress(RuntimeError):  # the loop is gone
            self._loop.call_soon_threadsafe(self._writer.write, to_line(told))


async def _serve(end: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=end, limit=LINE_CAP)
    how = json.loads(await reader.readline())
    logging.basicConfig(level=how.pop("log"), handlers=[_Told(writer)], format="%(message)s")
    try:
        session = await asyncio.to_thread(load, how.pop("path"), **how)
    except HoldfastError as error:
        writer.write(to_line({"failed": error_to(error)}))
        await writer.drain()
        return
    session.warm_up()
    await Worker(session, reader, writer).run()
    await asyncio.wait_for(asyncio.to_thread(session.close), 10)


def main() -> None:
    """Serve the socket whose number is the argument. Signals are for the process that started this one."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        asyncio.run(_serve(socket.socket(fileno=int(sys.argv[1]))))
    finally:
        os._exit(0)  # whatever a thread of the engine still does, nobody waits for it


if __name__ == "__main__":
    main()
