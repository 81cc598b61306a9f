"""The errors a user can meet, and the exit code each one ends a command with.

HoldfastError                     1  operational failure
├── ArtifactError                 1  a file or folder is incomplete, corrupt or of the wrong kind
├── MissingExtra                  1  an optional dependency is not installed; the message names the pip command
├── ParityFailed                  3  an export is not the model that it was made from
├── ResourceError                 1  too little disk or memory
├── Overloaded                    1  the runtime's queue is full, or a deadline passed
├── Cancelled                     1  a turn was cancelled before its reply was complete
├── EngineLost                    1  the process that holds the model ended; another one is being started
└── UsageError                    2  the caller's input is at fault; a path that was given does not exist
    ├── ConfigError               2  one or more problems in a pipeline file (all listed at once)
    ├── RuleError                 2  one or more problems in a rule file
    ├── DataError                 2  a row of a dataset: names the file and the line
    └── UnsupportedArchitecture   2  names the table row that is missing

Gate verdicts are results, not errors: FAIL ends a command with 3, INCONCLUSIVE with 4. A failed parity check is an
error with the gate's code: what does not hold the model cannot be judged. Ctrl-C ends a command with 130, SIGTERM
with 143.
Every message says what is wrong, where, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_GATE_FAIL, EXIT_GATE_INCONCLUSIVE = 0, 1, 2, 3, 4
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class HoldfastError(Exception):
    """``what`` went wrong (naming the culprit) and, where there is one, the ``next`` step."""

    exit_code = EXIT_FAILURE

    def __init__(self, what: str, *, next: str | None = None) -> None:
        super().__init__(what, next)
        self.what = what
        self.next = next

    def __str__(self) -> str:
        return f"{self.what}\n  next: {self.next}" if self.next else self.what

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.__dict__.copy())


def _rebuild(kind: type[HoldfastError], state: dict[str, object]) -> HoldfastError:
    error = kind.__new__(kind)
    error.__dict__.update(state)
    error.args = (state["what"], state["next"])
    return error


class ArtifactError(HoldfastError):
    """A file or folder is incomplete, corrupt or of the wrong kind."""


class MissingExtra(HoldfastError):
    """An optional dependency is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"this step needs the Python module {module!r}, which is not installed",
            next=f"pip install 'holdfast-toolkit[{extra}]'",
        )


class ParityFailed(HoldfastError):
    """An export differs from its reference by more than quantization explains."""

    exit_code = EXIT_GATE_FAIL


class ResourceError(HoldfastError):
    """Too little disk or memory."""


class Overloaded(HoldfastError):
    """The queue is full or a deadline passed; ``retry_after`` is in seconds."""

    def __init__(self, what: str, *, retry_after: float = 1.0) -> None:
        super().__init__(what, next=f"retry after {retry_after:.0f} s")
        self.retry_after = retry_after


class Cancelled(HoldfastError):
    """The turn was cancelled before its reply was complete."""


class EngineLost(HoldfastError):
    """The engine's process ended (a crash, a kill) or is not up again yet; ``retry_after`` is in seconds."""

    def __init__(self, what: str, *, retry_after: float = 1.0) -> None:
        super().__init__(what, next=f"ask again in {retry_after:.0f} s")
        self.retry_after = retry_after


class UsageError(HoldfastError):
    """The caller's input is at fault."""

    exit_code = EXIT_USAGE


class TooLong(UsageError):
    """A conversation does not fit in the model's context."""


class ProblemList(UsageError):
    """Several problems reported at once; each is one line that names its place."""

    def __init__(self, title: str, problems: Sequence[str], *, next: str | None = None) -> None:
        self.problems = tuple(problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__("\n".join([f"{title}: {count}", *(f"  - {p}" for p in problems)]), next=next)


class ConfigError(ProblemList):
    """One or more problems in a pipeline file."""


class RuleError(ProblemList):
    """One or more problems in a rule file."""


class DataError(UsageError):
    """A dataset row cannot be used."""

    def __init__(self, path: object, line: int | None, what: str, *, next: str | None = None) -> None:
        place = f"{path}:{line}" if line is not None else str(path)
        super().__init__(f"{place}: {what}", next=next)


class UnsupportedArchitecture(UsageError):
    """The model's architecture has no row in the table that the stage needs."""
