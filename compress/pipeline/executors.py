"""Where stages run. ``local`` runs each one in a fresh process forked from a server that has the
heavy libraries imported already, so that ten stages do not import torch ten times."""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from compress.errors import HoldfastError
from compress.pipeline.worker import Task, run_task

logger = logging.getLogger(__name__)
POLL_S = 0.2
"""Seconds between looks at what ends a stage from outside."""
PRELOAD = ("torch", "transformers", "compress.pipeline.worker")
ENDING = (signal.SIGINT, signal.SIGTERM)
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Outcome:
    """How a stage run went: wall seconds, its process's peak resident set, made by another run meanwhile?"""

    seconds: float
    peak_rss_bytes: int
    cached: bool


class StageError(Exception):
    """A stage's error together with the child's traceback (shown with ``--debug``)."""

    def __init__(self, error: HoldfastError, trace: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.trace = trace


class LocalExecutor:
    """Runs one task at a time on this machine."""

    def __init__(self, *, threads: int, offline: bool) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        os.environ["OMP_NUM_THREADS"] = str(threads)
        # Threads that spin at a barrier starve each other when anything else runs: training on two cores beside
        # one busy process fell from 7.5 to 0.3 steps/s, with this to 3; alone it costs nothing measurable.
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
        # Torch and llama.cpp in one process own more threads than there are cores; libgomp then hardly spins at all
        # (llama.cpp six times slower), unless the policy is active.
        os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")
        if offline:
            os.environ["HF_HUB_OFFLINE"] = "1"
        # children leave by os._exit, which the tracker takes for forgotten semaphores
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([m for m in PRELOAD if importlib.util.find_spec(m.split(".")[0])])

    def run(self, task: Task, progress: Progress, until: Callable[[], bool] | None = None) -> Outcome:
        """Run ``task``; raises StageError when it fails. KeyboardInterrupt stops the child, and so does ``until``."""
        events, child_events = self.context.Pipe(duplex=False)
        child_lifeline, lifeline = self.context.Pipe(duplex=False)
        process = self.context.Process(target=run_task, args=(task, child_events, child_lifeline), daemon=False)
        try:
            with signals_wait():
                process.start()
            child_events.close()
            child_lifeline.close()
            outcome = _listen(events, progress, until)
            if outcome is not None and until is not None:
                process.terminate()
            process.join()
        except KeyboardInterrupt:
            if process.pid is not None:  # else its start failed
                process.terminate()
                process.join()
            raise
        finally:
            lifeline.close()
            events.close()
        if outcome is None:
            raise StageError(_died(task, process.exitcode), "")
        return outcome


@contextmanager
def signals_wait() -> Iterator[None]:
    """Signals that end the run come behind the block: a process that is started by half ends in a traceback of its own.
    In other threads than the main one, which get none, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came[:1]:  # also where the start failed: the server that forks may have got the signal too
            signal.raise_signal(late)


def _listen(events: Connection, progress: Progress, until: Callable[[], bool] | None) -> Outcome | None:
    while True:
        while until is not None and not events.poll(POLL_S):
            if until():
                return Outcome(0.0, 0, True)
        try:
            message: tuple[Any, ...] = events.recv()
        except EOFError:
            return None
        if message[0] == "progress":
            progress(*message[1:])
        elif message[0] == "warning":
            if until is None:  # otherwise the process that leads says it
                logger.warning("warning: %s", message[1])  # without a handler of the caller's, a line on stderr
        elif message[0] == "done":
            return Outcome(*message[1:])
        else:
            raise StageError(message[1], message[2])


def _died(task: Task, code: int | None) -> HoldfastError:
    how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
    hint = " (the system kills a process that takes too much memory)" if code == -9 else ""
    return HoldfastError(
        f"the process of stage {task.node_id!r} {how}{hint}",
        next=f"read {task.log}; finished stages are kept, run the same command again",
    )
