"""Latency, throughput and memory of one artifact, each taken in a fresh process.

The child (``python -m compress.validate.bench ART …``) loads the artifact in the runtime that ships, so a GGUF or
ONNX artifact never pulls torch into the process whose peak memory is read. Figures are medians over ``runs``.

TTFT is the time from a prompt's messages to its first token: ``ttft_ms`` with nothing kept from earlier prompts,
``ttft_cached_ms`` as served, where a shared system prompt comes from the runtime's prefix cache.
``prefill_tokens_per_s`` is taken on a long prompt that shares nothing with those before it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from compress.artifact import open_artifact
from compress.errors import ArtifactError, HoldfastError
from compress.extras import installed
from compress.memory import peak_bytes
from compress.validate.runner import Messages, Probe, Progress, Runner, silent
from compress.validate.runners import open_runner
from runtime.engine.backends import BACKENDS
from runtime.frames import error_from, error_to

TIMES = ("ttft_ms", "ttft_p95_ms", "ttft_cached_ms", "tokens_per_s", "prefill_tokens_per_s")
PREFILL_TOKENS, PREFILLS = 384, 3
TIMEOUT_S = 900.0
DEFAULT_PROMPTS: tuple[Messages, ...] = tuple(
    ({"role": "user", "content": f"{opening} about my order, and {closing}?"},)
    for opening in ("I have a question", "I want to complain", "Please tell me", "A friend asked", "I am writing again")
    for closing in ("when will it arrive", "how do I send it back", "who can help me", "what does it cost")
)


def bench(
    path: Path | str,
    *,
    prompts: Sequence[Messages] | None = None,
    runs: int = 9,
    max_tokens: int = 48,
    threads: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure the artifact at ``path`` in a fresh process; ``progress(done, total)`` after every reply.

    Returns ``{ttft_ms, ttft_p95_ms, ttft_cached_ms, tokens_per_s, prefill_tokens_per_s, peak_rss_bytes,
    size_bytes, load_s, note, runs, threads, versions}``; times are None where no kernel for the format is installed
    (GPTQ).
    ``threads`` counts torch's threads; the runtime always uses its own default, as it does when it ships.
    Raises what the child's own work raises; ArtifactError with its last words when it ends otherwise.
    """
    artifact = open_artifact(path, verify=False)
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        job = Path(folder) / "job.json"
        job.write_text(
            json.dumps(
                {
                    "kind": artifact.kind,
                    "path": str(artifact.path.resolve()),
                    "prompts": [[dict(m) for m in messages] for messages in prompts or DEFAULT_PROMPTS],
                    "runs": runs,
                    "max_tokens": max_tokens,
                    "threads": threads,
                }
            )
        )
        return {**_child(job, artifact.path, progress), "size_bytes": artifact.size_bytes()}


def _child(job: Path, path: Path, progress: Progress) -> dict[str, Any]:
    """The child's last line; those before it tell how far it is."""
    command = [sys.executable, "-m", "compress.validate.bench", str(job)]
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    found: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        late = threading.Timer(TIMEOUT_S, child.kill)
        late.start()
        try:
            with child:
                for line in child.stdout or ():
                    told = json.loads(line) if line.startswith("{") else {}
                    if "done" in told:
                        progress(told["done"], told["total"])
                    else:
                        found = told or found
        finally:
            late.cancel()
        if "failed" in found:
            raise error_from(found["failed"])
        if child.returncode or not found:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["it ended without a word"])[-1]
            raise ArtifactError(f"{path} could not be measured: {last}", next="run `compress chat` on it to see why")
    return found


def measure(job: Mapping[str, Any], progress: Progress = silent) -> dict[str, Any]:
    """What the child does: load, warm up, time; see ``bench`` for the result."""
    started = time.perf_counter()
    runner = open_runner(job["kind"], Path(job["path"]), threads=job["threads"])
    load_s = time.perf_counter() - started
    with runner:
        if runner.timed:
            timings = _timings(runner, job["prompts"], job["runs"], job["max_tokens"], progress)
        else:
            runner.complete(job["prompts"][:1], job["max_tokens"])  # its memory is measured all the same
            timings = dict.fromkeys(TIMES)
        return {
            **timings,
            "load_s": round(load_s, 3),
            "peak_rss_bytes": peak_bytes(),
            "note": runner.note,
            "runs": job["runs"],
            "threads": job["threads"],
            "versions": versions(job["kind"]),
        }


def _timings(
    runner: Runner, prompts: Sequence[Messages], runs: int, max_tokens: int, progress: Progress
) -> dict[str, float | None]:
    """The first prompt is the warm-up; each of the others is new to the process when its turn comes."""
    runner.probe(prompts[0], max_tokens)
    asked = list(prompts[1:] or prompts)[:runs]
    probes: list[Probe] = []
    for messages in asked:
        progress(len(probes), len(asked) + PREFILLS)
        probes.append(runner.probe(messages, max_tokens))
    cold = sorted(1000 * probe.cold_s for probe in probes)
    prefill = []
    for number in range(PREFILLS):
        progress(len(asked) + number, len(asked) + PREFILLS)
        prefill.append(_prefill_rate(runner, number))
    found = (
        round(median(cold), 3),
        round(cold[math.ceil(0.95 * len(cold)) - 1], 3),
        _median([1000 * p.warm_s for p in probes if p.warm_s is not None]),
        _median([p.tokens_per_s for p in probes if p.tokens_per_s is not None]),
        round(median(prefill), 1),
    )
    return dict(zip(TIMES, found, strict=True))


def _median(values: Sequence[float]) -> float | None:
    return round(median(values), 3) if values else None


def _prefill_rate(runner: Runner, number: int) -> float:
    """Prompt tokens per second on a long prompt whose first words no earlier prompt had."""
    wanted = min(PREFILL_TOKENS, runner.context // 2)
    text, tokens, word = f"{number * 7 + 3}", 0, 0
    while tokens < wanted:
        text += "".join(f" {(word + n) * 7919 % 1009}" for n in range(8))
        word += 8
        tokens = len(runner.encode([{"role": "user", "content": text}]))
    return tokens / runner.probe([{"role": "user", "content": text}], 1).cold_s


def versions(kind: str) -> dict[str, str]:
    """Versions of the libraries that shape the timing of ``kind``."""
    engines = {name: row.distributions for name, row in BACKENDS.items()}
    engines["bundle"] = tuple(row.distributions[0] for row in BACKENDS.values())
    return {"python": sys.version.split()[0], **installed(engines.get(kind, ("torch", "transformers")))}


def _tell(done: int, total: int) -> None:
    sys.stdout.write(json.dumps({"done": done, "total": total}) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m compress.validate.bench JOB.json``, or an artifact's path for the default prompts."""
    parser = argparse.ArgumentParser(prog="python -m compress.validate.bench")
    parser.add_argument("path", type=Path, help="an artifact, or the job file that bench() writes")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--runs", type=int, default=9)
    given = parser.parse_args(arguments)
    if given.path.suffix == ".json":
        try:
            result = measure(json.loads(given.path.read_text()), _tell)
        except HoldfastError as error:
            result = {"failed": error_to(error)}
    else:
        result = bench(given.path, runs=given.runs, threads=given.threads)
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
