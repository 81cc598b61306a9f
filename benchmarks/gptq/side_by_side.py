"""Ours against GPTQModel and rounding to nearest on one model folder in one run: time, peak RSS, KL, perplexity.

``seconds`` and RSS are those of whole processes, ``work`` the seconds of the quantizer's own calls.

    python benchmarks/gptq/side_by_side.py MODEL CALIBRATION.jsonl HELD_OUT.jsonl \
        --peer-python /tmp/gptqmodel/bin/python [--bits 4 3 2] [--group 128] [--windows 128] [--length 256] [--repeat 3]

Both get the same calibration tokens. KL(float ‖ quantized) is the mean over all tokens of the held-out windows and
perplexity that of their next tokens, from exactly dequantized weights. For the peer's environment see
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def timed(command: list[str], extra: dict[str, str]) -> tuple[float, float, float]:
    """Wall seconds and peak RSS in MB of a process, by /usr/bin/time, and the seconds that its last line tells."""
    done = subprocess.run(
        ["/usr/bin/time", "-v", *command],
        env={**os.environ, "OMP_NUM_THREADS": "2", **extra},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    clock = re.search(r"\(h:mm:ss or m:ss\): ([\d:.]+)", done.stderr)
    rss = re.search(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)
    assert clock
    assert rss
    seconds = 0.0
    for part in clock[1].split(":"):
        seconds = seconds * 60 + float(part)
    work = sum(json.loads(done.stdout.strip().splitlines()[-1]).values())
    return seconds, int(rss[1]) / 1000, work


def nearest(model: Path, bits: int, group: int) -> dict[str, torch.Tensor]:
    """Every block linear rounded to the nearest code, ranges as they are."""
    import torch

    from compress.model.blocks import ModelFolder
    from compress.quantize.grids import IntGrid
    from compress.quantize.mixed import rounded

    folder = ModelFolder(model)
    grid = IntGrid(bits, candidates=1, period=group)
    weights = {name: folder.weight(name) for name in folder.linears()}
    return {f"{name}.weight": rounded(W, torch.ones(W.shape[1]), grid) for name, W in weights.items()}


def divergence(model: Path, weights: dict[str, dict[str, torch.Tensor]], ids) -> dict[str, dict[str, float]]:
    """Mean KL(float ‖ quantized) per token and the perplexity with each set of weights."""
    import torch
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    original = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def log_probabilities():
        return torch.cat([net(input_ids=part).logits.log_softmax(-1) for part in ids.split(10)])

    def perplexity(logp: torch.Tensor) -> float:
        return round(math.exp(-float(logp[:, :-1].gather(-1, ids[:, 1:, None]).mean())), 4)

    with torch.inference_mode():
        reference = log_probabilities()
        result = {"float": {"kl": 0.0, "perplexity": perplexity(reference)}}
        for name, changed in weights.items():
            net.load_state_dict({**original, **changed}, strict=False)
            logp = log_probabilities()
            kl = float((reference.exp() * (reference - logp)).sum(-1).mean())
            result[name] = {"kl": round(kl, 5), "perplexity": perplexity(logp)}
    return result


def packed(folder: Path) -> dict[str, torch.Tensor]:
    """The quantized linears of a GPTQ folder, in float32."""
    from compress.model.weights import Weights
    from compress.quantize.packing import dequantize_folder

    linears = {name.removesuffix(".qweight") for name in Weights(folder).names() if name.endswith(".qweight")}
    return {name: W for name, W in dequantize_folder(folder).items() if name.removesuffix(".weight") in linears}


def compare(options, bits: int, scratch: Path, windows: Path) -> dict[str, object]:
    """Alternating runs of both at one bit width; medians."""
    readings: dict[str, list[tuple[float, float, float]]] = {"ours": [], "peer": []}
    folders: dict[str, Path] = {}
    tail = [str(bits), str(options.group)]
    for turn in range(options.repeat):
        out = scratch / f"ours-{bits}-{turn}"
        command = [sys.executable, str(HERE / "ours.py"), str(options.model), str(options.calibration), str(out), *tail]
        command += [str(options.windows), str(options.length), *options.ours]
        readings["ours"].append(timed(command, {"PYTHONPATH": str(ROOT)}))
        folders["ours"] = out / "quantize.gptq"
        folders["peer"] = scratch / f"peer-{bits}-{turn}"
        command = [options.peer_python, str(HERE / "peer.py"), str(options.model), str(windows), str(folders["peer"])]
        readings["peer"].append(timed([*command, *tail, *options.peer], {"GPTQMODEL_CPU_WORKERS": "2"}))
    from compress.windows import calibration_windows

    held_out = calibration_windows(options.model, options.held_out, 100 * options.length, options.length)
    weights = {"nearest": nearest(options.model, bits, options.group), **{n: packed(f) for n, f in folders.items()}}
    row: dict[str, object] = {
        "bits": bits,
        "group": options.group,
        "repeat": options.repeat,
        "kl_windows": len(held_out),
        **divergence(options.model, weights, held_out),
    }
    for name, runs in readings.items():
        seconds, rss, work = zip(*runs, strict=True)
        costs = {"seconds": statistics.median(seconds), "work": statistics.median(work), "rss_mb": round(max(rss))}
        row[name] = {**row[name], **costs}
    return row


def main() -> None:
    """One JSON line per bit width."""
    parser = argparse.ArgumentParser()
    for name in ("model", "calibration", "held_out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--ours", nargs="*", default=[], help="key=value of our stage's parameters")
    parser.add_argument("--peer", nargs="*", default=[], help="key=value of the peer's QuantizeConfig")
    parser.add_argument("--bits", type=int, nargs="+", default=[4])
    for name, default in (("--group", 128), ("--windows", 128), ("--length", 256), ("--repeat", 3)):
        parser.add_argument(name, type=int, default=default)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from compress.windows import calibration_windows

    with tempfile.TemporaryDirectory() as folder:
        tokens = options.windows * options.length
        ids = calibration_windows(options.model, options.calibration, tokens, options.length)
        windows = Path(folder) / "windows.json"
        windows.write_text(json.dumps(ids.tolist()))
        for bits in options.bits:
            sys.stdout.write(json.dumps(compare(options, bits, Path(folder), windows)) + "\n")


if __name__ == "__main__":
    main()
