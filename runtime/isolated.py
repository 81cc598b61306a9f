"""A session whose engine lives in a process of its own: a native crash there is a clean error here, and the engine is
started again.

Whoever waits when the process ends gets EngineLost within a moment; so does whoever asks before the next one is up.
The next process starts at once. Each further one that ends before it has answered anything waits twice as long as the
one before it (`FIRST_WAIT` at first, `LONGEST_WAIT` at most). After `PATIENCE` processes in a row that did not even
come up, `IsolatedSession.state` is ``failed``; starting goes on.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict, Unpack

from .engine.door import same_process
from .engine.template import Message
from .engine_process import EngineProcess, Told
from .errors import ArtifactError, EngineLost, HoldfastError, Overloaded
from .frames import error_from, error_to, info_from, reply_from
from .info import Info
from .isolated_turn import OVERDUE, IsolatedTurn, Sink
from .reply import Options, Reply, Settings
from .talking import Messages, Talking
from .values import check_loading, check_turn, check_values

log = logging.getLogger(__name__)
FIRST_WAIT, LONGEST_WAIT = 0.25, 30.0
"""Seconds between the end of a process and the start of the next."""
SLOTS, QUEUE = 16, 1024
"""As in `load`."""
PATIENCE = 5
PULSE, SILENCE = 5.0, 20.0
"""Seconds between two looks whether the engine's process answers, and after which one that does not is killed."""
CLOSING = 15.0
"""Seconds for an engine to put its things away."""


class Loading(TypedDict, total=False):
    """The keyword arguments of `load`."""

    threads: int | None
    slots: int
    context: int | None
    rules: Path | str | None
    queue: int
    trust: bool
    lookup: bool
    kv: str | None
    prefixes: bool | Path | str | None
    template: str | None


def load_isolated(path: Path | str, **how: Unpack[Loading]) -> IsolatedSession:
    """`load` into a process of its own. Returns when the model is loaded; raises what `load` raises, and ArtifactError
    for a model that ends the process."""
    return IsolatedSession(Path(path), **how)


def _ring(heard: threading.Event, _: Told) -> None:
    heard.set()


