"""Pruning methods on one trained model in one run: perplexity before and after recovery, size, decode tokens/s.

    python benchmarks/prune/compare.py MODEL CALIBRATION.jsonl HELD_OUT.jsonl [--windows 32] [--length 256] \
        [--steps 60] [--lr 3e-4] [--rounds 5] [--cores 1] [--gguf Q8_0] [--onnx int4]

Perplexity is transformers' on the first held-out windows. Recovery distils on the calibration rows. One candidate of
each shape is recovered and timed: fresh processes on ``cores`` cores (one by default, as two threads on a busy machine
wait for each other), the unpruned model and every shape in turn, ``rounds`` times; a ratio is the median over rounds of
the ratio to the unpruned model of the same round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.artifact import Artifact, open_artifact, seal
from compress.model.weights import Weights
from compress.registry import load_stage
from compress.stage import Job
from compress.validate.bench import bench
from compress.windows import calibration_windows

WHOLE = "unpruned"


@dataclass
class Row:
    """One candidate and what was found."""

    name: str
    use: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    shown: bool = False
    """Whether it is recovered (unless sparse) and timed."""
    perplexity: float = 0.0
    recovered: float | None = None
    parameters: int = 0
    speed: dict[str, list[float]] = field(default_factory=dict)
    """Export -> decoded tokens/s, one per round."""


def candidates() -> Iterator[Row]:
    """What is compared."""
    yield Row(WHOLE, shown=True)
    for amount, name in (({"ffn": 1 / 3}, "FFN -33 %"), ({"ffn": 2 / 3}, "FFN -67 %"), ({"kv_groups": 2}, "KV -2")):
        for method in ("activations", "magnitude", "random"):
            for compensate in (True, False):
                how = f"{method}, compensated" if compensate else method
                given = {"ffn": None, **amount, "method": method, "compensate": compensate}
                yield Row(f"{name}, {how}", "prune.width", given, compensate and method == "activations")
    for method in ("perplexity", "influence", "random"):
        yield Row(f"blocks -3, {method}", "prune.depth", {"blocks": 3, "method": method}, method == "perplexity")
    for pattern in ("unstructured", "2:4"):
        for method in ("sparsegpt", "wanda", "magnitude"):
            shown = (pattern, method) == ("2:4", "sparsegpt")
            yield Row(f"zeros {pattern}, {method}", "prune.sparse", {"pattern": pattern, "method": method}, shown)


def run_stage(use: str, source: Artifact, out: Path, passed: Artifact | None = None, **params: Any) -> Artifact:
    """One stage into the folder ``out``; ``passed`` is the calibration pass."""
    stage = load_stage(use)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        job = Job(stage.Params(**params), out, Path(scratch), inputs=(source,), calibration=passed, seed=17)
        stage.check(job)
        facts = stage.run(job)
    return seal(out, kind=stage.produces, stage=use, stage_version=1, params={}, inputs={}, facts=facts)


class Comparison:
    """The rows, filled step by step."""

    def __init__(self, given: argparse.Namespace, work: Path) -> None:
        self.given, self.work = given, work
        self.source = open_artifact(given.model)
        self.text = {"calibration": given.calibration, "calibration_length": given.length}
        self.passed = run_stage("calibrate", self.source, work / "pass", **self.text)
        self.ids = calibration_windows(given.model, given.held_out, given.windows * given.length, given.length)
        self.rows = list(candidates())

    def run(self) -> None:
        """Prune, recover, export, time."""
        artifacts = {row.name: self.prune(number, row) for number, row in enumerate(self.rows)}
        shown = {
            row.name: self.export(number, artifacts[row.name]) for number, row in enumerate(self.rows) if row.shown
        }
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: self.given.cores])
        for _ in range(self.given.rounds):
            for row in self.rows:
                for export in shown.get(row.name, ()):
                    rate = bench(shown[row.name][export].path, runs=5, max_tokens=64)["tokens_per_s"]
                    row.speed.setdefault(export, []).append(rate)

    def prune(self, number: int, row: Row) -> Artifact:
        """The row's model, recovered if it is shown; fills in perplexities."""
        artifact = self.source
        if row.use:
            params = {**self.text, **row.params, **({} if row.use == "prune.sparse" else {"recover": None})}
            artifact = run_stage(row.use, self.source, self.work / f"{number}-cut", self.passed, **params)
        row.perplexity = self.perplexity(artifact.path)
        if row.shown and row.use not in {"", "prune.sparse"}:
            recover = {"distill_steps": self.given.steps, "lr": self.given.lr, "max_length": self.given.length}
            params |= {"recover": recover, "rows": self.given.calibration}
            artifact = run_stage(row.use, self.source, self.work / f"{number}-recovered", self.passed, **params)
            row.recovered = self.perplexity(artifact.path)
        weights = Weights(artifact.path)
        row.parameters = sum(weights.spec(name).elements for name in weights.names())
        return artifact

    def perplexity(self, folder: Path) -> float:
        """By transformers in float32."""
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            return float(torch.stack([model(i[None], labels=i[None]).loss for i in self.ids]).mean().exp())

    def export(self, number: int, artifact: Artifact) -> dict[str, Artifact]:
        """GGUF and ONNX of one model."""
        gguf = {"type": self.given.gguf, "imatrix": False}
        return {
            "gguf": run_stage("export.gguf", artifact, self.work / f"{number}-gguf", **gguf),
            "onnx": run_stage("export.onnx", artifact, self.work / f"{number}-onnx", precision=self.given.onnx),
        }

    def table(self) -> str:
        """Markdown."""
        head = ["model", "parameters", "perplexity", "recovered", "GGUF tokens/s", "ONNX tokens/s"]
        lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
        for row in self.rows:
            recovered = "" if row.recovered is None else f"{row.recovered:.2f}"
            cells = [row.name, f"{row.parameters / 1e6:.2f} M", f"{row.perplexity:.2f}", recovered]
            cells += [self.rate(row, export) for export in ("gguf", "onnx")]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def rate(self, row: Row, export: str) -> str:
        """Median tokens/s and the ratio to the unpruned model with its spread."""
        if export not in row.speed:
            return ""
        pairs = zip(row.speed[export], self.rows[0].speed[export], strict=True)
        ratios = sorted(mine / whole for mine, whole in pairs)
        spread = f"{statistics.median(ratios):.2f}× ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        return f"{statistics.median(row.speed[export]):,.0f}, {spread}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "held_out"):
        parser.add_argument(name, type=Path)
    for name, value in (("windows", 32), ("length", 256), ("steps", 60), ("rounds", 5), ("cores", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--gguf", default="Q8_0")
    parser.add_argument("--onnx", default="int4")
    with tempfile.TemporaryDirectory() as work:
        comparison = Comparison(parser.parse_args(), Path(work))
        comparison.run()
        sys.stdout.write(comparison.table() + "\n")


if __name__ == "__main__":
    main()
