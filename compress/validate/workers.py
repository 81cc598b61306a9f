"""The same work on many tasks, on all cores, with results in order."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from compress.errors import ResourceError

Task = TypeVar("Task")
Result = TypeVar("Result")


def cores() -> int:
    """Cores this process may use; one where processes cannot be forked."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def spread(job: Callable[[Task], Result], tasks: Sequence[Task], processes: int) -> Iterator[Result]:
    """``job`` of every task, in order. What ``job`` raises is raised at its place.

    The processes are forked, so ``job`` may hold what cannot be sent (compiled rules), and a caller's script need not
    guard its main part; they end when this one does, however it ends.
    """
    if min(processes, len(tasks)) < 2:
        yield from map(job, tasks)
        return
    lifeline, ours = os.pipe()
    pool = ProcessPoolExecutor(
        min(processes, len(tasks)), multiprocessing.get_context("fork"), _begin, (job, lifeline, ours)
    )
    try:
        with warnings.catch_warnings():  # nothing but Python runs in them, whatever threads the caller has
            warnings.simplefilter("ignore", DeprecationWarning)
            results = pool.map(_do, tasks)
        yield from results
    except BrokenProcessPool:
        raise ResourceError(
            "a process that judges replies was ended from outside", next="free memory and run the same command again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
        os.close(ours)
        os.close(lifeline)


_job: Callable[[Any], Any]


def _begin(job: Callable[[Any], Any], lifeline: int, ours: int) -> None:
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.close(ours)
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()


def _die_with_parent(lifeline: int) -> None:
    with contextlib.suppress(OSError):
        os.read(lifeline, 1)
    os._exit(1)


def _do(task: Any) -> Any:
    return _job(task)
