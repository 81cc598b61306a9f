"""From a pipeline file to a graph of stage runs; runs nothing.

Two nodes are added that nobody writes: ``source`` and ``data``; and one calibration pass per model
state, shared by every stage that reads it.
"""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compress import config as configuration
from compress.artifact import Artifact
from compress.config import Config, StageSpec, explain
from compress.errors import ConfigError, RuleError, UsageError
from compress.registry import STAGES, load_stage, nearest
from compress.stage import REFERENCE, CalibratedParams, Params, Stage

CALIBRATION_FIELDS = tuple(CalibratedParams.model_fields)


@dataclass(frozen=True)
class Node:
    """One stage run: what it is, with which parameters, fed by which other nodes."""

    id: str
    use: str
    params: Params
    parents: tuple[str, ...] = ()
    refs: Mapping[str, str] = field(default_factory=dict)
    calibration: str | None = None
    data: str | None = None
    rules: Path | None = None

    def upstream(self) -> tuple[str, ...]:
        """Ids this node reads from directly."""
        extra = [*self.refs.values(), self.calibration, self.data]
        return tuple(dict.fromkeys([*self.parents, *(name for name in extra if name)]))


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which each comes after what it reads; ``given`` artifacts exist already."""

    nodes: Mapping[str, Node]
    seed: int = 0
    given: Mapping[str, Artifact] = field(default_factory=dict)

    def ancestors(self, node_id: str) -> list[str]:
        """Everything upstream of a node, each once."""
        seen: dict[str, None] = {}
        pending = list(self.nodes[node_id].upstream())
        while pending:
            name = pending.pop()
            if name not in seen:
                seen[name] = None
                pending += self.nodes[name].upstream() if name in self.nodes else []
        return sorted(seen)


def reference_fields(params: type[Params]) -> list[str]:
    """Names of the parameters that name another stage."""
    return [
        name
        for name, info in params.model_fields.items()
        if REFERENCE in info.metadata or _holds_reference(info.annotation)
    ]


def _holds_reference(annotation: Any) -> bool:
    if REFERENCE in getattr(annotation, "__metadata__", ()):
        return True
    return any(_holds_reference(argument) for argument in typing.get_args(annotation))


def build(config: Config) -> Graph:
    """The graph of a pipeline file. Raises ConfigError with every problem at once."""
    builder = _Builder(config)
    graph = builder.build()
    if builder.problems:
        problems = sorted(dict.fromkeys(builder.problems), key=_line_order)
        raise ConfigError(str(config.path), problems, next=f"mend the file, then: compress plan {config.path}")
    return graph


def _line_order(problem: str) -> tuple[str, int]:
    place = problem.split(": ", 1)[0]
    path, _, line = place.rpartition(":")
    return path, int(line) if line.isdigit() else 0


class _Builder:
    """Walks the checked shape and gathers nodes and problems."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.spec = config.spec
        self.problems: list[str] = []
        self.nodes: dict[str, Node] = {}
        self.expanded: dict[str, list[str]] = {"source": ["source"]}
        self.rules = self._rules()
        self.has_data = self.spec.data is not None

    def report(self, place: tuple[Any, ...], text: str) -> None:
        self.problems.append(f"{self.config.place(place)}: {text}")

    def build(self) -> Graph:
        self._source()
        if self.has_data:
            self._data()
        self._check_ids()
        for index, spec in self._in_order():
            self._stage(index, spec)
        return Graph(self.nodes, self.spec.seed)

    def _rules(self) -> Path | None:
        if self.spec.rules is None:
            return None
        path = self.config.find(self.spec.rules)
        if not path.is_file():
            self.report(("rules",), f"rule file {self.spec.rules} does not exist")
            return None
        from runtime.rules import load_rules

        try:
            load_rules(path)
        except RuleError as error:
            self.problems += error.problems
        except UsageError as error:
            self.report(("rules",), error.what)
        return path

    def _source(self) -> None:
        """``{tiny: {...}}`` holds parameters below the name, ``{hf: org/name, revision: ...}`` beside it."""
        given = self.spec.source
        key = next((key for key in given if configuration.stage_name("source", key)), next(iter(given)))
        values = given[key]
        if values is None or isinstance(values, dict):
            for other in [name for name in given if name != key]:
                self.report(("source", other), f"source names {key!r} already; {other!r} cannot stand beside it")
            self._implicit("source", key, values, ("source", key))
        else:
            self._implicit("source", key, given, ("source",))

    def _data(self) -> None:
        data = self.spec.data or {}
        keys = list(data)
        if len(keys) == 1 and configuration.stage_name("data", keys[0]):
            self._implicit("data", keys[0], data[keys[0]] or {}, ("data", keys[0]))
        else:
            self._implicit("data", "files", data, ("data",))

    def _implicit(self, kind: str, key: str, values: Any, place: tuple[Any, ...]) -> None:
        name = configuration.stage_name(kind, key)
        if name is None:
            known = [n.partition(".")[2] for n in STAGES if n.startswith(kind + ".")]
            self.report(place, f"unknown {kind} {key!r}{nearest(key, known)}; known: {', '.join(known)}")
            return
        params = self._params(name, values, place)
        if params is not None:
            rules = self.rules if "rules" in load_stage(name).uses else None
            self.nodes[kind] = Node(kind, name, params, rules=rules)

    def _params(self, use: str, values: Any, place: tuple[Any, ...]) -> Params | None:
        model = load_stage(use).Params
        try:
            params = model.model_validate(values if values is not None else {})
        except ValidationError as error:
            self.problems += explain(error, model, self.config.place, place)
            return None
        changes = {}
        for name in model.model_fields:
            value = getattr(params, name)
            if isinstance(value, Path):
                found = self.config.find(str(value))
                if not found.exists():
                    self.report((*place, name), f"{name}: {value} does not exist")
                changes[name] = found
        return params.model_copy(update=changes) if changes else params

    def _check_ids(self) -> None:
        seen: set[str] = set(configuration.RESERVED_IDS)
        for index, spec in enumerate(self.spec.stages):
            if spec.id in seen:
                why = "is reserved" if spec.id in configuration.RESERVED_IDS else "is used twice"
                self.report(("stages", index, "id"), f"stage id {spec.id!r} {why}")
            seen.add(spec.id)

    def _in_order(self) -> Iterator[tuple[int, StageSpec]]:
        """Stages after what they read; what is left over stands in a cycle."""
        ids = {spec.id for spec in self.spec.stages} | {"source"}
        waiting = dict(enumerate(self.spec.stages))
        done = {"source"}
        while waiting:
            ready = [i for i, spec in waiting.items() if set(self._reads(spec)) & ids <= done]
            if not ready:
                names = ", ".join(repr(spec.id) for spec in waiting.values())
                first = next(iter(waiting))
                self.report(("stages", first, "from"), f"stages {names} wait for each other (a cycle)")
                return
            for index in ready:
                done.add(waiting[index].id)
                yield index, waiting.pop(index)

    def _reads(self, spec: StageSpec) -> list[str]:
        reads = list(spec.parents)
        if spec.use in STAGES:
            values = [spec.with_.get(name) for name in reference_fields(load_stage(spec.use).Params)]
            reads += [value for value in values if isinstance(value, str)]
        return reads

    def _stage(self, index: int, spec: StageSpec) -> None:
        place = ("stages", index)
        self.expanded[spec.id] = []
        if spec.use not in STAGES:
            hint = nearest(spec.use, list(STAGES)) or "; known: " + ", ".join(STAGES)
            self.report((*place, "use"), f"unknown stage {spec.use!r}{hint}")
            return
        if spec.use.split(".")[0] in configuration.RESERVED_IDS:
            self.report((*place, "use"), f"{spec.use!r} belongs under {spec.use.split('.')[0]}:, not in stages")
            return
        parents = self._parents(place, spec)
        for suffix, values in self._variants(place, spec):
            params = self._params(spec.use, values, (*place, "with"))
            if params is not None:
                self._add(place, spec.id + suffix, spec, params, parents)

    def _variants(self, place: tuple[Any, ...], spec: StageSpec) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, choices in spec.matrix.items():
            if not choices:
                self.report((*place, "matrix", key), f"matrix key {key!r} has no values")
            if key in spec.with_:
                self.report((*place, "matrix", key), f"{key!r} stands under both matrix and with")
        for combination in itertools.product(*spec.matrix.values()):
            suffix = "".join(f"-{value}" for value in combination)
            if suffix and not configuration.is_identifier("x" + suffix):
                self.report((*place, "matrix"), f"matrix value {suffix[1:]!r} cannot be part of a name")
            yield suffix, {**spec.with_, **dict(zip(spec.matrix, combination, strict=True))}

    def _parents(self, place: tuple[Any, ...], spec: StageSpec) -> list[str]:
        stage = load_stage(spec.use)
        names = spec.parents or (["source"] if stage.accepts else [])
        parents = [node for name in names for node in self._resolve((*place, "from"), name)]
        if len(parents) > 1 and not stage.many:
            self.report((*place, "from"), f"{spec.use} takes one input, not {len(parents)} ({', '.join(parents)})")
        for name in parents:
            kind = load_stage(self.nodes[name].use).produces if name in self.nodes else None
            if kind is not None and kind not in stage.accepts:
                takes = ", ".join(sorted(stage.accepts))
                self.report((*place, "from"), f"{spec.use} cannot read {name!r}, a {kind} artifact; it takes: {takes}")
        return parents

    def _resolve(self, place: tuple[Any, ...], name: str) -> list[str]:
        if name not in self.expanded:
            known = [*self.expanded, *(spec.id for spec in self.spec.stages)]
            self.report(place, f"there is no stage {name!r}{nearest(name, known)}")
            return []
        return self.expanded[name]

    def _add(self, place: tuple[Any, ...], node_id: str, spec: StageSpec, params: Params, parents: list[str]) -> None:
        stage = load_stage(spec.use)
        refs = self._references(place, params)
        self._check_given(place, stage, spec.use, params)
        calibration = self._calibration(place, params, parents) if stage.reads_calibration(params) and parents else None
        self.nodes[node_id] = Node(
            node_id,
            spec.use,
            params,
            tuple(parents),
            refs,
            calibration,
            "data" if self.has_data and stage.uses - {"rules"} else None,
            self.rules if "rules" in stage.uses else None,
        )
        self.expanded[spec.id].append(node_id)

    def _references(self, place: tuple[Any, ...], params: Params) -> dict[str, str]:
        refs = {}
        for name in reference_fields(type(params)):
            value = getattr(params, name)
            targets = self._resolve((*place, "with", name), value) if value is not None else []
            if len(targets) > 1:
                self.report((*place, "with", name), f"{name}: {value!r} is {len(targets)} stages; name one")
            elif targets:
                refs[name] = targets[0]
        return refs

    def _check_given(self, place: tuple[Any, ...], stage: Stage[Any], use: str, params: Params) -> None:
        """Rules and data are there where the stage cannot do without; ``_calibration`` asks for the pass's text."""
        required = stage.requires(params)
        if "rules" in required and self.spec.rules is None:
            self.report((*place, "use"), f"{use} needs a rule file: set rules:")
        splits = required - {"rules"}
        if stage.reads_calibration(params) or getattr(params, "calibration", None) is not None:
            splits -= {"calibration"}
        if splits and not self.has_data:
            self.report((*place, "use"), f"{use} reads {', '.join(sorted(splits))} data: set data:")
        data = self.nodes.get("data")
        if (
            "eval" in splits
            and data is not None
            and data.use == "data.files"
            and getattr(data.params, "eval", None) is None
        ):
            self.report((*place, "use"), f"{use} asks evaluation rows: set eval: under data:")

    def _calibration(self, place: tuple[Any, ...], params: Params, parents: list[str]) -> str | None:
        values = {name: getattr(params, name) for name in CALIBRATION_FIELDS}
        if values["calibration"] is None and not self.has_data:
            self.report((*place, "use"), "calibration data is needed: set data.calibration or with.calibration")
            return None
        return add_calibration(self.nodes, parents[0], values, "data" if values["calibration"] is None else None)


def add_calibration(nodes: dict[str, Node], model: str, values: Mapping[str, Any], data: str | None) -> str:
    """The id of the calibration pass over ``model`` with these values, added when it is not there yet."""
    stage = load_stage("calibrate")
    params = stage.Params.model_validate(dict(values))
    for number in itertools.count(1):
        node_id = f"calibrate-{model}" + (f"-{number}" if number > 1 else "")
        known = nodes.get(node_id)
        if known is None:
            nodes[node_id] = Node(node_id, "calibrate", params, (model,), data=data)
            return node_id
        if known.params == params:
            return node_id
    raise AssertionError("unreachable")
