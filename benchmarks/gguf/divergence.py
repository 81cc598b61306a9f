"""KL divergence to the float model at equal bytes: `export.gguf` against importance-matrix `llama_model_quantize`.

    python benchmarks/gguf/divergence.py MODEL CALIBRATION HELD_OUT [--types Q4_K_M Q3_K_M Q2_K] [--tokens 25600]

CALIBRATION and HELD_OUT are JSONL of {"text"} or {"messages"}. Every side calibrates on the same tokens; files are
decoded whole and computed in float32. Prints a row per type: bytes, mean KL per token in nats, ratio to the peer.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress.calibrate.windows import calibration_windows
from export.checkpoint import open_checkpoint
from export.gguf.imatrix import read_matrix
from export.parity.weights import read_gguf
from export.tokenizers.probes import quiet_llama

MODES = {
    "rounded": ("feedback=off",),
    "shared": ("feedback=shared",),
    "upstream": ("feedback=upstream",),
    "measured": ("feedback=upstream", "mix=measured"),
}


def run(stage: str, model: Path, out: Path, *values: str) -> Path:
    """One stage by its command."""
    command = [sys.executable, "-m", "compress.cli", "run", stage, "--from", str(model), "--out", str(out)]
    for value in values:
        command += ["--with", value]
    done = subprocess.run(command, cwd=out.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return next(out.glob("*.gguf"))


def peer(source: Path, matrix: Path, kind: str, out: Path) -> Path:
    """llama.cpp's own quantizer with the matrix."""
    llama_cpp = quiet_llama()
    means = {name.encode(): entry.mean() for name, entry in read_matrix(matrix).entries.items()}
    table = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()
    for slot, (name, values) in zip(table, means.items(), strict=False):
        slot.name, slot.size = name, values.size
        slot.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.imatrix = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}"), 2, table
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) == 0
    return out


class Judge:
    """The float model on the held-out text."""

    def __init__(self, folder: Path, text: Path, tokens: int) -> None:
        self.checkpoint = open_checkpoint(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        if self.model.get_output_embeddings().weight is self.model.get_input_embeddings().weight:
            self.model.get_output_embeddings().weight = torch.nn.Parameter(self.model.get_input_embeddings().weight)
        self.ids = calibration_windows(folder, text, tokens, 256)
        self.names = dict(self.model.named_parameters())
        self.reference = list(self.log_probs())

    @torch.no_grad()
    def log_probs(self) -> Iterator[torch.Tensor]:
        """float32 [windows, 256, vocabulary] of a few windows at a time."""
        for part in self.ids.split(10):
            yield self.model(input_ids=part).logits.log_softmax(-1)

    def divergence(self, file: Path) -> float:
        """Mean KL(float model || file) per token, in nats."""
        with torch.no_grad():
            for stored in read_gguf(file, self.checkpoint):
                self.names[stored.name].copy_(torch.from_numpy(np.ascontiguousarray(stored.values)))
            if "lm_head.weight" in self.names and self.checkpoint.config.get("tie_word_embeddings"):
                self.names["lm_head.weight"].copy_(self.model.get_input_embeddings().weight)
        pairs = zip(self.reference, self.log_probs(), strict=True)
        return sum(float((p.exp() * (p - q)).sum()) for p, q in pairs) / self.ids.numel()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "held_out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--types", nargs="+", default=["Q4_K_M", "Q3_K_M", "Q2_K"])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--tokens", type=int, default=25600)
    given = parser.parse_args()
    model, text = given.model.resolve(), f"calibration={given.calibration.resolve()}"
    judge = Judge(model, given.held_out, given.tokens)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plain = run("export.gguf", model, folder / "f32", "type=F32")
        matrix = run("export.imatrix", model, folder / "matrix", text)
        for kind in given.types:
            theirs = peer(plain, matrix, kind, folder / f"{kind}.gguf")
            base, size = judge.divergence(theirs), theirs.stat().st_size
            row = {"type": kind, "peer": {"bytes": size, "kl": round(base, 5)}}
            for mode in given.modes:
                file = run("export.gguf", model, folder / f"{kind}-{mode}", f"type={kind}", text, *MODES[mode])
                kl = judge.divergence(file)
                row[mode] = {"bytes": file.stat().st_size, "kl": round(kl, 5), "ratio": round(kl / base, 3)}
            print(json.dumps(row))


if __name__ == "__main__":
    main()
