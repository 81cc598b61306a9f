"""One stage without a pipeline file: ``compress run``, ``validate`` and ``package`` build a small graph."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compress.artifact import Artifact, open_artifact
from compress.config import explain
from compress.errors import ConfigError, ResourceError, UsageError
from compress.pipeline.plan import CALIBRATION_FIELDS, Graph, Node, add_calibration, reference_fields
from compress.registry import load_stage, nearest
from compress.stage import Stage


def single_graph(
    use: str,
    sources: Sequence[Path],
    values: Mapping[str, Any],
    *,
    data: Mapping[str, Path] | None = None,
    rules: Path | None = None,
    seed: int = 0,
) -> tuple[Graph, str]:
    """The graph that runs ``use`` on artifacts that exist, and the id of its node.

    ``data`` maps split names (train, calibration, eval) to files, or ``{"": folder}`` for a data artifact.
    """
    stage = load_stage(use)
    parents = _open_all(use, stage, sources)
    given, refs, values = _references(stage, values)
    given |= parents
    params = _params(use, values)
    nodes: dict[str, Node] = {}
    if rules is not None:
        from runtime.rules import load_rules

        load_rules(rules)  # a fault in the file shows before anything runs
    data_node = _data_node(data, rules, given, nodes)
    calibration = (
        _calibration(use, params, list(parents), data_node, nodes) if stage.reads_calibration(params) else None
    )
    node = Node(
        use.replace(".", "-"),
        use,
        params,
        tuple(parents),
        refs,
        calibration,
        data_node if stage.uses - {"rules"} else None,
        rules if "rules" in stage.uses else None,
    )
    nodes[node.id] = node
    return Graph(nodes, seed, given), node.id


def _references(
    stage: Stage[Any], values: Mapping[str, Any]
) -> tuple[dict[str, Artifact], dict[str, str], dict[str, Any]]:
    """Artifacts behind reference parameters, opened from the paths that the user gave."""
    given, refs, values = {}, {}, dict(values)
    for name in reference_fields(stage.Params):
        if values.get(name) is not None:
            given[f"ref-{name}"] = open_artifact(Path(str(values[name])))
            refs[name] = values[name] = f"ref-{name}"
    return given, refs, values


def _calibration(use: str, params: Any, parents: Sequence[str], data: str | None, nodes: dict[str, Node]) -> str | None:
    wanted = {name: getattr(params, name) for name in CALIBRATION_FIELDS}
    if wanted["calibration"] is not None:
        return add_calibration(nodes, parents[0], wanted, None)
    if data is not None:
        return add_calibration(nodes, parents[0], wanted, data)
    without = ", or --with imatrix=false" if "imatrix" in type(params).model_fields else ""
    raise UsageError(f"{use} needs calibration text", next=f"add --with calibration=FILE.jsonl{without}")


def _open_all(use: str, stage: Stage[Any], sources: Sequence[Path]) -> dict[str, Artifact]:
    given: dict[str, Artifact] = {}
    for path in sources:
        artifact = open_artifact(path)
        if artifact.kind not in stage.accepts:
            takes = ", ".join(sorted(stage.accepts)) or "no input"
            raise UsageError(
                f"{use} cannot read {path}, a {artifact.kind} artifact", next=f"give one that it takes: {takes}"
            )
        name = path.stem if path.is_file() else path.resolve().name
        while name in given:
            name += "_"
        given[name] = artifact
    if stage.accepts and not given:
        raise UsageError(f"{use} needs an artifact to work on", next="give --from ARTIFACT")
    if len(given) > 1 and not stage.many:
        raise UsageError(f"{use} takes one input, not {len(given)}", next="give --from once")
    return given


def _params(use: str, values: dict[str, Any]) -> Any:
    model = load_stage(use).Params
    try:
        params = model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(use, explain(error, model, lambda _: "--with")) from None
    for name in model.model_fields:
        value = getattr(params, name)
        if isinstance(value, Path) and not value.exists():
            raise UsageError(f"--with {name}={value}: there is no such file or folder", next="check the path")
    return params


def _data_node(
    data: Mapping[str, Path] | None, rules: Path | None, given: dict[str, Artifact], nodes: dict[str, Node]
) -> str | None:
    if not data:
        return None
    if "" in data:
        given["data"] = open_artifact(data[""])
        return "data"
    splits = ["train", "calibration", "eval"]
    for key, path in data.items():
        if key not in splits:
            raise UsageError(f"unknown split {key!r}{nearest(key, splits)}", next="e.g. --data eval=FILE.jsonl")
        if not path.exists():
            raise UsageError(f"--data {key}={path}: there is no such file or folder", next="check the path")
    params = _params("data.files", {k: str(p) for k, p in data.items()})
    nodes["data"] = Node("data", "data.files", params, rules=rules)
    return "data"


def parse_data(options: Sequence[str]) -> dict[str, Path]:
    """``--data eval=FILE`` (repeated), ``--data FILE.jsonl`` (the evaluation items) or ``--data FOLDER``."""
    found: dict[str, Path] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if equals:
            found[key] = Path(value)
        elif Path(option).is_dir():
            found[""] = Path(option)
        else:
            found["eval"] = Path(option)
    return found


def require_free(out: Path) -> None:
    """Raise UsageError where something is already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already and is not empty", next="choose another --out")


def deliver(artifact: Artifact, out: Path) -> Artifact:
    """Copy a finished artifact to the place the user named. ``out`` must not hold anything yet."""
    require_free(out)
    staging = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _copy(artifact.path, staging)
        if out.exists():
            out.rmdir()
        os.rename(staging, out)
    except OSError as error:
        raise ResourceError(
            f"{out} cannot be written: {error.strerror or error}",
            next=f"free space there or choose another --out; the finished artifact is kept in {artifact.path}",
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return open_artifact(out, verify=False)


def _copy(source: Path, target: Path) -> None:
    """A folder's files, by anyone's leave to change them; the first that fails is the error."""
    target.mkdir()
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir()
        else:
            shutil.copyfile(path, place)
