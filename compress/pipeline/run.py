"""Runs a graph: what is in the store is taken from there, the rest is made, one stage at a time.

``run.lock.json`` is rewritten after each stage; a gate that does not pass stops what depends on it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from compress import launch
from compress.artifact import Artifact, open_artifact
from compress.errors import ArtifactError, HoldfastError, UsageError
from compress.extras import versions_of
from compress.json_files import write_json
from compress.pipeline.executors import POLL_S, LocalExecutor, Outcome
from compress.pipeline.plan import Graph, Node
from compress.pipeline.store import Fingerprints, Store, run_key
from compress.pipeline.worker import Task
from compress.registry import load_stage
from compress.stage import Job, Stage

LOCK = "run.lock.json"
VERDICTS = ("FAIL", "INCONCLUSIVE", "PASS")


class Observer(Protocol):
    """Is told how a run goes; draws it."""

    def started(self, node: Node, number: int, total: int) -> None: ...
    def progress(self, done: int, total: int, note: str) -> None: ...
    def finished(self, node: Node, state: StageState) -> None: ...


@dataclass(frozen=True)
class StageState:
    """One line of ``run.lock.json``."""

    use: str
    key: str
    kind: str
    path: str
    digest: str
    cached: bool
    seconds: float
    peak_rss_bytes: int
    size_bytes: int


@dataclass
class RunState:
    """What a run has reached."""

    run: str
    name: str
    config: str
    stages: dict[str, StageState] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    verdict: str | None = None
    bundle: str | None = None
    report: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints and ``run.lock.json`` holds."""
        value = dict(vars(self))
        value["stages"] = {name: vars(state) for name, state in self.stages.items()}
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunState:
        """Read back what ``to_json`` gave."""
        stages = {name: StageState(**state) for name, state in value["stages"].items()}
        return cls(**{**value, "stages": stages})


class Resolver:
    """Keys of nodes whose inputs exist, and the artifacts in the store."""

    def __init__(self, graph: Graph, store: Store) -> None:
        self.graph = graph
        self.store = store
        self.fingerprints = Fingerprints(store.root)
        self.artifacts: dict[str, Artifact] = dict(graph.given)

    def key(self, node: Node) -> str:
        """The store's name for a node whose upstream artifacts are all known."""
        stage = load_stage(node.use)
        return run_key(
            {
                "use": node.use,
                "version": stage.version,
                "params": self.recorded_params(node),
                "inputs": self.recorded_inputs(node, stage),
                "names": list(node.parents) if stage.many else None,
                "seed": self.graph.seed,
                "libraries": versions_of(sorted(stage.libraries)),
            }
        )

    def recorded_params(self, node: Node) -> dict[str, Any]:
        """Parameters as they shape the bytes: a path stands for the content behind it."""
        values = node.params.model_dump(mode="json")
        for name in type(node.params).model_fields:
            value = getattr(node.params, name)
            if isinstance(value, Path):
                values[name] = {"name": value.name, "digest": self.fingerprints.of(value)}
        return values

    def recorded_inputs(self, node: Node, stage: Stage[Any]) -> dict[str, str]:
        """Digests of everything the node reads, by role."""
        inputs = {f"from.{i}": self.artifacts[name].digest for i, name in enumerate(node.parents)}
        inputs |= {f"ref.{name}": self.artifacts[target].digest for name, target in sorted(node.refs.items())}
        if node.calibration:
            inputs["calibration"] = self.artifacts[node.calibration].digest
        if node.data:
            files = self.artifacts[node.data].record["files"]
            for split in sorted(stage.uses - {"rules"}):
                if f"{split}.jsonl" in files:
                    inputs[f"data.{split}"] = files[f"{split}.jsonl"]["sha256"]
        if node.rules:
            inputs["rules"] = self.fingerprints.of(node.rules)
        return inputs | {f"file.{path.name}": self.fingerprints.of(path) for path in stage.files(node.params)}

    def ready(self, node: Node) -> bool:
        """Whether everything upstream exists."""
        return all(name in self.artifacts for name in node.upstream())

    def job(self, node: Node, out: Path, scratch: Path) -> Job[Any]:
        """A job over the inputs that exist so far (for estimates and checks)."""
        have = self.artifacts
        return Job(
            params=node.params,
            out=out,
            scratch=scratch,
            inputs=tuple(have[name] for name in node.parents if name in have),
            names=tuple(name for name in node.parents if name in have),
            refs={name: have[target] for name, target in node.refs.items() if target in have},
            calibration=have.get(node.calibration) if node.calibration else None,
            data=have.get(node.data) if node.data else None,
            rules=node.rules,
            seed=self.graph.seed,
        )


