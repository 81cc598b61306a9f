"""Does llama.cpp's own converter make the same file? Tensors bit for bit in float32, and the header key by key.

    python benchmarks/interop/convert_peer.py --converter LLAMA_CPP [--hf FOLDER ...]

LLAMA_CPP is a source tree of llama.cpp (convert_hf_to_gguf.py, conversion/, gguf-py/). Without --hf, random small
models of every family and variant are compared (tests/helpers/family_models.py); where the files differ, llama.cpp's
logits of both are held to transformers'. Vocabularies are left out on both sides. Prints what differs; exits 1 when a
tensor does, unless only our file answers as transformers does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/export")]
PEER = """
import sys
from pathlib import Path
tree, folder, out = sys.argv[1:]
sys.path[:0] = [tree, tree + "/gguf-py"]
import gguf, torch
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
hparams = ModelBase.load_hparams(Path(folder), False)
kind = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
add = gguf.GGUFWriter.add_vocab_size
gguf.GGUFWriter.add_vocab_size = lambda self, n: None if f"{self.arch}.vocab_size" in self.kv_data[0] else add(self, n)

def set_vocab(self):
    self.gguf_writer.add_tokenizer_model("none")
    self.gguf_writer.add_vocab_size(hparams["vocab_size"])  # instead of the list of tokens

kind.set_vocab = set_vocab
with torch.inference_mode():
    kind(Path(folder), gguf.LlamaFileType.ALL_F32, Path(out)).write()
"""


class NoVocabulary:
    """llama.cpp's tokenizer "none"."""

    def write(self, writer: Any) -> None:
        writer.add_tokenizer_model("none")

    def model_name(self, wanted: str) -> str:
        return wanted


def ours(folder: Path, place: Path) -> Path:
    """A float32 .gguf by ``export.gguf``'s own functions."""
    from export.checkpoint import open_checkpoint
    from export.gguf.layout import layout_of
    from export.gguf.params import GgufParams
    from export.gguf.plan import plan_tensors
    from export.gguf.write import pieces, write_header

    checkpoint, params = open_checkpoint(folder), GgufParams(type="F32", imatrix=False)
    layout = layout_of(checkpoint.config)
    plan = plan_tensors(checkpoint, layout, "F32", {})
    out = place / "ours.gguf"
    with open(out, "wb") as file:
        file.write(write_header(place / "header", layout, NoVocabulary(), plan, params))
        for planned in plan:
            stored = b"".join(piece.tobytes() for piece in pieces(planned, checkpoint, 1, None))
            file.write(stored.ljust(planned.stored_bytes, b"\0"))
    return out


def theirs(tree: Path, folder: Path, place: Path) -> Path:
    """A float32 .gguf by the converter; RuntimeError with its last words when it refuses the folder."""
    out = place / "theirs.gguf"
    command = [sys.executable, "-c", PEER, str(tree), str(folder), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    return out


def read(path: Path) -> tuple[dict[str, Any], dict[str, tuple[list[int], bytes]]]:
    """Header values and tensors (shape, bytes)."""
    import gguf

    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return keys, {t.name: (t.shape.tolist(), t.data.tobytes()) for t in reader.tensors}


def differences(a: dict[str, Any], b: dict[str, Any]) -> dict[str, list[str]]:
    """Names that only one side has, and those with another value."""
    return {
        "only ours": sorted(set(a) - set(b)),
        "only theirs": sorted(set(b) - set(a)),
        "different": sorted(name for name in set(a) & set(b) if a[name] != b[name]),
    }


def compare(name: str, tree: Path, folder: Path, *, judge: bool) -> bool:
    """Print what differs; whether every tensor is the same or (``judge``) only ours answers as transformers does."""
    with tempfile.TemporaryDirectory() as place:
        mine = ours(folder, Path(place))
        try:
            peer = theirs(tree, folder, Path(place))
        except RuntimeError as error:
            print(f"{name}: the converter refuses it ({error})")
            return True
        (keys, tensors), (their_keys, their_tensors) = read(mine), read(peer)
        differing = {kind: _short(found) for kind, found in differences(tensors, their_tensors).items() if found}
        print(f"{name}: {len(tensors)} tensors, {json.dumps(differing) if differing else 'all equal'}")
        for kind, found in differences(keys, their_keys).items():
            for key in found:
                print(f"    {kind:12s} {key} {keys.get(key, '')} {their_keys.get(key, '')}".rstrip())
        if not judge:
            return not differing
        gaps = [distance(folder, file) for file in (mine, peer)]
        print(f"    logits off by {gaps[0]:.1e} (ours), {gaps[1]:.1e} (theirs) of the largest")
        return gaps[0] < LIMIT and (not differing or gaps[1] > LIMIT)


def _short(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


LIMIT = 2e-4


def distance(folder: Path, file: Path) -> float:
    """Largest difference of llama.cpp's logits from transformers', relative; infinite if it cannot load the file."""
    from llama_run import logits
    from test_gguf_families import POSITIONS, reference

    ids = np.random.default_rng(1).integers(0, 300, POSITIONS).tolist()
    expected = reference(folder, ids)
    try:
        got = logits(file, ids)
    except AssertionError:
        return float("inf")
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--converter", type=Path, required=True)
    parser.add_argument("--hf", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    bad = [folder.name for folder in given.hf if not compare(folder.name, given.converter, folder, judge=False)]
    if not given.hf:
        from family_models import CASES, save_family

        for case in CASES:
            with tempfile.TemporaryDirectory() as place:
                if not compare(case, given.converter, save_family(case, Path(place) / "hf"), judge=True):
                    bad.append(case)
    print("differ:", ", ".join(bad) or "none")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
