"""Speed of validation: batched against one at a time, and a second candidate against the same baseline.

    python benchmarks/validate.py [work/runs/demo/run.lock.json] [--items 200] [--gguf gguf-Q8_0] [--second gguf-Q4_K_M]

takes models, items and rules of a finished run of ``configs/pipelines/demo.yaml``. Both ways of asking give greedy
replies by the same runner; they may differ where two tokens nearly tie, so the share that is equal is told.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from compress.artifact import Artifact, open_artifact
from compress.stage import Job
from compress.validate.items import load_items
from compress.validate.params import ValidateParams
from compress.validate.runners import open_runner
from compress.validate.stage import Validate
from runtime.rules import load_rules


def asked_both_ways(artifact: Artifact, prompts: list, max_tokens: int = 160) -> str:
    """Replies a second, batched and one at a time."""
    with open_runner(artifact.kind, artifact.path, many=True) as runner:
        runner.complete(prompts[:8], max_tokens)
        start = time.perf_counter()
        together = runner.complete(prompts, max_tokens)
        batched = time.perf_counter() - start
        start = time.perf_counter()
        alone = [runner.complete([prompt], max_tokens)[0] for prompt in prompts]
        single = time.perf_counter() - start
    same = sum(a.text == b.text for a, b in zip(together, alone, strict=True))
    n = len(prompts)
    return (
        f"{artifact.kind}: {n / batched:.1f} replies/s batched, {n / single:.1f} one at a time: "
        f"{single / batched:.1f}x; {same} of {n} replies equal"
    )


def validated(job: Job, name: str, candidate: Artifact, place: Path) -> float:
    """Seconds of one validation."""
    for folder in ("out", "scratch"):
        shutil.rmtree(place / folder, ignore_errors=True)
        (place / folder).mkdir()
    start = time.perf_counter()
    job = replace(job, out=place / "out", scratch=place / "scratch", inputs=(candidate,), names=(name,))
    facts = Validate().run(job)
    seconds = time.perf_counter() - start
    print(f"validate {name}: {facts['verdict']} in {seconds:.1f} s, n = {facts['n_items']}", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("lock", nargs="?", default="work/runs/demo/run.lock.json", type=Path)
    parser.add_argument("--rules", default="configs/rules/customer_service.yaml", type=Path)
    parser.add_argument("--items", default=200, type=int)
    parser.add_argument("--gguf", default="gguf-Q8_0")
    parser.add_argument("--second", default="gguf-Q4_K_M")
    given = parser.parse_args()
    root = given.lock.resolve().parents[3]
    stages = json.loads(given.lock.read_text())["stages"]
    made = {name: open_artifact(root / stage["path"], verify=False) for name, stage in stages.items()}
    items = load_items(made["data"].path / "eval.jsonl", load_rules(given.rules))[: given.items]
    for name in (given.gguf, "tune"):
        print(asked_both_ways(made[name], [item.messages for item in items]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = place / "data"
        data.mkdir()
        lines = (made["data"].path / "eval.jsonl").read_text().splitlines(keepends=True)[: given.items]
        (data / "eval.jsonl").write_text("".join(lines))
        job = Job(
            params=ValidateParams(baseline="tune", drift_rows=50, samples=4, bench_runs=0),
            out=place / "out",
            scratch=place / "scratch",
            cache=place / "cache",
            refs={"baseline": made["tune"]},
            ancestors=made,
            data=Artifact("data", data, "0" * 64),
            rules=given.rules,
            threads=len(os.sched_getaffinity(0)),
        )
        first = validated(job, given.gguf, made[given.gguf], place)
        second = validated(job, given.second, made[given.second], place)
        print(f"the second takes {second / first:.2f} of the first")


if __name__ == "__main__":
    main()
