"""Hugging Face folder to quantized GGUF: `export.gguf` against llama.cpp's converter and quantizer, side by side.

    python benchmarks/gguf/speed.py MODEL --llama-cpp SOURCE [--type Q4_K_M] [--runs 3]

SOURCE is llama.cpp's source tree (llama-cpp-python's source distribution has it in vendor/llama.cpp). Its
convert_hf_to_gguf.py writes the 16-bit file (``--between auto``: in the type of the source), `llama_model_quantize` of
the installed llama-cpp-python quantizes it with two threads. Ours is the whole command, fingerprints and copies
included, in an empty work folder. Times are wall clock, memory the largest resident size of any process. Prints one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUANTIZE = """
import ctypes, sys
import llama_cpp as lib
params = lib.llama_model_quantize_default_params()
params.ftype, params.nthread = getattr(lib, "LLAMA_FTYPE_MOSTLY_" + sys.argv[3]), 2
sys.exit(lib.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))
"""


def timed(command: list[str], folder: Path, **more: str) -> tuple[float, int]:
    """Seconds and peak resident bytes of a command; its last words if it fails."""
    with open(folder / "log", "w+b") as log:
        start = time.perf_counter()
        child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **more})
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            log.seek(0)
            sys.exit(f"{command[:4]} failed:\n{log.read().decode(errors='replace')[-2000:]}")
    return seconds, usage.ru_maxrss * 1024


def theirs(model: Path, source: Path, kind: str, between: str, folder: Path) -> dict[str, float]:
    """Convert, then quantize."""
    middle, out = folder / "between.gguf", folder / "theirs.gguf"
    convert = [sys.executable, str(source / "convert_hf_to_gguf.py"), str(model), "--outtype", between]
    first = timed([*convert, "--outfile", str(middle)], folder, PYTHONPATH=f"{source / 'gguf-py'}:{source}")
    second = timed([sys.executable, "-c", QUANTIZE, str(middle), str(out), kind], folder)
    return {
        "convert_s": first[0], "quantize_s": second[0], "total_s": first[0] + second[0],
        "convert_rss": first[1], "quantize_rss": second[1], "peak_rss": max(first[1], second[1]),
        "bytes": out.stat().st_size, "bytes_between": middle.stat().st_size,
    }  # fmt: skip


def ours(model: Path, kind: str, folder: Path) -> dict[str, float]:
    """One command; the stage measures its own process."""
    command = [sys.executable, "-m", "compress.cli", "run", "export.gguf", "--from", str(model), "--out", "ours"]
    total, shell = timed([*command, "--with", f"type={kind}", "--with", "imatrix=false"], folder)
    stage = next(iter(json.loads(next(folder.glob("work/runs/*/run.lock.json")).read_text())["stages"].values()))
    return {
        "total_s": total,
        "stage_s": stage["seconds"],
        "peak_rss": max(shell, stage["peak_rss_bytes"]),
        "bytes": (folder / "ours" / "model.gguf").stat().st_size,
    }


SAME = """
import sys
import gguf
one, two = ({t.name: t for t in gguf.GGUFReader(path).tensors} for path in sys.argv[1:])
same = one.keys() == two.keys() and all(
    (t.tensor_type, t.data.tobytes()) == (two[name].tensor_type, two[name].data.tobytes()) for name, t in one.items()
)
sys.exit(0 if same else "the tensors differ")
"""
"""In a process of its own: a child's peak is never below what its parent held when it was started."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-cpp", type=Path, required=True)
    parser.add_argument("--type", default="Q4_K_M")
    parser.add_argument("--between", default="auto", help="the converter's --outtype")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    peer, own, equal = [], [], True
    for _ in range(given.runs):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            peer.append(theirs(given.model.resolve(), given.llama_cpp.resolve(), given.type, given.between, folder))
            own.append(ours(given.model.resolve(), given.type, folder))
            files = [str(folder / "theirs.gguf"), str(folder / "ours" / "model.gguf")]
            equal &= subprocess.run([sys.executable, "-c", SAME, *files], check=False).returncode == 0
            shutil.rmtree(folder / "work")

    def middle(runs: list[dict[str, float]]) -> dict[str, float]:
        return {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}

    found = {"llama.cpp": middle(peer), "holdfast": middle(own)}
    speed = found["llama.cpp"]["total_s"] / found["holdfast"]["total_s"]
    memory = found["holdfast"]["peak_rss"] / found["llama.cpp"]["peak_rss"]
    answer = {"n": given.runs, "type": given.type, **found, "same_tensors": equal}
    print(json.dumps(answer | {"times_faster": round(speed, 2), "peak_rss_ratio": round(memory, 2)}, indent=2))


if __name__ == "__main__":
    main()
