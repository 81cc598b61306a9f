"""What the command line shows: progress on stderr, results on stdout, one message per error."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from compress import launch
from compress.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_TERMINATED, HoldfastError, ResourceError
from compress.report import words

if TYPE_CHECKING:
    from rich.progress import Progress

    from compress.pipeline.plan import Node
    from compress.pipeline.run import StageState

LINE_EVERY_SECONDS = 10.0
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@contextmanager
def errors(*, debug: bool) -> Iterator[None]:
    """Turn errors into one message on stderr and the documented exit code."""
    from compress.pipeline.executors import StageError

    try:
        yield
    except StageError as failure:
        if debug:
            print(failure.trace, file=sys.stderr)
        _fail(failure.error)
    except HoldfastError as error:
        if debug:
            traceback.print_exc()
        _fail(error)
    except KeyboardInterrupt as stop:
        _stopped(stop)
    except typer.Exit:
        raise
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away
        raise SystemExit(EXIT_FAILURE) from None
    except OSError as error:
        if debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _fail(ResourceError(f"{place}{error.strerror or error}", next="check that the place exists and can be written"))
    except Exception as error:
        behind = wrapped_stop(error)
        if behind is not None:
            _stopped(behind)
        if debug:
            raise
        text = f"unexpected {type(error).__name__}: {error}"
        _fail(HoldfastError(text, next="run again with --debug and report what it prints"))


def shared(command: Callable[..., None]) -> Callable[..., None]:
    """A command of the runtime's own line with the same options here, and ``--debug`` and errors as ours have them."""

    @wraps(command)
    def run(*, debug: bool = False, **given: Any) -> None:
        with errors(debug=debug):
            command(**given)

    told = signature(command, eval_str=True)
    more = Parameter("debug", Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    run.__annotations__ = {**command.__annotations__, "debug": Debug}
    run.__signature__ = told.replace(parameters=[*told.parameters.values(), more])  # type: ignore[attr-defined]
    return run


def wrapped_stop(error: BaseException | None) -> KeyboardInterrupt | None:
    """The signal behind an error: native code that calls back into Python may turn it into an error of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def _stopped(stop: KeyboardInterrupt) -> NoReturn:
    print("stopped; finished stages of a run are kept. Run the same command again to go on.", file=sys.stderr)
    raise SystemExit(EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED) from None


def _fail(error: HoldfastError) -> None:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(error.exit_code) from None


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived."""


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM ends what runs inside as Ctrl-C does: the stage at work is stopped and the command says how to go on."""

    def stop(number: int, frame: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may listen
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def emit(value: Any) -> None:
    """Print one JSON object on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def note(text: str) -> None:
    """A line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def observer() -> PlainObserver | BarObserver | Silent:
    """Bars on a terminal, plain lines otherwise; nothing beside a process that leads."""
    if not launch.place().leads:
        return Silent()
    return BarObserver() if sys.stderr.isatty() else PlainObserver()


class Silent:
    """Says nothing."""

    def started(self, node: Node, number: int, total: int) -> None: ...
    def progress(self, done: int, total: int, text: str) -> None: ...
    def finished(self, node: Node, state: StageState) -> None: ...
    def close(self) -> None: ...


class PlainObserver:
    """One line when a stage starts and ends, and at most one every ten seconds between."""

    def __init__(self) -> None:
        self.last = 0.0
        self.node: Node | None = None

    def started(self, node: Node, number: int, total: int) -> None:
        self.node = node
        self.last = time.monotonic()
        note(f"[{number}/{total}] {node.id} ({node.use})")

    def progress(self, done: int, total: int, text: str) -> None:
        if time.monotonic() - self.last >= LINE_EVERY_SECONDS:
            self.last = time.monotonic()
            name = self.node.id if self.node else ""
            note(f"        {name}: {done}/{total} {text}")

    def finished(self, node: Node, state: StageState) -> None:
        note(f"        {_summary(node, state)}")

    def close(self) -> None:
        """Nothing is held."""


class BarObserver:
    """A rich progress bar for the stage at work."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Column

        whole, rest = Column(no_wrap=True, overflow="ignore"), Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self.bar: Progress = Progress(
            TextColumn("{task.description}", table_column=whole, markup=False),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}", table_column=rest, markup=False),
            expand=True,
            console=Console(stderr=True),
            transient=True,
        )
        self.bar.start()
        self.task: Any = None

    def started(self, node: Node, number: int, total: int) -> None:
        self.task = self.bar.add_task(f"[{number}/{total}] {node.id}", total=None, text="")

    def progress(self, done: int, total: int, text: str) -> None:
        self.bar.update(self.task, completed=done, total=total, text=text)

    def finished(self, node: Node, state: StageState) -> None:
        self.bar.remove_task(self.task)
        self.bar.console.print(_summary(node, state), highlight=False, markup=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.bar.stop()


def _summary(node: Node, state: StageState) -> str:
    effort = "cached" if state.cached else f"{words.seconds(state.seconds)}, peak {words.size(state.peak_rss_bytes)}"
    return f"✓ {node.id}: {state.kind}, {words.size(state.size_bytes)} ({effort})"