class IsolatedSession(Talking):
    """A `Session` for an app that must outlive its engine; whoever asks gets EngineLost when it ends meanwhile.
    Thread-safe; close it, or use it as a context manager."""

    def __init__(self, path: Path, **how: Unpack[Loading]) -> None:
        """Returns when the model is loaded."""
        check_loading({"slots": SLOTS, "queue": QUEUE, **how})
        told = {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in how.items()}
        self._path = path
        self._queue = how.get("queue", QUEUE)
        bound = self._queue + how.get("slots", SLOTS)  # of what we let through, some may wait for a slot that is free
        self._how: dict[str, Any] = {**told, "path": str(path.absolute()), "queue": bound}
        self._numbers = itertools.count()
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._sinks: dict[int, Sink] = {}
        self._asked: set[int] = set()
        """Of those, questions that take a slot."""
        self._engine: EngineProcess | None = None
        self._closing = threading.Event()
        self._up = self._answered = False
        self._failures = self._restarts = self._rejected = 0
        self._up_at = 0.0
        """When the next process should be up (`time.monotonic`)."""
        self._told: Info | None = None
        self._figures: dict[str, Any] = {}
        first: queue.SimpleQueue[HoldfastError | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._supervise, args=[first], name="holdfast-engine", daemon=True)
        self._thread.start()
        if (error := first.get()) is not None:
            self._thread.join()
            raise error
        threading.Thread(target=self._watch, name="holdfast-pulse", daemon=True).start()

    # ---- what it is, and how it does ----

    @property
    def info(self) -> Info:
        """What was loaded."""
        assert self._told is not None
        return self._told

    @property
    def name(self) -> str:
        """The model's name."""
        return self.info.name

    @property
    def backend(self) -> str:
        """``llama.cpp`` or ``onnxruntime-genai``."""
        return self.info.backend

    @property
    def state(self) -> str:
        """``ready``, ``restarting``, or ``failed`` when the engine cannot be started again."""
        over = self._failures >= PATIENCE or self._closing.is_set()
        return "ready" if self._up else "failed" if over else "restarting"

    @property
    def pid(self) -> int | None:
        """The engine's process while it is up."""
        return self._engine.pid if self._up and self._engine is not None else None

    def refuse_if_full(self) -> None:
        """Raise Overloaded at once when the queue is full, EngineLost while there is no engine."""
        if not self._up:
            raise self._no_engine()
        if len(self._asked) >= self.info.slots + self._queue:
            self._rejected += 1
            raise Overloaded(f"the queue is full ({self._queue} requests wait)", retry_after=1)

    def figures(self) -> dict[str, Any]:
        """What runs and waits now, and totals since the engine's process was started."""
        found: queue.SimpleQueue[Told] = queue.SimpleQueue()
        with suppress(EngineLost, Overloaded, queue.Empty):  # Overloaded: it was closed
            self.ask({}, found.put, what="figures")
            self._figures = dict(found.get(timeout=1.0).get("figures") or self._figures)
        now = self._figures if self._up else {**self._figures, "running": 0, "waiting": 0, "kv_tokens": 0}
        return {**now, "rejected": now.get("rejected", 0) + self._rejected, "restarts": self._restarts}

    # ---- chat ----

    def turn(
        self, messages: Messages, facts: Mapping[str, Any] | None = None, **options: Unpack[Options]
    ) -> IsolatedTurn:
        """One turn that has not been started."""
        how = Settings(**{name: value for name, value in options.items() if name != "response_format"})  # type: ignore[arg-type]
        check_turn(messages, facts or {})
        ask = {"messages": list(messages), "facts": dict(facts or {}), "options": dict(options)}
        check_values(options.get("response_format"), "response_format")
        return IsolatedTurn(self, ask, how.timeout)

    def judge(self, messages: Messages, facts: Mapping[str, Any] | None, text: str) -> Reply:
        """As `Session.judge`."""
        return reply_from(self._call("judge", {"messages": list(messages), "facts": facts, "text": text})["reply"])

    def prompt(self, messages: Messages, facts: Mapping[str, Any] | None = None) -> list[Message]:
        """As `Session.prompt`."""
        check_turn(messages, facts or {})
        return list(self._call("prompt", {"messages": list(messages), "facts": facts})["messages"])

    def _call(self, what: str, ask: Told) -> Told:
        found: queue.SimpleQueue[Told] = queue.SimpleQueue()
        self.ask(ask, found.put, what=what)
        try:
            told = found.get(timeout=OVERDUE)
        except queue.Empty:
            raise Overloaded("the engine's process did not answer in time") from None
        if "error" in told:
            raise error_from(told["error"])
        return told

    # ---- what turns use ----

    def ask(self, ask: Told, sink: Sink, *, what: str = "ask") -> int:
        """Send a question; ``sink`` gets what comes back, from another thread. EngineLost while there is no engine,
        Overloaded when too many wait, UsageError in a forked process."""
        same_process(self._process)
        if what == "ask":
            self.refuse_if_full()
        with self._lock:
            if not self._up or self._engine is None:
                raise self._no_engine()
            number = next(self._numbers)
            self._sinks[number] = sink
            if what == "ask":
                self._asked.add(number)
            self._engine.send({"id": number, what: ask})
        return number

    def say(self, number: int, message: Told) -> None:
        """Something more about a question that has not been answered; nothing when it has."""
        with self._lock:
            if number in self._sinks and self._engine is not None:
                self._engine.send({"id": number, **message})

    def kill(self, number: int) -> None:
        """End an engine that does not answer that question."""
        with self._lock:
            if number in self._sinks and self._engine is not None:
                self._engine.kill()

    def _no_engine(self) -> HoldfastError:
        if self._closing.is_set():
            return Overloaded("the runtime is shutting down", retry_after=5)
        return EngineLost("the engine is being started again", retry_after=max(1.0, self._up_at - time.monotonic()))

    # ---- the supervising thread ----

    def _supervise(self, first: queue.SimpleQueue[HoldfastError | None]) -> None:
        wait, took = 0.0, 1.0
        while not self._closing.is_set():
            started = time.monotonic()
            with self._lock:
                self._engine = EngineProcess({**self._how, "log": log.getEffectiveLevel()})
            refused = self._listen(self._engine, first)
            how = self._engine.wait(CLOSING)
            came_up = self._up
            self._lose(how)
            if self._told is None:
                what = f"{self._path} ended the process that loaded it ({how})"
                first.put(refused or ArtifactError(what, next="check the file with `holdfast verify`"))
                return
            self._failures = 0 if came_up else self._failures + 1
            wait = 0.0 if self._answered else min(max(FIRST_WAIT, 2 * wait), LONGEST_WAIT)
            if came_up:
                took = self._up_at - started
            self._up_at = time.monotonic() + wait + took
            if not self._closing.is_set():
                log.warning("the engine ended (%s); it is started again in %.2f s", refused or how, wait)
                self._closing.wait(wait)
                self._restarts += 1

    def _listen(self, engine: EngineProcess, first: queue.SimpleQueue[HoldfastError | None]) -> HoldfastError | None:
        """Hand out what the process says until it ends; what it says when it cannot load."""
        self._answered = False
        for told in engine.messages():
            if "ready" in told:
                self._come_up(info_from(told["ready"]), first)
            elif "failed" in told:
                return error_from(told["failed"])
            elif "log" in told:
                level, name, words = told["log"]
                logging.getLogger(name).log(level, "%s", words)
            else:
                self._deliver(told)
                if told.get("state") == "failed":  # it lives and can decode no more
                    engine.kill()
        return None

    def _watch(self) -> None:
        """End a process that lives and says nothing: stopped, or stuck."""
        while not self._closing.wait(PULSE):
            engine, heard = self._engine, threading.Event()
            with suppress(EngineLost, Overloaded):
                self.ask({}, partial(_ring, heard), what="figures")
                if not heard.wait(SILENCE) and engine is not None:
                    log.warning("the engine said nothing for %.0f s and is killed", SILENCE)
                    engine.kill()

    def _come_up(self, info: Info, first: queue.SimpleQueue[HoldfastError | None]) -> None:
        with self._lock:
            begun, self._told = self._told is None, info
            self._up, self._up_at, self._failures = True, time.monotonic(), 0
            self._how["trust"] = True  # what was verified is loaded again without the self-test
        if begun:
            first.put(None)

    def _deliver(self, told: Told) -> None:
        number = told["id"]
        with self._lock:
            sink = self._sinks.get(number)
            if "piece" not in told:
                self._sinks.pop(number, None)
                self._asked.discard(number)
        self._answered = self._answered or "reply" in told
        if sink is not None:
            sink(told)

    def _lose(self, how: str) -> None:
        with self._lock:
            self._up = False
            sinks = list(self._sinks.values())
            self._sinks.clear()
            self._asked.clear()
        error: HoldfastError = EngineLost(f"the engine ended ({how})")
        if self._closing.is_set():
            error = Overloaded("the runtime was closed", retry_after=5)
        for sink in sinks:
            sink({"error": error_to(error)})

    # ---- life ----

    def close(self) -> None:
        """End the engine's process; whoever still waits gets Overloaded. A forked process leaves it alone."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closing.set()
            if self._engine is not None:
                self._engine.end()
        self._thread.join(CLOSING + 5)

    def __enter__(self) -> IsolatedSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
