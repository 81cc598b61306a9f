"""One stage run in a process of its own.

Memory goes back when the stage ends, its peak is its own, and a native crash is an error and not
the end of the run. The child holds the store's lock; it dies when the process that asked for it does.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from compress import launch
from compress.artifact import MEASUREMENTS, Artifact
from compress.errors import HoldfastError
from compress.json_files import write_json
from compress.memory import peak_bytes_with_children
from compress.pipeline.store import Store, Workplace
from compress.registry import load_stage
from compress.stage import Job, Params

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """Everything a child needs to run one stage; picklable."""

    key: str
    node_id: str
    use: str
    params: Params
    recorded_params: Mapping[str, Any]
    recorded_inputs: Mapping[str, str]
    store: Path
    log: Path
    seed: int
    threads: int
    inputs: tuple[Artifact, ...] = ()
    names: tuple[str, ...] = ()
    refs: Mapping[str, Artifact] = field(default_factory=dict)
    ancestors: Mapping[str, Artifact] = field(default_factory=dict)
    calibration: Artifact | None = None
    data: Artifact | None = None
    rules: Path | None = None


def run_task(task: Task, events: Connection, lifeline: Connection) -> None:
    """Entry point of the child: run, commit, and report over ``events``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    _send_output_to(task.log)
    logging.getLogger().addHandler(_Warnings(events))
    try:
        outcome = _run(task, events)
    except HoldfastError as error:
        outcome = ("error", error, traceback.format_exc())
    except OSError as error:
        outcome = ("error", _os_error(task, error), traceback.format_exc())
    except MemoryError:
        hint = "close other programs, or make the stage smaller; compress plan shows what each takes"
        outcome = (
            "error",
            HoldfastError(f"stage {task.node_id!r} ran out of memory", next=hint),
            traceback.format_exc(),
        )
    except Exception as error:
        text = f"stage {task.node_id!r} failed: {type(error).__name__}: {error}"
        outcome = ("error", HoldfastError(text, next=f"read {task.log}"), traceback.format_exc())
    if outcome[0] == "error":
        logger.error("%s", outcome[-1])
    with contextlib.suppress(BrokenPipeError):
        events.send(outcome)
        events.close()
    logging.shutdown()
    os._exit(0)  # native thread pools may hang at interpreter exit


def _die_with_parent(lifeline: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv()
    os._exit(1)


def _send_output_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", force=True)


class _Warnings(logging.Handler):
    """Sends what our own code warns of to the parent: a log file is not where people look."""

    def __init__(self, events: Connection) -> None:
        super().__init__(logging.WARNING)
        self.events = events

    def emit(self, record: logging.LogRecord) -> None:
        ours = record.name.partition(".")[0] in ("compress", "export", "finetune", "runtime")
        if ours and record.levelno == logging.WARNING and threading.current_thread() is threading.main_thread():
            self.events.send(("warning", record.getMessage()))


def _os_error(task: Task, error: OSError) -> HoldfastError:
    from compress.errors import ResourceError

    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ResourceError(
            f"stage {task.node_id!r}: {error.strerror or error} at {task.store}",
            next="free space there; finished stages are kept, run the same command again",
        )
    return HoldfastError(f"stage {task.node_id!r} failed: {error}", next=f"read {task.log}")


def _run(task: Task, events: Connection) -> tuple[Any, ...]:
    if not launch.place().leads:
        return _take_part(task, events)
    store = Store(task.store)
    started = time.monotonic()
    with store.workplace(task.key) as place:
        if store.get(task.key) is not None:  # another run finished it while this one waited
            return ("done", 0.0, 0, True)
        stage = load_stage(task.use)
        job = _job(task, place.out, place.scratch, events)
        _seed(task)
        stage.check(job)
        facts = stage.run(job)
        _record_effort(place.out, time.monotonic() - started)
        store.commit(
            task.key,
            place,
            kind=stage.produces,
            stage=task.use,
            stage_version=stage.version,
            params=task.recorded_params,
            inputs=task.recorded_inputs,
            facts=facts,
        )
    return ("done", time.monotonic() - started, peak_bytes_with_children(), False)


def _take_part(task: Task, events: Connection) -> tuple[Any, ...]:
    """Run a stage beside the process that leads, which alone holds the lock and commits."""
    stage, started = load_stage(task.use), time.monotonic()
    with tempfile.TemporaryDirectory() as out:
        job = _job(task, Path(out), Workplace(Store(task.store).partial(task.key)).scratch, events)
        _seed(task)
        stage.check(job)
        stage.run(job)
    return ("done", time.monotonic() - started, peak_bytes_with_children(), False)


def _record_effort(out: Path, seconds: float) -> None:
    path = out / MEASUREMENTS
    values = json.loads(path.read_text()) if path.is_file() else {}
    values["stage"] = {"seconds": round(seconds, 3), "peak_rss_bytes": peak_bytes_with_children()}
    write_json(path, values)


def _job(task: Task, out: Path, scratch: Path, events: Connection) -> Job[Any]:
    def progress(done: int, total: int, note: str = "") -> None:
        events.send(("progress", done, total, note))

    return Job(
        params=task.params,
        out=out,
        scratch=scratch,
        cache=task.store / ".cache" / task.use,
        inputs=task.inputs,
        names=task.names,
        refs=task.refs,
        ancestors=task.ancestors,
        calibration=task.calibration,
        data=task.data,
        rules=task.rules,
        seed=task.seed,
        threads=task.threads,
        progress=progress,
    )


def _seed(task: Task) -> None:
    import random
    import sys

    import numpy as np

    random.seed(task.seed)
    np.random.seed(task.seed)
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(task.threads)
        torch.manual_seed(task.seed)
