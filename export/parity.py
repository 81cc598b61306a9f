"""``export.parity``: is it the same model everywhere?

The first input (a Hugging Face or GPTQ folder) is the reference. Every other one reads the same prompts in the runtime
that ships, and is compared on what it reads, what it holds and what it says. Quantization changes weights and nothing
else; so a candidate's own weights are read back into transformers, and the runtime must agree with *those* within its
arithmetic, while the weights themselves must be the reference's within what their types explain. The first difference
that neither explains fails the stage.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from compress.artifact import Artifact, write_json
from compress.errors import ArtifactError, ParityFailed, UsageError
from compress.stage import Job, Needs, Params, Stage
from export import parity_words as words
from export.checkpoint import Checkpoint, open_checkpoint
from export.parity_answers import compare_answers
from export.parity_logits import Floats, Twin, twin_of
from export.parity_weights import HEAD, Stored, read_gguf, read_gptq, unexplained, whole
from runtime.session import Session, find_model, load

log = logging.getLogger(__name__)

FILE = "parity.json"
REFERENCES = ("hf", "gptq")


class ParityParams(Params):
    """Parameters of ``export.parity``."""

    prompts: int = Field(200, ge=1)
    """Prompts to compare; where the data has fewer, the result says so."""
    prompts_file: Path | None = None
    """JSONL of ``{"messages"}`` or ``{"text"}`` rows; by default the pipeline's evaluation data."""
    tokens: int = Field(32, ge=1)
    """Greedy tokens per prompt."""
    length: int = Field(128, ge=1)
    """Most tokens of a prompt whose logits are compared (its token ids are compared in full)."""
    noise_prompts: int = Field(32, ge=1)
    """Prompts on which the runtime's arithmetic is imitated, and the distance to the reference is measured."""


