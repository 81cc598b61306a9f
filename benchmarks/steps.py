"""What a step of llama.cpp costs by the tokens in it, for one build of the library or several side by side.

    python benchmarks/steps.py MODEL.gguf [--threads 1] [--widths 1,2,4,8,16] [--library FOLDER …] [--rounds 3]

A step decodes one token of each of so many conversations that have 60 tokens already; then prompts of 256 tokens are
read. FOLDER holds the shared libraries of another llama-cpp-python (its ``llama_cpp/lib``), the installed one comes
first. Each build runs in a process of its own, in turn. Medians of 20 steps, of the rounds the lowest: milliseconds by
the clock, and processor time in brackets (with several threads they wait for one another at full speed).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

BEFORE, STEPS, PROMPT = 60, 20, 256


def measure(model: Path, threads: int, widths: list[int]) -> dict[str, list[float]]:
    """Width or "prompt" -> [seconds, processor seconds] of a step."""
    import llama_cpp as lib

    lib.llama_backend_init()
    weights = lib.llama_model_load_from_file(str(model).encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_seq_max, params.n_batch, params.n_ubatch = max(widths) * 256, max(widths), 512, 512
    params.n_threads = params.n_threads_batch = threads
    context = lib.llama_init_from_model(weights, params)
    memory, batch = lib.llama_get_memory(context), lib.llama_batch_init(512, 0, 1)

    def step(token: int, places: list[tuple[int, int]], scores: bool) -> list[float]:
        batch.n_tokens = len(places)
        for i, (sequence, position) in enumerate(places):
            batch.token[i], batch.pos[i], batch.logits[i] = token + i, position, scores
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        start, busy = time.perf_counter(), time.process_time()
        if lib.llama_decode(context, batch):
            sys.exit(f"llama.cpp did not decode {len(places)} tokens")
        lib.llama_synchronize(context)
        return [time.perf_counter() - start, time.process_time() - busy]

    found = {}
    for width in widths:
        lib.llama_memory_clear(memory, True)
        for sequence in range(width):
            step(100, [(sequence, position) for position in range(BEFORE)], False)
        taken = [step(200, [(sequence, BEFORE + k) for sequence in range(width)], True) for k in range(STEPS)]
        found[str(width)] = [statistics.median(column) for column in zip(*taken, strict=True)]
    taken = []
    for _ in range(4):
        lib.llama_memory_clear(memory, True)
        taken.append(step(100, [(0, position) for position in range(PROMPT)], False))
    found["prompt"] = min(taken)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--widths", default="1,2,4,8,16")
    parser.add_argument("--library", type=Path, action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    widths = [int(width) for width in given.widths.split(",")]
    if given.child:
        print(json.dumps(measure(given.model, given.threads, widths)))
        return
    builds: list[Path | None] = [None, *given.library]
    rounds: dict[Path | None, list[dict[str, list[float]]]] = {build: [] for build in builds}
    for _ in range(given.rounds):
        for build in builds:
            settings = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
            if build is not None:
                settings["LLAMA_CPP_LIB_PATH"] = str(build.resolve())
            command = [sys.executable, __file__, str(given.model), "--child"]
            command += ["--threads", str(given.threads), "--widths", given.widths]
            ran = subprocess.run(command, env=settings, check=True, capture_output=True, text=True)
            rounds[build].append(json.loads(ran.stdout.splitlines()[-1]))
    for build, runs in rounds.items():
        print(f"{build or 'installed'}, {given.threads} threads, n = {given.rounds}")
        for name in runs[0]:
            clock, busy = (min(run[name][i] for run in runs) for i in (0, 1))
            rate = f", {PROMPT / clock:.0f} tokens/s" if name == "prompt" else ""
            print(f"  {name:>6}: {1e3 * clock:.1f} ms ({1e3 * busy:.1f}){rate}")


if __name__ == "__main__":
    main()
