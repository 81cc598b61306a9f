"""Ours against GPTQModel on one model folder in one run: wall time, peak RSS, KL to the float model.

Time and RSS are those of whole processes.

    python benchmarks/gptq/side_by_side.py MODEL CALIBRATION.jsonl HELD_OUT.jsonl \
        --peer-python /tmp/gptqmodel/bin/python [--bits 4 3 2] [--group 128] [--windows 128] [--length 256] [--repeat 3]

Both get the same calibration tokens. KL(float ‖ quantized) is the mean over all tokens of the held-out windows,
from exactly dequantized weights. The peer's environment: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def timed(command: list[str], extra: dict[str, str]) -> tuple[float, float]:
    """Wall seconds and peak RSS in MB of a process, by /usr/bin/time."""
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
    return seconds, int(rss[1]) / 1000


def divergence(model: Path, folders: dict[str, Path], ids) -> dict[str, float]:
    """Mean KL(float ‖ quantized) per token of each GPTQ folder."""
    import torch
    from transformers import AutoModelForCausalLM

    from compress.quantize.packing import dequantize_folder

    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def log_probabilities():
        return torch.cat([net(input_ids=part).logits.log_softmax(-1) for part in ids.split(10)])

    result = {}
    with torch.inference_mode():
        reference = log_probabilities()
        for name, folder in folders.items():
            net.load_state_dict(dequantize_folder(folder), strict=False)
            result[name] = float((reference.exp() * (reference - log_probabilities())).sum(-1).mean())
    return result


def compare(options, bits: int, scratch: Path, windows: Path) -> dict[str, object]:
    """Alternating runs of both at one bit width; medians."""
    readings: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}
    folders: dict[str, Path] = {}
    tail = [str(bits), str(options.group)]
    for turn in range(options.repeat):
        out = scratch / f"ours-{bits}-{turn}"
        command = [sys.executable, str(HERE / "ours.py"), str(options.model), str(options.calibration), str(out), *tail]
        command += [str(options.windows), str(options.length)]
        readings["ours"].append(timed(command, {"PYTHONPATH": str(ROOT)}))
        folders["ours"] = out / "quantize.gptq"
        folders["peer"] = scratch / f"peer-{bits}-{turn}"
        command = [options.peer_python, str(HERE / "peer.py"), str(options.model), str(windows), str(folders["peer"])]
        readings["peer"].append(timed([*command, *tail, *options.peer], {"GPTQMODEL_CPU_WORKERS": "2"}))
    from compress.windows import calibration_windows

    held_out = calibration_windows(options.model, options.held_out, 100 * options.length, options.length)
    row: dict[str, object] = {
        "bits": bits,
        "group": options.group,
        "repeat": options.repeat,
        "kl_windows": len(held_out),
    }
    for name, kl in divergence(options.model, folders, held_out).items():
        seconds, rss = zip(*readings[name], strict=True)
        row[name] = {"seconds": statistics.median(seconds), "rss_mb": round(max(rss)), "kl": round(kl, 5)}
    return row


def main() -> None:
    """One JSON line per bit width."""
    parser = argparse.ArgumentParser()
    for name in ("model", "calibration", "held_out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--peer-python", required=True)
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
