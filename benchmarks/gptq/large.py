"""Calibrate and quantize the first blocks of a large checkpoint: seconds per block, peak RSS, the whole extrapolated.

    python benchmarks/gptq/large.py MODEL [--blocks 2] [--tokens 16384] [--length 2048] [--bits 4] [--upstream]
    python benchmarks/gptq/large.py MODEL --blocks 3 6 9 12 --plot cost.svg

Blocks cost the same each, so the model takes (seconds of a block) x (its blocks). A JSON line on stdout for each
number of blocks; the plot shows that cost grows linearly with them.
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


def quantize(options: argparse.Namespace, first: int, scratch: Path) -> dict[str, object]:
    """Both steps on the ``first`` blocks."""
    import torch

    from compress.calibrate.reading import INDEX, Calibration
    from compress.calibrate.stage import index_of, publish
    from compress.calibrate.streaming import StreamingPass
    from compress.json_files import write_json
    from compress.model.blocks import ModelFolder
    from compress.model.compute import fast_products
    from compress.quantize.params import GptqParams
    from compress.quantize.recipe import Recipe
    from compress.quantize.walk import Walk
    from compress.stage import Job
    from compress.windows import calibration_windows

    torch.set_num_threads(options.threads)
    model = ModelFolder(options.model)
    blocks = model.blocks
    model.shape = dataclasses.replace(model.shape, blocks=first)
    params = GptqParams(
        bits=options.bits,
        upstream=options.upstream,
        calibration=options.model / "calibration.jsonl",
        calibration_tokens=options.tokens,
        calibration_length=options.length,
    )
    found: dict[str, object] = {"blocks": first, "tokens": options.tokens, "bits": options.bits}
    total = 0.0
    calibration = None
    if not options.upstream:
        clock, folder, out = Clock(), scratch / "calibrate", scratch / "calibration"
        folder.mkdir()
        out.mkdir()
        windows = calibration_windows(options.model, params.calibration, options.tokens, options.length)
        StreamingPass(model, windows, folder, clock).run()
        publish(folder, out, first)
        write_json(out / INDEX, index_of(model, windows, out))
        calibration = Calibration(out)
        found |= {"calibrate_s": clock.seconds(), "calibrate_peak_rss_gb": round(peak_gb(), 2)}
        total += sum(clock.seconds())
    clock, folder = Clock(), scratch / "quantize"
    folder.mkdir()
    job = Job(params=params, out=folder, scratch=folder, progress=clock)
    with torch.inference_mode(), fast_products():
        Walk(model, job, Recipe(options.bits, params.group_size, params.sym), calibration).run()
    clock(first, first, "quantized")
    total += sum(clock.seconds())
    found |= {"quantize_s": clock.seconds(), "peak_rss_gb": round(peak_gb(), 2)}
    whole = round(total / first * blocks / 60, 1)
    return {**found, "seconds": round(total, 1), "extrapolated_blocks": blocks, "extrapolated_minutes": whole}


def plot(rows: list[dict[str, object]], file: Path) -> None:
    """Seconds by number of blocks."""
    from compress.report.plots import Point, scatter

    points = [Point(f"{row['blocks']} blocks", float(row["blocks"]), float(row["seconds"])) for row in rows]
    file.write_text(scatter(points, title="Calibrate and quantize", x_label="blocks", y_label="seconds"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--blocks", type=int, nargs="+", default=[2])
    parser.add_argument("--plot", type=Path)
    for name, default in (("--tokens", 16384), ("--length", 2048), ("--bits", 4), ("--threads", 2)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--upstream", action="store_true")
    parser.add_argument("--scratch", type=Path, help="where the Hessians go (1.1 GB per block at 7 B)")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    rows = []
    for first in options.blocks:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            rows.append(quantize(options, first, Path(scratch)))
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
