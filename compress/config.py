"""The pipeline file: read, overridden with ``--set``, checked, all problems at once with their lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compress.errors import ConfigError, UsageError
from compress.registry import STAGES, nearest

MAX_BYTES = 1_000_000
IDENTIFIER = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"
RESERVED_IDS = frozenset({"source", "data"})

Place = tuple[Any, ...]


class StageSpec(BaseModel):
    """One entry of ``stages:``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    id: str = Field(pattern=IDENTIFIER)
    use: str
    from_: str | list[str] | None = Field(None, alias="from")
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    matrix: dict[str, list[Any]] = Field(default_factory=dict)

    @property
    def parents(self) -> list[str]:
        """The ids under ``from:``, as a list."""
        return [] if self.from_ is None else [self.from_] if isinstance(self.from_, str) else list(self.from_)


class PipelineSpec(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Literal[1]
    name: str = Field(pattern=IDENTIFIER)
    seed: int = Field(0, ge=0, lt=2**31)
    source: dict[str, Any] = Field(min_length=1)
    rules: str | None = None
    data: dict[str, Any] | None = None
    stages: list[StageSpec] = Field(min_length=1)


@dataclass(frozen=True)
class Config:
    """A pipeline file that was read, and where each of its keys stands."""

    path: Path
    spec: PipelineSpec
    lines: Mapping[Place, int]

    def find(self, text: str) -> Path:
        """A relative path is looked for from the working directory, then from the file's own folder."""
        path = Path(text).expanduser()
        return path if path.is_absolute() or path.exists() else _or(self.path.parent / path, path)

    def place(self, place: Place) -> str:
        """``file:line`` of a key (of its nearest ancestor that stands in the file)."""
        return f"{self.path}:{line_of(self.lines, place)}"


def _or(first: Path, second: Path) -> Path:
    return first if first.exists() else second


def line_of(lines: Mapping[Place, int], place: Place) -> int:
    """Line of the longest known prefix of ``place``."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def read_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check the shape of a pipeline file. Raises ConfigError with every problem found."""
    value, lines = read_yaml(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}", [f"{path}:1: the file must hold a mapping, not {_kind(value)}"])
    for override in overrides:
        apply_override(value, override)
    try:
        spec = PipelineSpec.model_validate(value)
    except ValidationError as error:
        problems = explain(error, PipelineSpec, lambda place: f"{path}:{line_of(lines, place)}")
        raise ConfigError(f"{path}", problems, next=f"mend the file, then: compress plan {path}") from None
    return Config(path, spec, lines)


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def read_yaml(path: Path) -> tuple[Any, dict[Place, int]]:
    """The value of a YAML file and the line of each key. Duplicate keys and aliases are refused."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", next="check the path") from None
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_BYTES} bytes", next="give a pipeline file")
    problems: list[str] = []
    lines: dict[Place, int] = {}
    try:
        text = raw.decode("utf-8-sig")
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                problems.append(f"{path}:{_line(event.start_mark)}: aliases (*{event.anchor}) are not allowed")
        node = yaml.compose(text, Loader=yaml.SafeLoader) if not problems else None
        if node is not None:
            _walk(node, (), lines, problems, path)
        value = yaml.safe_load(text) if not problems else None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}", [f"{path}:1: the file is not UTF-8 text"]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}", [_yaml_problem(path, error)]) from None
    if problems:
        raise ConfigError(f"{path}", problems)
    return value, lines


def _line(mark: Any) -> int:
    return mark.line + 1 if mark is not None else 1


def _yaml_problem(path: Path, error: Exception) -> str:
    line = _line(getattr(error, "problem_mark", None))
    text = getattr(error, "problem", None) or (str(error).splitlines() or ["nested too deep"])[0]
    return f"{path}:{line}: not valid YAML: {text}"


def _walk(node: yaml.Node, place: Place, lines: dict[Place, int], problems: list[str], path: Path) -> None:
    lines.setdefault(place, _line(node.start_mark))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*place, index), lines, problems, path)
    elif isinstance(node, yaml.MappingNode):
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                problems.append(f"{path}:{_line(key.start_mark)}: a key must be plain text")
                continue
            inner = (*place, key.value)
            if inner in lines:
                problems.append(f"{path}:{_line(key.start_mark)}: key {key.value!r} stands twice")
            lines[inner] = _line(key.start_mark)
            _walk(item, inner, lines, problems, path)


def explain(error: ValidationError, model: type[BaseModel], where: Any, prefix: Place = ()) -> list[str]:
    """One line per pydantic error: place, key, what is wrong, nearest valid key."""
    problems = []
    for item in error.errors(include_url=False):
        place = (*prefix, *item["loc"])
        key = ".".join(str(part) for part in place) or "file"
        if item["type"] == "extra_forbidden":
            known = sorted(_keys_of(model, item["loc"][:-1]))
            hint = nearest(str(item["loc"][-1]), known)
            text = f"unknown key {key!r}{hint or '; known: ' + ', '.join(known)}"
        elif item["type"] == "missing":
            text = f"key {key!r} is missing"
        else:
            what = _lower(item["msg"].removeprefix("Value error, "))  # pydantic's word for what our validators raise
            text = (f"{key}: " if place else "") + what + _got(item.get("input"))
        problems.append(f"{where(place)}: {text}")
    return problems


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _got(value: Any) -> str:
    """What stood there; nothing of an object that is too long to be shown."""
    text = repr(value)
    if len(text) <= 60:
        return f" (got {text})"
    return "" if isinstance(value, dict | BaseModel) else f" (got {text[:57]}...)"


def _keys_of(model: type[BaseModel], place: Place) -> Iterable[str]:
    """Valid keys of the model found by following ``place`` through nested models."""
    for part in place:
        field = next((f for n, f in model.model_fields.items() if part in (n, f.alias)), None)
        inner = _nested(field.annotation) if field is not None else None
        model = inner or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _nested(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _nested(argument)
        if found is not None:
            return found
    return None


def parse_assignment(text: str) -> tuple[str, Any]:
    """``key=value`` with the value read as YAML."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"{text!r} is not of the form key=value", next="e.g. bits=3")
    try:
        value = yaml.safe_load(raw) if raw else ""
    except yaml.YAMLError:
        raise UsageError(f"the value in {text!r} is not valid YAML", next="quote it") from None
    keys = value.items() if isinstance(value, dict) else ()
    tight = next((name for name, inner in keys if inner is None and ":" in str(name)), None)
    if tight is not None:
        raise UsageError(
            f"{text!r} has no space behind a colon, so {tight!r} is one word", next=f"write {raw.replace(':', ': ')}"
        )
    return key.strip(), value


def assigned(assignments: Sequence[str]) -> dict[str, Any]:
    """``a=v`` and ``a.b=v`` as one object; a later one wins. Raises UsageError for a path into what has no parts."""
    found: dict[str, Any] = {}
    for text in assignments:
        dotted, new = parse_assignment(text)
        if not _put(found, dotted.split("."), new):
            outer = dotted.rpartition(".")[0]
            raise UsageError(f"{text!r}: {outer} has a value that has no parts", next="give one of the two")
    return found


def _put(target: Any, parts: Sequence[str], value: Any) -> bool:
    """Set what the parts lead to, through mappings that are made where they lack; False where something else stands."""
    for part in parts[:-1]:
        target = target.setdefault(part, {}) if isinstance(target, dict) else None
    if isinstance(target, dict):
        target[parts[-1]] = value
    return isinstance(target, dict)


def apply_override(value: dict[str, Any], assignment: str) -> None:
    """Apply ``a.b=v`` in place. ``<stage id>.<parameter>`` is short for that stage's ``with``.

    Raises UsageError when the path does not lead into the file.
    """
    dotted, new = parse_assignment(assignment)
    listed = value.get("stages")
    stages = {s.get("id"): s for s in listed if isinstance(s, dict)} if isinstance(listed, list) else {}
    parts = dotted.split(".")
    known = [*PipelineSpec.model_fields, *(str(name) for name in stages)]
    if parts[0] not in known or (parts[0] == "stages" and (len(parts) < 3 or parts[1] not in stages)):
        raise UsageError(f"--set {assignment}: unknown key {dotted!r}{nearest(parts[0], known)}", next=_SET_EXAMPLE)
    target: Any = value
    if parts[0] == "stages":
        target, parts = stages[parts[1]], parts[2:]
    elif parts[0] in stages and len(parts) > 1:
        target, parts = stages[parts[0]], ["with", *parts[1:]]
    if not _put(target, parts, new):
        raise UsageError(f"--set {assignment}: {dotted!r} does not lead into a mapping", next=_SET_EXAMPLE)


_SET_EXAMPLE = "e.g. --set seed=3 or --set gptq.bits=3"


def stage_name(kind: str, key: str) -> str | None:
    """``source: {tiny: …}`` names the stage ``source.tiny``; None when there is no such stage."""
    name = f"{kind}.{key}"
    return name if name in STAGES else None


def is_identifier(text: str) -> bool:
    """Whether ``text`` may be a stage id."""
    return re.match(IDENTIFIER, text) is not None
