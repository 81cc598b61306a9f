"""``export.parity``: is it the same model everywhere?

The first input (a Hugging Face or GPTQ folder) is the reference. Every other one reads the same prompts in the runtime
that ships, and is compared on what it reads, what it holds and what it says. Quantization changes weights and nothing
else; so a candidate's own weights are read back into transformers, and the runtime must agree with *those* within its
arithmetic, while the weights themselves must be the reference's within what their types explain. The first difference
that neither explains fails the stage.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from compress.artifact import Artifact
from compress.costs import WORKER, Work, forward, touched
from compress.errors import ParityFailed, UsageError
from compress.json_files import write_json
from compress.outline import Lengths, ModelOutline, Outline, read_split
from compress.stage import Job, JobOutline, Needs, Params, Stage
from export.checkpoint import Checkpoint, open_checkpoint
from export.parity.answers import TAIL
from export.parity.checks import Check, Reference, compare
from export.parity.prompts import asked, plain, read_talks
from export.parity.twin import BATCH_BYTES, BATCH_TOKENS, Row, Twin, fill
from export.parity.words import hugging_face
from runtime.engine.gguf_split import require_whole

log = logging.getLogger(__name__)

FILE = "parity.json"
LIBRARIES = 250_000_000
"""Bytes of both runtimes, two tokenizers, and torch's own."""
START_S, READ_S, TALK_S, ROW_S = 1.0, 0.6, 0.002, 0.002
"""Seconds of the interpreter: the reference; for a candidate loading and probes, a prompt read, a row answered."""
SPEED, RUNTIME_SPEED, WEIGHT_MOVED, SCORE_MOVED, ROW_BYTES = 1.0, 1.5, 800, 60, 16
"""Shares of the probe's float32 speed, in torch and in a runtime; bytes moved for a weight and for a score; bytes held
for an FFN channel of a token."""
BUDGET, LEAST = 5e11, 16
KEPT_BYTES = 256 << 20
"""Logits of the reference that are kept for all candidates."""
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
    scored: int | None = Field(None, ge=1)
    """Prompts whose logits and replies are compared; by default as many as 5 · 10¹¹ multiplications of the reference
    allow, and 16 at least. What is read (template, token ids) is compared on all."""
    noise_prompts: int = Field(32, ge=1)
    """Prompts on which the runtime's arithmetic is imitated, and the distance to the reference is measured; at most a
    quarter of those scored, but 8."""


