"""What a stage is: a pure step from artifacts and parameters to one artifact.

A stage file imports heavy libraries inside functions only, so that planning stays quick.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compress.artifact import Artifact
from compress.costs import NOTHING, Work
from compress.outline import Outline, Split

REFERENCE = "stage reference"
StageRef = Annotated[str, REFERENCE]
"""A parameter that names another stage of the pipeline (or, with ``compress run``, a path).
The artifact arrives in ``job.refs[<parameter name>]``."""


class Params(BaseModel):
    """A stage's parameters. Unknown keys are errors; a docstring stands under every field."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class CalibratedParams(Params):
    """Parameters of a stage that reads a calibration pass over its input model."""

    calibration: Path | None = None
    """JSONL of ``{"messages"}`` or ``{"text"}`` rows; by default the pipeline's calibration data."""
    calibration_tokens: int = Field(32768, ge=256)
    """Tokens in the calibration pass."""
    calibration_length: int = Field(256, ge=16)
    """Tokens per calibration window (documents are joined and cut), at most the model's context."""

    @model_validator(mode="after")
    def _a_window_at_least(self) -> Self:
        if self.calibration_tokens < self.calibration_length:
            raise ValueError(
                f"calibration_tokens {self.calibration_tokens} are less than one window of calibration_length "
                f"{self.calibration_length}"
            )
        return self


P = TypeVar("P", bound=Params)


def _silent(done: int, total: int, note: str = "") -> None:
    del done, total, note


@dataclass(frozen=True)
class Needs:
    """What a stage is expected to take."""

    disk_bytes: int = 0
    """The result and what lies in the scratch folder beside it."""
    ram_bytes: int = 0
    """Peak resident set of the worker."""
    work: Work = NOTHING
    """What is computed (``compress.machine`` turns it into seconds)."""


@dataclass(frozen=True)
class JobOutline(Generic[P]):
    """What is known of a job before it can run: outlines in place of artifacts."""

    params: P
    inputs: tuple[Outline, ...] = ()
    refs: Mapping[str, Outline] = field(default_factory=dict)
    calibration: Outline | None = None
    data: Outline | None = None
    rules: Path | None = None
    seed: int = 0

    @property
    def input(self) -> Outline:
        """The only input."""
        (outline,) = self.inputs
        return outline

    def split(self, name: str) -> Split:
        """Rows of the data; none where there is no such split."""
        found = self.data.splits.get(name) if self.data else None
        return found or Split(0, 0, ())


@dataclass(frozen=True)
class Job(Generic[P]):
    """Everything one stage run may read, and where it may write."""

    params: P
    out: Path
    """Empty folder on the store's filesystem; it becomes the artifact when ``run`` returns."""
    scratch: Path
    """Survives ``kill -9``: checkpoints go here. Deleted once the artifact is in the store."""
    cache: Path | None = None
    """A folder of the stage's own that outlives the job: what later jobs may use again. It may be deleted at any time
    in between. None where nothing is to be kept."""
    inputs: tuple[Artifact, ...] = ()
    """The artifacts of ``from:``, in its order."""
    names: tuple[str, ...] = ()
    """Stage ids of ``inputs``, e.g. ``gguf-Q4_K_M``."""
    refs: Mapping[str, Artifact] = field(default_factory=dict)
    """Artifacts of the parameters declared as ``StageRef``, by parameter name."""
    ancestors: Mapping[str, Artifact] = field(default_factory=dict)
    """Every artifact upstream, by stage id."""
    calibration: Artifact | None = None
    """The calibration pass over ``inputs[0]`` for stages with ``calibrates = True``."""
    data: Artifact | None = None
    """Folder with the splits that exist among train.jsonl, calibration.jsonl and eval.jsonl."""
    rules: Path | None = None
    """The rule file (YAML)."""
    seed: int = 0
    threads: int = 2
    progress: Callable[..., None] = _silent
    """``progress(done, total, note="")``: drawn as a bar on a terminal, as plain lines in logs."""

    @property
    def input(self) -> Artifact:
        """The only input."""
        (artifact,) = self.inputs
        return artifact


class Stage(ABC, Generic[P]):
    """Subclass, set the class attributes, write ``run``; then add one row to ``registry.py``."""

    Params: ClassVar[type[Params]]
    version: ClassVar[int] = 1
    """Raise it when the same inputs would give other bytes."""
    accepts: ClassVar[frozenset[str]]
    """Kinds of artifact that ``from:`` may bring; empty for a source."""
    produces: ClassVar[str]
    many: ClassVar[bool] = False
    """Whether ``from:`` may name several stages."""
    uses: ClassVar[frozenset[str]] = frozenset()
    """What else it reads, of {"rules", "train", "calibration", "eval"}: changing anything else does not re-run it."""
    calibrates: ClassVar[bool] = False
    together: ClassVar[bool] = False
    """Whether all processes of one launch run it (``compress.launch``); any other stage the first one runs alone."""
    modules: ClassVar[frozenset[str]] = frozenset()
    """Import names it needs, checked by ``plan``."""
    libraries: ClassVar[frozenset[str]] = frozenset()
    """Distributions whose version shapes the bytes (part of the cache key)."""
    online: ClassVar[bool] = False
    """Whether it fetches from the network; a pipeline without such a stage runs offline."""
    smaller: ClassVar[str] = ""
    """Parameters that would make it take less memory, said where the machine has too little."""

    def reads_calibration(self, params: P) -> bool:
        """Whether a job with these parameters reads a calibration pass."""
        return self.calibrates

    def requires(self, params: P) -> frozenset[str]:
        """Of ``uses``, what a job with these parameters cannot do without (a calibration pass is asked for apart)."""
        del params
        return self.uses - {"rules"}

    def files(self, params: P) -> Sequence[Path]:
        """Files that the parameters do not name and whose bytes shape the result (the other parts of a split one)."""
        del params
        return ()

    @abstractmethod
    def outline(self, job: JobOutline[P]) -> Outline:
        """The result before it exists. Raises LookupError where it cannot be told yet."""

    @abstractmethod
    def needs(self, job: JobOutline[P]) -> Needs:
        """Disk, memory and work. Raises LookupError where they cannot be told yet."""

    def check(self, job: Job[P]) -> None:
        """Raise UsageError if this job cannot work (wrong architecture, shape…). Cheap; called before ``run``."""

    @abstractmethod
    def run(self, job: Job[P]) -> Mapping[str, Any]:
        """Write the artifact into ``job.out``; return its ``facts`` (deterministic JSON values).

        Readings of the machine go to ``job.out / "measurements.json"``.
        """
