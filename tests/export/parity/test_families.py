"""Parity over every family, in both runtimes: the inverse of each exporter is written down independently and agrees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_gguf import tensor
from family_models import PLAIN, save_family
from gguf_export import export
from onnx_export import export_onnx
from parity_job import checks_of, job_of

from compress.errors import ParityFailed
from export.parity.stage import ExportParity

VARIANTS = (*PLAIN, "gemma2-pattern", "gemma3-nested", "phi3-fewer-heads", "gpt2-untied-narrow", "llama-llama3")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"messages": [{"role": "user", "content": f"Where is order {n}? I want to know."}]} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


QUICK = ("llama", "qwen3", "gemma3", "phi3", "gpt2")


def cases(quick: str, slow: str) -> list[Any]:
    """Families that differ most with their ``quick`` type; the rest with the slow tests."""
    found = [pytest.param(name, quick, marks=[] if name in QUICK else pytest.mark.slow) for name in VARIANTS]
    return [*found, *(pytest.param(name, slow, marks=pytest.mark.slow) for name in VARIANTS)]


@pytest.mark.parametrize(("name", "kind"), cases("Q8_0", "F32"))
def test_a_family_is_the_same_in_llama(name: str, kind: str, prompts: Path, tmp_path: Path) -> None:
    folder = save_family(name, tmp_path / "hf")
    path = export(folder, tmp_path / "gguf", type=kind)
    job = job_of(tmp_path, folder, path, prompts_file=prompts, tokens=8)
    assert ExportParity().run(job)["verdict"] == "PASS"
    figures = checks_of(job)["logits"]
    assert figures["positions"] > 50
    if kind == "Q8_0":
        assert 0.8 < figures["rms"] / figures["arithmetic"]["rms"] < 1.25, "the imitated roundings are llama.cpp's"


@pytest.mark.parametrize(("name", "precision"), cases("int4", "fp32"))
def test_a_family_is_the_same_in_onnxruntime(name: str, precision: str, prompts: Path, tmp_path: Path) -> None:
    folder = save_family(name, tmp_path / "hf")
    path = export_onnx(folder, tmp_path / "onnx", precision=precision, accuracy_level=4)
    job = job_of(tmp_path, folder, path, prompts_file=prompts, tokens=8)
    assert ExportParity().run(job)["verdict"] == "PASS"
    figures = checks_of(job)["logits"]
    if precision == "int4":
        assert 0.98 < figures["rms"] / figures["arithmetic"]["rms"] < 1.02, "the imitated roundings are onnxruntime's"
    else:
        assert figures["max_abs"] < 1e-4


def test_gemmas_norms_need_their_offset(prompts: Path, tmp_path: Path) -> None:
    folder = save_family("gemma2", tmp_path / "hf")
    path = export(folder, tmp_path / "gguf", type="F32")
    tensor(path, "blk.0.attn_norm.weight", lambda values: values - 1, np.float32)
    with pytest.raises(ParityFailed, match=r"weights: model\.layers\.0\.input_layernorm\.weight is off by"):
        ExportParity().run(job_of(tmp_path, folder, path, prompts_file=prompts, tokens=8))
