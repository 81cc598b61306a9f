"""What a run will take, told before it starts: outlines go along the graph as artifacts will."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from compress import launch
from compress.artifact import Artifact, sniff_kind
from compress.errors import HoldfastError, MissingExtra, ResourceError, UnsupportedArchitecture
from compress.extras import EXTRA_OF, missing
from compress.machine import Machine
from compress.pipeline.outlines import outline_of
from compress.pipeline.plan import Graph, Node
from compress.pipeline.run import Resolver
from compress.pipeline.store import Store
from compress.registry import load_stage
from compress.stage import Job, JobOutline, Needs, Stage

logger = logging.getLogger(__name__)
SPARE_DISK = 200_000_000


@dataclass(frozen=True)
class PlannedStage:
    """What is known of one stage before anything runs."""

    node: Node
    state: str  # "cached" | "run" | "waits"
    artifact: Artifact | None
    needs: Needs | None
    """Nothing for what is cached; None where it cannot be told yet (a model that is not on this machine)."""
    missing: tuple[str, ...]

    def seconds(self, machine: Machine) -> float | None:
        """Wall time of the stage; None for one that does not run, or cannot be told."""
        return machine.seconds(self.needs.work) if self.needs and self.artifact is None else None


@dataclass(frozen=True)
class Totals:
    """Of all stages that will run and can be told."""

    disk_bytes: int
    ram_bytes: int
    """The largest: stages run one after the other."""
    seconds: float
    """With the one start of the process that stages are forked from."""


def totals(planned: Sequence[PlannedStage], machine: Machine) -> Totals:
    """Disk and seconds summed, the largest memory."""
    known = [stage.needs for stage in planned if stage.needs]
    times = [seconds for stage in planned if (seconds := stage.seconds(machine)) is not None]
    return Totals(
        sum(needs.disk_bytes for needs in known),
        max((needs.ram_bytes for needs in known), default=0),
        sum(times) + (machine.start_s if times else 0.0),
    )


def plan(graph: Graph, store: Store) -> list[PlannedStage]:
    """What would run, what is cached, what each stage needs. Runs nothing.

    Raises UsageError where an input that exists cannot be worked on (wrong architecture…).
    """
    resolver = Resolver(graph, store)
    outlines = {name: outline_of(artifact) for name, artifact in graph.given.items()}
    planned = []
    for node in graph.nodes.values():
        stage = load_stage(node.use)
        artifact = store.get(resolver.key(node)) if resolver.ready(node) else None
        job = resolver.job(node, store.root, store.root)
        state = "cached" if artifact else "run" if resolver.ready(node) else "waits"
        if artifact:
            resolver.artifacts[node.id] = artifact
        elif not missing(stage.modules):
            _check_early(stage, job, node, resolver)
        needs = _outlined(stage, node, graph, outlines)
        if artifact:
            known, told = outline_of(artifact), outlines.get(node.id)
            outlines[node.id] = replace(known, model=known.model or (told.model if told else None))
            needs = Needs()
        absent = () if artifact else tuple(missing(stage.modules))
        planned.append(PlannedStage(node, state, artifact, needs, absent))
    return planned


def _outlined(stage: Stage[Any], node: Node, graph: Graph, outlines: dict[str, Any]) -> Needs | None:
    """The needs of a node, whose outline is added; None where it or what it reads cannot be told."""
    if not all(name in outlines for name in node.upstream()):
        return None
    job: JobOutline[Any] = JobOutline(
        params=node.params,
        inputs=tuple(outlines[name] for name in node.parents),
        refs={name: outlines[target] for name, target in node.refs.items()},
        calibration=outlines[node.calibration] if node.calibration else None,
        data=outlines[node.data] if node.data else None,
        rules=node.rules,
        seed=graph.seed,
    )
    try:
        outlines[node.id] = stage.outline(job)
        return stage.needs(job)
    except LookupError as error:
        logger.debug("%s cannot be told yet: %s", node.id, error)
        return None


def _check_early(stage: Stage[Any], job: Job[Any], node: Node, resolver: Resolver) -> None:
    """Check what can be checked now: a model folder's architecture before the folder is in the store."""
    if resolver.ready(node):
        stage.check(job)
        return
    source = resolver.graph.nodes.get("source")
    if node.parents != ("source",) or source is None or source.use != "source.path":
        return
    folder = source.params.model_dump()["path"]
    model = Artifact(sniff_kind(folder), folder, "", {}, {"files": {}})
    try:
        stage.check(replace(job, inputs=(model,), names=("source",)))
    except UnsupportedArchitecture:
        raise
    except HoldfastError as error:  # what else the stage reads does not exist yet
        logger.debug("%s is checked again when it runs: %s", node.id, error)


def check_resources(planned: Sequence[PlannedStage], root: Path, *, available: int | None = None) -> None:
    """Raise before the first stage when a module, disk or memory is lacking.

    ``available``: bytes of memory that programs may take; by default what the system says now.
    """
    for stage in planned:
        for module in stage.missing:
            raise MissingExtra(module, EXTRA_OF.get(module, "all"))
    known = [(stage.node, stage.needs) for stage in planned if stage.needs and stage.artifact is None]
    disk = sum(needs.disk_bytes for _, needs in known) + SPARE_DISK
    free = shutil.disk_usage(root).free
    if known and disk > free:
        node, largest = max(known, key=lambda pair: pair[1].disk_bytes)
        raise ResourceError(
            f"too little disk for {root}: about {_gb(disk)} needed, {_gb(free)} free "
            f"(most of it, {_gb(largest.disk_bytes)}, for stage {node.id!r})",
            next="free space there, or choose another place with --work-dir",
        )
    room = psutil.virtual_memory().available if available is None else available
    for node, needs in sorted(known, key=lambda pair: -pair[1].ram_bytes):
        use = load_stage(node.use)
        wanted = needs.ram_bytes * (launch.place().neighbours if use.together else 1)
        if wanted > room:
            smaller = f"; {use.smaller} would make the stage smaller" if use.smaller else ""
            raise ResourceError(
                f"too little memory for stage {node.id!r}: about {_gb(wanted)} needed, {_gb(room)} available",
                next=f"close other programs or run on a larger machine{smaller}",
            )


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
