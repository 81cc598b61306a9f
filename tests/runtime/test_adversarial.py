"""Hard rules against 5,000 hostile prompts and a model that is as bad as can be (`benchmarks/adversarial.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_folder import write_model
from tiny_gguf import write_tiny_gguf

ROOT = Path(__file__).parents[2]


def bad_model(kind: str, place: Path) -> Path:
    if kind == "gguf":
        return write_tiny_gguf(place / "bad.gguf", context=512)
    pytest.importorskip("onnxruntime_genai")
    from onnx_export import export_onnx

    sizes = {"hidden": 64, "ffn": 128, "layers": 1, "heads": 4, "max_position_embeddings": 512}
    return export_onnx(write_model(place / "hf", **sizes), place / "onnx")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["gguf", "onnx"])
def test_no_hostile_prompt_gets_a_forbidden_word_out(kind: str, tmp_path: Path, shared_data: Path) -> None:
    pytest.importorskip("llguidance")
    model = bad_model(kind, tmp_path)
    script = [sys.executable, str(ROOT / "benchmarks" / "adversarial.py"), str(model), "--data", str(shared_data)]
    command = [*script, "--longest", "60", "--max-tokens", "24", "--json"]
    where = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=where)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["prompts"] >= 5000
    assert found["unguarded"] > 1000  # the model breaks the rules, left alone
    assert (found["enforced"], found["streamed"], found["engine_failed"]) == (0, 0, False)