class ExportParity(Stage[ParityParams]):
    """Writes ``parity.json``, or fails with the first difference."""

    Params = ParityParams
    version = 5
    accepts = frozenset({"gguf", "gptq", "hf", "onnx"})
    produces = "parity"
    many = True
    uses = frozenset({"eval"})
    modules = frozenset({"torch", "transformers"})
    libraries = frozenset({"gguf", "llama-cpp-python", "onnxruntime-genai", "torch", "transformers"})
    smaller = "fewer prompts (scored)"

    def requires(self, params: ParityParams) -> frozenset[str]:
        """The evaluation data, unless prompts are given."""
        return self.uses if params.prompts_file is None else frozenset()

    def outline(self, job: JobOutline[ParityParams]) -> Outline:
        """A report."""
        return Outline("parity", 3000 * len(job.inputs))

    def needs(self, job: JobOutline[ParityParams]) -> Needs:
        """Memory: one float32 model in torch and its file, the largest tensor three times (as stored, as it should be
        and their difference), the reference's logits of a few prompts, a candidate in its runtime with the logits that
        it keeps, and batches of logits.

        Work for each candidate: its weights read back and compared; in torch all rows, a few of them again with the
        runtime's roundings, the head at the compared positions alone; in the runtime each row once as prompt and reply
        (as long as those that were trained on, at most).
        """
        p, model = job.params, job.inputs[0].sizes
        lengths, prompts = self._lengths(job, model)
        rows = min(prompts, p.scored or afforded(model.parameters, lengths.prompt + p.tokens))
        few = min(p.noise_prompts, max(8, rows // 4), rows)
        taught = job.split("train")
        reply = min(p.tokens, taught.lengths(model).reply) if taught.rows else p.tokens
        length = lengths.prompt + reply
        asked = [c for c in job.inputs[1:] if c.kind != "gptq"]
        heads = min(length, TAIL + reply)
        one = _exact(model, rows + 2 * few, length, heads) + _ran(model, rows, length, heads)
        work = Work(python=START_S) + _exact(model, few, length, heads)
        work += (_held(model) + Work(python=READ_S + TALK_S * prompts)) * (len(job.inputs) - 1) + one * len(asked)
        memory = WORKER + LIBRARIES + (4 + model.weight_bytes) * model.parameters + 12 * model.head
        memory += min(KEPT_BYTES, 4 * few * heads * model.shape.vocab)
        memory += 4 * min(BATCH_BYTES, 4 * rows * heads * model.shape.vocab)
        memory += min(BATCH_TOKENS, rows * length) * ROW_BYTES * model.shape.ffn
        memory += max((c.disk_bytes for c in asked), default=0)
        return Needs(self.outline(job).disk_bytes, int(memory), work)

    @staticmethod
    def _lengths(job: JobOutline[ParityParams], model: ModelOutline) -> tuple[Lengths, int]:
        """Tokens of the prompts, and how many there are."""
        split = read_split(job.params.prompts_file) if job.params.prompts_file else job.split("eval")
        return split.lengths(model), min(job.params.prompts, max(1, split.rows))

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
        for artifact in job.inputs[1:]:
            if artifact.kind == "gguf":
                require_whole(artifact.path)
        _prompts_path(job)

    def run(self, job: Job[ParityParams]) -> Mapping[str, Any]:
        """Compare every candidate; raises ParityFailed naming candidate, check and first difference."""
        self.check(job)
        reference = read_reference(job)
        results = []
        how = {"tokens": job.params.tokens, "threads": job.threads}
        for number, (name, artifact) in enumerate(zip(job.names[1:], job.inputs[1:], strict=True), 1):
            results.append((name, artifact, compare(reference, artifact, **how)))
            job.progress(number, len(job.inputs) - 1, name)
        write_json(job.out / FILE, report(job, reference, results))
        require(reference, results)
        return {
            "verdict": "PASS",
            "reference": reference.name,
            "prompts": len(reference.talks) + len(reference.texts),
            "scored": len(reference.rows),
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
    own, checkpoint = hugging_face(folder), open_checkpoint(folder)
    talks, texts = read_talks(_prompts_path(job), job.params.prompts)
    prompts = [own.render(asked(talk), True, None) for talk in talks] if own.template else list(map(plain, talks))
    begin = [own.special["bos"]] if own.adds[0] else []
    spoken = [own.encode(text) for text in prompts if text]
    written = [[*begin, *ids] for text in texts if (ids := own.encode(text))]
    limit = min(job.params.length, _context(checkpoint) - job.params.tokens)
    rows = [list(ids) for ids in dict.fromkeys(tuple(ids[:limit]) for ids in (*spoken, *written) if ids)]
    if not rows:
        raise UsageError(
            f"{job.inputs[0].path} has no token ids for any prompt", next="give prompts that its tokenizer knows"
        )
    rows = rows[: job.params.scored or affordable(rows, job.params.tokens, checkpoint)]
    few = rows[: min(job.params.noise_prompts, max(8, len(rows) // 4))]
    twin = Twin(checkpoint)
    fill(twin, checkpoint)
    fit = KEPT_BYTES // (4 * twin.vocabulary * max(map(len, few)))
    logits = dict(twin.logits([Row(ids) for ids in few[: max(1, fit)]]))
    return Reference(job.names[0], checkpoint, own, talks, texts, rows, len(few), twin, logits)


def affordable(rows: Sequence[Sequence[int]], tokens: int, checkpoint: Checkpoint) -> int:
    """How many prompts with replies of ``tokens`` tokens BUDGET pays for; a parameter is one multiplication a token."""
    parameters = sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names())
    return afforded(parameters, sum(len(row) + tokens for row in rows) / len(rows))


def afforded(parameters: int, mean: float) -> int:
    """The same for rows of ``mean`` tokens."""
    return max(LEAST, int(BUDGET / (parameters * mean)))


def _exact(model: ModelOutline, rows: float, length: float, heads: float) -> Work:
    """Rows through transformers in float32, with the logits of ``heads`` positions each."""
    tokens = rows * length
    moved = 8 * touched(model, tokens) + SCORE_MOVED * rows * heads * model.shape.vocab
    return Work(float32=forward(model, tokens, length, rows * heads) / SPEED, moved=moved)


def _ran(model: ModelOutline, rows: float, length: float, heads: float) -> Work:
    """Rows in a runtime."""
    return Work(float32=forward(model, rows * length, length, rows * heads) / RUNTIME_SPEED, python=rows * ROW_S)


def _held(model: ModelOutline) -> Work:
    """Weights dequantized and compared row by row in float64."""
    return Work(moved=WEIGHT_MOVED * model.parameters)


def _context(checkpoint: Checkpoint) -> int:
    for key in ("max_position_embeddings", "n_positions"):
        if isinstance(checkpoint.config.get(key), int):
            return int(checkpoint.config[key])
    return 1 << 20


def report(
    job: Job[ParityParams], reference: Reference, results: Sequence[tuple[str, Artifact, list[Check]]]
) -> dict[str, Any]:
    """``parity.json``."""
    return {
        "verdict": "FAIL" if any(c.differences for _, _, checks in results for c in checks) else "PASS",
        "reference": {"name": reference.name, "kind": job.inputs[0].kind, "digest": job.inputs[0].digest},
        "prompts": {
            "asked": job.params.prompts,
            "used": len(reference.talks) + len(reference.texts),
            "scored": len(reference.rows),
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