@dataclass
class Check:
    """One comparison: ``difference`` is the first one that nothing explains."""

    name: str
    count: int
    """What was compared: conversations, texts, weights, positions …"""
    differences: list[str] = field(default_factory=list)
    figures: Mapping[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """For parity.json."""
        return {
            "check": self.name,
            "passed": not self.differences,
            "compared": self.count,
            "different": len(self.differences),
            "first_difference": self.differences[0] if self.differences else None,
            **self.figures,
        }


@dataclass(frozen=True)
class Reference:
    """The model that all others are compared with, and what is asked."""

    name: str
    checkpoint: Checkpoint
    own: words.Words
    talks: Sequence[words.Messages]
    texts: Sequence[str]
    """Prompts that are no conversations."""
    rows: Sequence[Sequence[int]]
    """Token ids of the prompts, cut to ``length``."""
    logits: Mapping[int, Floats]
    """Of the first rows."""

    def weight(self, name: str) -> Floats:
        """A weight by name; the head of a tied model is its embedding."""
        names = self.checkpoint.names()
        if name == HEAD and name not in names:
            name = next(n for n in names if n.endswith(("embed_tokens.weight", "wte.weight")))
        return whole(self.checkpoint, name)


class ExportParity(Stage[ParityParams]):
    """Writes ``parity.json``, or fails with the first difference."""

    Params = ParityParams
    version = 1
    accepts = frozenset({"gguf", "gptq", "hf", "onnx"})
    produces = "parity"
    many = True
    uses = frozenset({"eval"})
    modules = frozenset({"torch", "transformers"})
    libraries = frozenset({"gguf", "llama-cpp-python", "onnxruntime-genai", "torch", "transformers"})

    def needs(self, job: Job[ParityParams]) -> Needs:
        """Memory: the reference in float32 twice, and a candidate."""
        largest = max((a.size_bytes() for a in job.inputs), default=0)
        return Needs(ram_bytes=5 * largest)

    def check(self, job: Job[ParityParams]) -> None:
        """The first input is a reference, there is something to compare, and there are prompts."""
        if not job.inputs:
            return
        kinds = [artifact.kind for artifact in job.inputs]
        if kinds[0] not in REFERENCES:
            raise UsageError(
                f"the reference (the first input) is a {kinds[0]} artifact", next="name an hf or gptq folder first"
            )
        if len(kinds) < 2 or "hf" in kinds[1:]:
            raise UsageError(
                f"export.parity compares exports with a reference; it was given {', '.join(kinds)}",
                next="from: [MODEL, GGUF, ONNX, …]",
            )
        _prompts_path(job)

    def run(self, job: Job[ParityParams]) -> Mapping[str, Any]:
        """Compare every candidate; raises ParityFailed naming candidate, check and first difference."""
        self.check(job)
        reference = read_reference(job)
        results = []
        for number, (name, artifact) in enumerate(zip(job.names[1:], job.inputs[1:], strict=True), 1):
            results.append((name, artifact, compare(reference, artifact, job)))
            job.progress(number, len(job.inputs) - 1, name)
        write_json(job.out / FILE, report(job, reference, results))
        require(reference, results)
        return {
            "verdict": "PASS",
            "reference": reference.name,
            "prompts": len(reference.rows),
            "candidates": {name: [check.name for check in checks] for name, _, checks in results},
        }


def _prompts_path(job: Job[ParityParams]) -> Path:
    if job.params.prompts_file is not None:
        return job.params.prompts_file
    if job.data is None or not (job.data.path / "eval.jsonl").is_file():
        raise UsageError(
            "export.parity needs prompts",
            next="name evaluation data, or --with prompts_file=FILE.jsonl (or --data FILE)",
        )
    return job.data.path / "eval.jsonl"


def read_reference(job: Job[ParityParams]) -> Reference:
    """The first input as transformers reads it, and the prompts as it tokenizes them."""
    folder = job.inputs[0].path
    own, checkpoint = words.hugging_face(folder), open_checkpoint(folder)
    talks, texts = words.read_talks(_prompts_path(job), job.params.prompts)
    prompts = [own.render(words.asked(talk), True) for talk in talks] if own.template else list(map(words.plain, talks))
    begin = [own.special["bos"]] if own.adds[0] else []
    spoken = [own.encode(text) for text in prompts if text]
    written = [[*begin, *ids] for text in texts if (ids := own.encode(text))]
    limit = min(job.params.length, _context(checkpoint) - job.params.tokens)
    rows = [ids[:limit] for ids in (*spoken, *written) if ids]
    if not rows:
        raise UsageError(
            f"{job.inputs[0].path} has no token ids for any prompt", next="give prompts that its tokenizer knows"
        )
    few = rows[: job.params.noise_prompts]
    logits = dict(twin_of(checkpoint).logits(few))
    return Reference(job.names[0], checkpoint, own, talks, texts, rows, logits)


def _context(checkpoint: Checkpoint) -> int:
    for key in ("max_position_embeddings", "n_positions"):
        if isinstance(checkpoint.config.get(key), int):
            return int(checkpoint.config[key])
    return 1 << 20


def compare(reference: Reference, artifact: Artifact, job: Job[ParityParams]) -> list[Check]:
    """All checks of one candidate."""
    if artifact.kind == "gptq":
        own = words.hugging_face(artifact.path)
        return [*_read_alike(reference, own, None), _hold_alike(reference, read_gptq(artifact.path), None)]
    path = find_model(artifact.path)[1]
    twin = Twin(reference.checkpoint)
    with load(artifact.path, threads=job.threads) as session:
        own = words.gguf(path, session) if artifact.kind == "gguf" else words.onnx(path, session)
        checks = _read_alike(reference, own, path if artifact.kind == "gguf" else None)
        checks.append(_hold_alike(reference, _weights(path, artifact.kind, reference.checkpoint), twin))
        if checks[-1].differences and not twin.filled:
            return checks  # without all weights there is nothing to run
        checks += _say_alike(reference, own, twin, session, job.params)
    return checks


def _weights(path: Path, kind: str, reference: Checkpoint) -> Iterable[Stored]:
    if kind == "gguf":
        return read_gguf(path, reference)
    from export.parity_onnx import read_onnx

    return read_onnx(path, reference)


def _read_alike(reference: Reference, own: words.Words, gguf: Path | None) -> list[Check]:
    """Template, token ids, special tokens, end tokens."""
    theirs = reference.own
    talks = [*words.TALKS, *reference.talks, *map(words.asked, reference.talks)]
    texts = list(_texts(reference, own))
    ids = list(words.token_ids(own, theirs, texts))
    figures = {}
    if gguf is not None:
        figures = {"probes": 0}
        try:
            figures["probes"] = words.probe(gguf, reference.checkpoint)
        except ArtifactError as error:
            ids.append(error.what)
    return [
        Check("template", len(talks) if theirs.template else 0, list(words.templates(own, theirs, talks))),
        Check("token ids", len(texts), ids, figures),
        Check("special tokens", len(theirs.control), list(words.special_tokens(own, theirs))),
        Check("end tokens", len(theirs.ends), list(words.end_tokens(own, theirs)), _extra_stops(own, theirs)),
    ]


def _texts(reference: Reference, own: words.Words) -> Iterator[tuple[str, str]]:
    """Prompts as the reference and as a candidate has them: a candidate may render spaces otherwise."""
    for talk in map(words.asked, reference.talks):
        if reference.own.template is None:
            yield words.plain(talk), words.plain(talk)
        elif (expected := reference.own.render(talk, True)) is not None:
            yield expected, own.render(talk, True) or expected
    yield from zip(reference.texts, reference.texts, strict=True)


def _extra_stops(own: words.Words, theirs: words.Words) -> dict[str, Any]:
    """Tokens at which the runtime stops of its own accord (llama.cpp knows some by their text)."""
    return {"also_stops_at": sorted(own.stops - theirs.ends)}


def _hold_alike(reference: Reference, weights: Iterable[Stored], twin: Twin | None) -> Check:
    """Every weight against the reference's, by its type; they go into ``twin`` on the way."""
    check = Check("weights", 0)
    worst: dict[str, float] = {}
    try:
        for stored in weights:
            error, difference = unexplained(stored, reference.weight(stored.name))
            worst[stored.kind] = max(worst.get(stored.kind, 0.0), error)
            check.count += 1
            check.differences += [difference] if difference else []
            if twin is not None and stored.values.shape == reference.weight(stored.name).shape:
                twin.put(stored)
        if twin is not None:
            twin.complete()
    except ArtifactError as error:
        check.differences.insert(0, error.what)
    check.figures = {"largest_row_error": {kind: float(f"{value:.4g}") for kind, value in sorted(worst.items())}}
    return check


def _say_alike(
    reference: Reference, own: words.Words, twin: Twin, session: Session, params: ParityParams
) -> list[Check]:
    """Logits and greedy tokens."""
    room = session.engine.context - params.tokens
    rows = [row[:room] for row in reference.rows]
    found = compare_answers(
        twin, session, rows, reference.logits, ends=reference.own.ends, count=params.tokens, few=params.noise_prompts
    )
    return [
        Check("logits", found.gap.positions, found.logits, found.figures),
        Check("greedy", len(rows), found.greedy, {"tokens": params.tokens, "near_ties": found.near_ties}),
    ]


def report(
    job: Job[ParityParams], reference: Reference, results: Sequence[tuple[str, Artifact, list[Check]]]
) -> dict[str, Any]:
    """``parity.json``."""
    return {
        "verdict": "FAIL" if any(c.differences for _, _, checks in results for c in checks) else "PASS",
        "reference": {"name": reference.name, "kind": job.inputs[0].kind, "digest": job.inputs[0].digest},
        "prompts": {
            "asked": job.params.prompts,
            "used": len(reference.rows),
            "cut": sum(len(row) >= job.params.length for row in reference.rows),
        },
        "candidates": [
            {
                "name": name,
                "kind": artifact.kind,
                "digest": artifact.digest,
                "passed": not any(check.differences for check in checks),
                "not_run": ["logits", "greedy"] if artifact.kind == "gptq" else [],
                "checks": [check.told() for check in checks],
            }
            for name, artifact, checks in results
        ],
    }


def require(reference: Reference, results: Sequence[tuple[str, Artifact, list[Check]]]) -> None:
    """Raise ParityFailed for the first check of the first candidate that failed."""
    for name, _, checks in results:
        failed = [check for check in checks if check.differences]
        for check in failed:
            log.error("%s, %s: %d different, first: %s", name, check.name, len(check.differences), check.differences[0])
        if failed:
            others = f" (also: {', '.join(check.name for check in failed[1:])})" if failed[1:] else ""
            first = f"{failed[0].name}: {failed[0].differences[0]}{others}"
            raise ParityFailed(
                f"{name} is not the same model as {reference.name}: {first}",
                next="export it again; if it stays, the exporter, the file or the runtime is at fault",
            )
