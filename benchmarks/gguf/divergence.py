"""KL divergence to the float model: `export.gguf` against importance-matrix `llama_model_quantize` of the same type.

    python benchmarks/gguf/divergence.py MODEL CALIBRATION HELD_OUT… [--types Q4_K_M Q3_K_M Q2_K] [--tokens 25600]

CALIBRATION and HELD_OUT are JSONL of {"text"} or {"messages"} (`texts.py` makes some). Every side calibrates on the
same tokens; files are decoded whole and computed in float32. Prints a row per type and mode: bytes, bits per weight,
and per held-out text the mean KL per token in nats and the share of positions with the same most likely token.
`--work FOLDER` keeps the files, and goes on where an earlier call stopped.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress.windows import calibration_windows
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
    if found := list(out.glob("*.gguf")):
        return found[0]
    command = [sys.executable, "-m", "compress.cli", "run", stage, "--from", str(model), "--out", str(out)]
    for value in values:
        command += ["--with", value]
    done = subprocess.run(command, cwd=out.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return next(out.glob("*.gguf"))


def peer(source: Path, matrix: Path, kind: str, out: Path) -> Path:
    """llama.cpp's own quantizer with the matrix."""
    if out.is_file():
        return out
    llama_cpp = quiet_llama()
    means = {name.encode(): entry.mean() for name, entry in read_matrix(matrix).entries.items()}
    table = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()
    for slot, (name, values) in zip(table, means.items(), strict=False):
        slot.name, slot.size = name, values.size
        slot.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.imatrix = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}"), 2, table
    part = out.with_suffix(".part")
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(part).encode(), ctypes.byref(params)) == 0
    return part.rename(out)


class Judge:
    """The float model on the held-out texts."""

    def __init__(self, folder: Path, texts: Sequence[Path], tokens: int) -> None:
        self.checkpoint = open_checkpoint(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        if self.model.get_output_embeddings().weight is self.model.get_input_embeddings().weight:
            self.model.get_output_embeddings().weight = torch.nn.Parameter(self.model.get_input_embeddings().weight)
        self.ids = {text.stem: calibration_windows(folder, text, tokens, 256) for text in texts}
        self.names = dict(self.model.named_parameters())
        self.reference = {name: list(self.log_probs(ids)) for name, ids in self.ids.items()}

    @torch.no_grad()
    def log_probs(self, ids: torch.Tensor) -> Iterator[torch.Tensor]:
        """float32 [windows, 256, vocabulary] of a few windows at a time."""
        for part in ids.split(4):
            yield self.model(input_ids=part).logits.log_softmax(-1)

    def judge(self, file: Path) -> dict[str, Any]:
        """Size of a file; per text mean KL(float model || file) per token in nats, and share of equal top tokens."""
        weights = 0
        with torch.no_grad():
            for stored in read_gguf(file, self.checkpoint):
                weights += stored.values.size
                self.names[stored.name].copy_(torch.from_numpy(np.ascontiguousarray(stored.values)))
            if "lm_head.weight" in self.names and self.checkpoint.config.get("tie_word_embeddings"):
                self.names["lm_head.weight"].copy_(self.model.get_input_embeddings().weight)
        size = file.stat().st_size
        row: dict[str, Any] = {"bytes": size, "bits": round(8 * size / weights, 3)}
        return row | {name: self._compare(name) for name in self.ids}

    def _compare(self, name: str) -> dict[str, float]:
        divergence, equal, ids = 0.0, 0, self.ids[name]
        for p, q in zip(self.reference[name], self.log_probs(ids), strict=True):
            divergence += float((p.exp() * (p - q)).sum())
            equal += int((p.argmax(-1) == q.argmax(-1)).sum())
        return {"kl": round(divergence / ids.numel(), 5), "top1": round(equal / ids.numel(), 4)}


def files(model: Path, folder: Path, text: Sequence[str], kinds: Sequence[str], modes: Sequence[str]) -> Iterator[Any]:
    """``(type, mode, file)``, each made as it is asked for; ``text``: the parameters that say what calibrates."""
    plain = run("export.gguf", model, folder / "f32", "type=F32")
    matrix = run("export.imatrix", model, folder / "matrix", *text)
    for kind in kinds:
        yield kind, "peer", peer(plain, matrix, kind, folder / f"{kind}.gguf")
        for mode in modes:
            yield kind, mode, run("export.gguf", model, folder / f"{kind}-{mode}", f"type={kind}", *text, *MODES[mode])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration"):
        parser.add_argument(name, type=Path)
    parser.add_argument("held_out", type=Path, nargs="+")
    parser.add_argument("--types", nargs="+", default=["Q4_K_M", "Q3_K_M", "Q2_K"])
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=list(MODES))
    parser.add_argument("--tokens", type=int, default=25600)
    parser.add_argument("--calibration-tokens", type=int, default=32768)
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    model = given.model.resolve()
    text = (f"calibration={given.calibration.resolve()}", f"calibration_tokens={given.calibration_tokens}")
    judge = Judge(model, given.held_out, given.tokens)
    with tempfile.TemporaryDirectory() as place:
        folder = (given.work or Path(place)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for kind, mode, file in files(model, folder, text, given.types, given.modes):
            print(json.dumps({"type": kind, "mode": mode, **judge.judge(file)}), flush=True)


if __name__ == "__main__":
    main()