class Run:
    """One run of a graph over a store; ``folder`` holds its lock file, logs and report."""

    def __init__(
        self,
        graph: Graph,
        store: Store,
        folder: Path,
        state: RunState,
        executor: LocalExecutor,
        observer: Observer,
        *,
        threads: int,
    ) -> None:
        self.graph = graph
        self.store = store
        self.folder = folder
        self.state = state
        self.executor = executor
        self.observer = observer
        self.resolver = Resolver(graph, store)
        self.threads = threads

    def execute(self) -> RunState:
        """Run what is not in the store. Raises StageError; what finished is kept."""
        for number, node in enumerate(self.graph.nodes.values(), 1):
            reason = self._blocked(node)
            if reason:
                self.state.skipped[node.id] = reason
                continue
            self.observer.started(node, number, len(self.graph.nodes))
            self._stage(node)
            self.observer.finished(node, self.state.stages[node.id])
            self.save(self.state, self.folder)
        self.state.verdict = self._verdict()
        self.save(self.state, self.folder)
        return self.state

    def _blocked(self, node: Node) -> str | None:
        for name in self.graph.ancestors(node.id):
            artifact = self.resolver.artifacts.get(name)
            if artifact is not None and artifact.kind == "proof" and artifact.facts["verdict"] != "PASS":
                return f"the gate {name!r} said {artifact.facts['verdict']}"
        return None

    def _stage(self, node: Node) -> None:
        key = self.resolver.key(node)
        artifact = self.store.get(key)
        outcome = Outcome(0.0, 0, True)
        if artifact is None:
            outcome = self._make(node, key)
            artifact = self.store.get(key)
        if artifact is None:
            raise ArtifactError(f"{self.store.path(key)} vanished", next="run the same command again")
        self.resolver.artifacts[node.id] = artifact
        made = artifact.measurements().get("stage", {})
        self.state.stages[node.id] = StageState(
            use=node.use,
            key=key,
            kind=artifact.kind,
            path=str(artifact.path),
            digest=artifact.digest,
            cached=outcome.cached,
            seconds=made.get("seconds", outcome.seconds),
            peak_rss_bytes=made.get("peak_rss_bytes", outcome.peak_rss_bytes),
            size_bytes=artifact.size_bytes(),
        )

    def _make(self, node: Node, key: str) -> Outcome:
        """Run the stage; beside a process that leads, take part in it or wait until that one has made the artifact."""
        task, here = self._task(node, key), launch.place()
        if here.leads:
            return self.executor.run(task, self.observer.progress)

        def made() -> bool:
            return self.store.path(key).is_dir()

        if load_stage(node.use).together:
            task = replace(task, log=task.log.with_suffix(f".{here.rank}.log"))
            self.executor.run(task, self.observer.progress, until=made)
        while not made():
            time.sleep(POLL_S)
        return Outcome(0.0, 0, True)

    def _task(self, node: Node, key: str) -> Task:
        stage = load_stage(node.use)
        job = self.resolver.job(node, self.store.root, self.store.root)
        for name in node.upstream():
            open_artifact(self.resolver.artifacts[name].path, verify=True)
        ancestors = {
            n: self.resolver.artifacts[n] for n in self.graph.ancestors(node.id) if n in self.resolver.artifacts
        }
        return Task(
            key=key,
            node_id=node.id,
            use=node.use,
            params=node.params,
            recorded_params=self.resolver.recorded_params(node),
            recorded_inputs=self.resolver.recorded_inputs(node, stage),
            store=self.store.root,
            log=self.folder / "logs" / f"{node.id}.log",
            seed=self.graph.seed,
            threads=self.threads,
            inputs=job.inputs,
            names=job.names,
            refs=job.refs,
            ancestors=ancestors,
            calibration=job.calibration,
            data=job.data,
            rules=node.rules,
        )

    def _verdict(self) -> str | None:
        said = {a.facts["verdict"] for a in self.resolver.artifacts.values() if a.kind == "proof"}
        return next((verdict for verdict in VERDICTS if verdict in said), None)

    @staticmethod
    def save(state: RunState, folder: Path) -> None:
        """Write the run's lock file atomically, once for all processes of a launch."""
        if not launch.place().leads:
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / LOCK, state.to_json())


def load_run(folder: Path) -> RunState:
    """Read the state of a run. Raises UsageError when there is none."""
    try:
        return RunState.from_json(json.loads((folder / LOCK).read_text()))
    except FileNotFoundError:
        raise UsageError(f"{folder} is not a run: it has no {LOCK}", next="compress pipeline CONFIG") from None
    except (ValueError, KeyError, TypeError) as error:
        raise HoldfastError(f"{folder / LOCK} is damaged ({error})", next="run the pipeline again") from None
