"""Calibrate and quantize the first blocks of a large checkpoint: seconds per block, peak RSS, the whole extrapolated.

    python benchmarks/gptq/large.py MODEL [--blocks 2] [--tokens 16384] [--length 2048] [--bits 4] [--upstream]

Blocks cost the same each, so the model takes (seconds of a block) x (its blocks). One JSON line on stdout.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Clock:
    """A progress callback that notes when each block began."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.marks.append(time.perf_counter())
        sys.stderr.write(f"{done}/{total} {note}, peak RSS {peak_gb():.2f} GB\n")

    def seconds(self) -> list[float]:
        """Between marks."""
        return [round(b - a, 2) for a, b in zip(self.marks, self.marks[1:], strict=False)]


def peak_gb() -> float:
    """Peak RSS of this process in 10⁹ bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def quantize(options: argparse.Namespace, scratch: Path) -> dict[str, object]:
    """Both steps on the first blocks."""
    import torch

    from compress.artifact import write_json
    from compress.blocks import ModelFolder
    from compress.calibrate import INDEX, Calibration, index_of, publish
    from compress.compute import fast_products
    from compress.quantize.gptq import GptqParams
    from compress.quantize.recipe import Recipe
    from compress.quantize.walk import Walk
    from compress.stage import Job
    from compress.streaming import StreamingPass
    from compress.windows import calibration_windows

    torch.set_num_threads(options.threads)
    model = ModelFolder(options.model)
    blocks = model.blocks
    model.shape = dataclasses.replace(model.shape, blocks=options.blocks)
    params = GptqParams(
        bits=options.bits,
        upstream=options.upstream,
        calibration=options.model / "calibration.jsonl",
        calibration_tokens=options.tokens,
        calibration_length=options.length,
    )
    found: dict[str, object] = {"blocks": options.blocks, "tokens": options.tokens, "bits": options.bits}
    total = 0.0
    calibration = None
    if not options.upstream:
        clock, folder, out = Clock(), scratch / "calibrate", scratch / "calibration"
        folder.mkdir()
        out.mkdir()
        windows = calibration_windows(options.model, params.calibration, options.tokens, options.length)
        StreamingPass(model, windows, folder, clock).run()
        publish(folder, out, options.blocks)
        write_json(out / INDEX, index_of(model, windows, out))
        calibration = Calibration(out)
        found |= {"calibrate_s": clock.seconds(), "calibrate_peak_rss_gb": round(peak_gb(), 2)}
        total += sum(clock.seconds()) / options.blocks * blocks
    clock, folder = Clock(), scratch / "quantize"
    folder.mkdir()
    job = Job(params=params, out=folder, scratch=folder, progress=clock)
    with torch.inference_mode(), fast_products():
        Walk(model, job, Recipe(options.bits, params.group_size, params.sym), calibration).run()
    clock(options.blocks, options.blocks, "quantized")
    total += sum(clock.seconds()) / options.blocks * blocks
    found |= {"quantize_s": clock.seconds(), "peak_rss_gb": round(peak_gb(), 2)}
    return {**found, "extrapolated_blocks": blocks, "extrapolated_minutes": round(total / 60, 1)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    for name, default in (("--blocks", 2), ("--tokens", 16384), ("--length", 2048), ("--bits", 4), ("--threads", 2)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--upstream", action="store_true")
    parser.add_argument("--scratch", type=Path, help="where the Hessians go (1.1 GB per block at 7 B)")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        sys.stdout.write(json.dumps(quantize(options, Path(scratch))) + "\n")


if __name__ == "__main__":
    main()
