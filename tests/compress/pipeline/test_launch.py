"""One command in two processes: training is shared, everything else is made and said once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

ROOT = Path(__file__).parents[3]


def launched(processes, *arguments):
    command = ["torchrun", "--nproc-per-node", str(processes), "-m", "compress.cli", *map(str, arguments)]
    command[0] = str(Path(sys.executable).with_name("torchrun"))
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_make_one_run(tiny_llama, chat_jsonl, tmp_path):
    config = {
        "version": 1,
        "name": "shared",
        "source": {"path": str(tiny_llama)},
        "data": {"train": str(chat_jsonl)},
        "stages": [
            {"id": "tune", "use": "finetune.sft", "with": {"method": "lora", "rank": 4, "steps": 3, "batch": 4}},
            {"id": "gguf", "use": "export.gguf", "from": "tune", "with": {"type": "Q8_0", "imatrix": False}},
        ],
    }
    (tmp_path / "p.yaml").write_text(json.dumps(config))
    for _ in range(2):  # the second time everything is there
        done = launched(2, "pipeline", tmp_path / "p.yaml", "--work-dir", tmp_path / "work", "--json")
        assert done.returncode == 0, done.stderr
        state = json.loads(done.stdout)
        assert set(state["stages"]) == {"source", "data", "tune", "gguf"}
    assert all(stage["cached"] for stage in state["stages"].values())
    assert done.stderr.count("tune (finetune.sft)") == 1
    kept = [path for path in (tmp_path / "work" / "store").iterdir() if not path.name.startswith(".")]
    assert len(kept) == 4
    assert (tmp_path / "work" / "runs" / "shared" / "logs" / "tune.1.log").is_file()
    wrong = launched(2, "run", "finetune.sft", "--from", tiny_llama, "--data", f"train={chat_jsonl}", "--out",
                     tmp_path / "out", "--work-dir", tmp_path / "work", "--with", "batch=3")  # fmt: skip
    assert "batch is 3: 2 processes cannot share it evenly" in wrong.stderr
    assert wrong.returncode


@pytest.mark.slow
def test_a_launcher_cuts_the_model(tiny_llama, chat_jsonl, tmp_path):
    """``accelerate launch --use_fsdp``: what cannot be cut is refused by name, the rest is trained."""
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", "--use_fsdp", "--num_processes", "2"]
    command += ["--fsdp_version", "2", "-m", "compress.cli", "run", "finetune.sft", "--from", str(tiny_llama)]
    command += ["--data", f"train={chat_jsonl}", "--with", "steps=3", "--with", "batch=4"]
    for method, refused in (("qlora", True), ("full", False)):
        out = tmp_path / method
        given = [*command, "--with", f"method={method}", "--work-dir", str(tmp_path / "work"), "--out", str(out)]
        done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, check=False)
        assert bool(done.returncode) is refused, done.stderr
        assert ("method: qlora cannot be cut" in done.stderr) is refused
        assert (out / "model.safetensors").is_file() is not refused
