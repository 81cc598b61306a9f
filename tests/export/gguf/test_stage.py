"""The GGUF stage: a trained model answers the same; files are repeatable and resumable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gguf_export import divergence, export, job_of, reference
from llama_run import logits
from small_folder import write_model
from small_gptq import write_gptq

from compress.errors import ArtifactError, UnsupportedArchitecture, UsageError
from compress.stage import Job
from export.checkpoint import Checkpoint, open_checkpoint
from export.gguf import stage as stage_module
from export.gguf import write
from export.gguf.arch import ARCHITECTURES
from export.gguf.params import GgufParams
from export.gguf.stage import ExportGguf


def test_a_trained_model_answers_the_same(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "models/m7"
    row = json.loads((folder / "eval.jsonl").read_text().splitlines()[0])
    from export.tokenizers.read import load_tokenizer

    ids = load_tokenizer(folder).encode(row["text"], add_special_tokens=False)[:128]
    expected = reference(folder, ids)
    for file_type, limit in (("F32", 1e-5), ("Q8_0", 1e-3), ("Q4_K_M", 2e-2)):
        got = logits(export(folder, tmp_path / file_type, type=file_type), ids)
        assert divergence(expected, got) < limit


def test_gptq_folder_becomes_the_weights_it_stands_for(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "hf", hidden=64, ffn=96, heads=4)
    plain = write_gptq(folder, tmp_path / "gptq", symmetric=False)
    checkpoint = open_checkpoint(tmp_path / "gptq")
    assert checkpoint.names() == sorted(plain)
    for name, values in plain.items():
        rows = values.shape[0] if values.ndim == 2 else 1
        assert np.array_equal(checkpoint.rows(name, 0, rows).reshape(values.shape), values)
    import gguf

    stored = {t.name: t.data for t in gguf.GGUFReader(export(tmp_path / "gptq", tmp_path)).tensors}
    assert np.array_equal(stored["blk.0.ffn_up.weight"], plain["model.layers.0.mlp.up_proj.weight"])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_of_every_width_unpack(bits: int) -> None:
    from export.checkpoint import unpack

    codes = np.random.default_rng(bits).integers(0, 2**bits, (5, 96))
    words = np.zeros((5, 96 * bits // 32), dtype=np.uint32)
    for row in range(5):
        stream = sum(int(code) << (bits * at) for at, code in enumerate(codes[row]))
        words[row] = [(stream >> (32 * at)) & 0xFFFFFFFF for at in range(words.shape[1])]
    assert np.array_equal(unpack(words.view(np.int32), bits), codes)


def test_importance_comes_from_the_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "hf")
    with pytest.raises(UsageError, match="needs a calibration pass"):
        export(folder, tmp_path, type="Q4_K_M", imatrix=True)
    plain = export(folder, tmp_path, type="Q4_K_M").read_bytes()
    draw = np.random.default_rng(0)
    found = {
        n.removesuffix(".weight"): draw.uniform(0.01, 9, Checkpoint(folder).shape(n)[1]).astype(np.float32)
        for n in Checkpoint(folder).names()
        if n.endswith("_proj.weight")
    }
    monkeypatch.setattr(stage_module, "_importance", lambda *_: found)
    weighed = export(folder, tmp_path, type="Q4_K_M").read_bytes()
    assert len(weighed) == len(plain)
    assert weighed != plain
    found["model.layers.0.mlp.down_proj"] = np.ones(7, dtype=np.float32)
    with pytest.raises(ArtifactError, match=r"model\.layers\.0\.mlp\.down_proj\.weight does not fit"):
        export(folder, tmp_path, type="Q4_K_M")


def test_very_low_types_need_importance(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "hf")
    with pytest.raises(UsageError, match=r"IQ2_XS stores .* useless without an importance matrix"):
        export(folder, tmp_path, type="IQ2_XS")


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the stage runs after it."""


@pytest.mark.parametrize(
    "after", [7, pytest.param(1, marks=pytest.mark.slow), pytest.param(19, marks=pytest.mark.slow)]
)
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    folder = write_model(tmp_path / "hf")
    whole = export(folder, tmp_path / "whole", type="Q5_K_M").read_bytes()
    monkeypatch.setattr(write, "SAVE_EVERY", 1)
    monkeypatch.setattr(write, "SLAB", 2**14)
    done: list[str] = []

    def progress(number: int, total: int, note: str = "") -> None:
        done.append(note)
        if len(done) == after:
            raise Killed

    job = job_of(folder, tmp_path / "killed", type="Q5_K_M")
    with pytest.raises(Killed):
        ExportGguf().run(Job(**{**vars(job), "progress": progress}))
    assert list(job.out.iterdir()) == []
    (job.scratch / "model.gguf.part").open("ab").write(b"torn tail of a tensor")
    finished = len(done)
    ExportGguf().run(Job(**{**vars(job), "progress": lambda n, total, note="": done.append(note)}))
    assert len(done) == len(set(done)), "no tensor is written twice"
    assert len(done) > finished
    assert (job.out / "model.gguf").read_bytes() == whole


def test_threads_and_slabs_do_not_change_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "hf")
    first = export(folder, tmp_path, type="Q4_K_M").read_bytes()
    monkeypatch.setattr(write, "SLAB", 3000)
    job = job_of(folder, tmp_path, type="Q4_K_M")
    ExportGguf().run(Job(**{**vars(job), "threads": 1}))
    assert (job.out / "model.gguf").read_bytes() == first
    assert str(tmp_path).encode() not in first


def test_unknown_architecture_names_the_row(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "hf", hidden=64, ffn=96, heads=4)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["MambaForCausalLM"]}))
    with pytest.raises(UnsupportedArchitecture) as caught:
        ExportGguf().check(job_of(folder, tmp_path))
    assert "'MambaForCausalLM'" in caught.value.what
    assert "ARCHITECTURES in export/gguf/arch.py" in str(caught.value.next)
    assert set(ARCHITECTURES) <= set(caught.value.what.replace(",", " ").replace(")", " ").split())


def test_unknown_type_lists_the_known() -> None:
    with pytest.raises(ValueError, match="Q4_K_M"):
        GgufParams(type="Q4_K_X")
