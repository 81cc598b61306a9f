"""Parity: what quantization explains passes, everything else is found and named."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import broken_gguf as broken
import numpy as np
import pytest
from parity_job import checks_of, job_of
from small_folder import write_model
from small_gptq import write_gptq

from compress.artifact import open_artifact
from compress.errors import EXIT_GATE_FAIL, ParityFailed, UsageError
from compress.stage import Job
from export.gguf.params import GgufParams
from export.gguf.stage import ExportGguf
from export.parity.stage import ExportParity, ParityParams
from runtime.engine.gguf_file import read_gguf

SIZES: dict[str, Any] = {"hidden": 256, "ffn": 512, "heads": 8, "layers": 2}


def export(folder: Path, place: Path, kind: str) -> Path:
    for part in ("out", "scratch"):
        (place / part).mkdir(parents=True)
    params = GgufParams(type=kind, imatrix=False)
    job = Job(params=params, out=place / "out", scratch=place / "scratch", inputs=(open_artifact(folder),))
    ExportGguf().run(job)
    return job.out / "model.gguf"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("parity")
    folder = write_model(place / "hf", **SIZES)
    prompts = place / "prompts.jsonl"
    rows = [{"messages": [{"role": "user", "content": f"Where is order {n}?"}]} for n in range(8)]
    rows += [{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Thanks, bye!"}]}]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in (*rows, {"text": "The customer asks politely."})))
    found = {kind: export(folder, place / kind, kind) for kind in ("F32", "Q8_0", "Q4_K_M", "Q2_K")}
    return {"hf": folder, "prompts": prompts, **found}


def compare(made: dict[str, Path], place: Path, candidate: Path) -> Job[ParityParams]:
    """Run the stage on ten prompts; the job, whose ``out`` holds parity.json whether it passed or not."""
    job = job_of(place, made["hf"], candidate, prompts_file=made["prompts"], tokens=12)
    ExportParity().run(job)
    return job


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_K_M", "Q2_K"])
def test_every_type_is_the_same_model(made: dict[str, Path], tmp_path: Path, kind: str) -> None:
    job = compare(made, tmp_path, made[kind])
    result = json.loads((job.out / "parity.json").read_text())
    assert result["verdict"] == "PASS"
    assert result["prompts"] == {"asked": 200, "used": 10, "scored": 10, "cut": 0}
    checks = checks_of(job)
    assert list(checks) == ["template", "token ids", "special tokens", "end tokens", "weights", "logits", "greedy"]
    assert checks["greedy"]["compared"] == 10
    assert checks["logits"]["positions"] > 10 * 15
    near = checks["logits"]["rms"] / max(checks["logits"]["arithmetic"]["rms"], 1e-9)
    assert near < 1.7, "the imitated roundings are the runtime's"


def rows_swapped(rows: np.ndarray) -> np.ndarray:
    """Two rows of one head change places, as a wrong rotary permutation does it."""
    rows[[0, 1]] = rows[[1, 0]]
    return rows


def not_permuted(rows: np.ndarray) -> np.ndarray:
    """Neighbouring pairs back to halves."""
    return rows.reshape(-1, 16, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def zeroed(rows: np.ndarray) -> np.ndarray:
    rows[7] = 0
    return rows


def doubled_bos(path: Path) -> Path:
    return broken.setting(path, "tokenizer.ggml.add_bos_token", "B", 1)


def other_eos(path: Path) -> Path:
    return broken.setting(path, "tokenizer.ggml.eos_token_id", "I", 4)


def tokens_swapped(path: Path) -> Path:
    """Two tokens of the same length change places."""
    tokens = read_gguf(path).metadata["tokenizer.ggml.tokens"]
    normal = [t for t in tokens[6:] if len(t.encode()) == 1 and t.isalpha()]
    one, other = (struct.pack("<Q", 1) + t.encode() for t in normal[:2])
    raw = path.read_bytes()
    start = raw.index(b"tokenizer.ggml.tokens")
    a, b = raw.index(one, start), raw.index(other, start)
    changed = bytearray(raw)
    changed[a : a + 9], changed[b : b + 9] = other, one
    path.write_bytes(changed)
    return path


DEFECTS: dict[str, tuple[str, str, Callable[[Path], Path]]] = {
    "rotary permutation lost": (
        "weights",
        "self_attn.q_proj.weight",
        lambda p: broken.tensor(p, "blk.1.attn_q.weight", not_permuted),
    ),
    "rows of a head swapped": (
        "weights",
        "self_attn.k_proj.weight",
        lambda p: broken.tensor(p, "blk.0.attn_k.weight", rows_swapped),
    ),
    "gate and up swapped": (
        "weights",
        "mlp.gate_proj.weight",
        lambda p: broken.swap_tensors(p, "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"),
    ),
    "norm without its offset": (
        "weights",
        "input_layernorm.weight",
        lambda p: broken.tensor(p, "blk.0.attn_norm.weight", lambda v: v - 1, np.float32),
    ),
    "a row zeroed": ("weights", "row 7", lambda p: broken.tensor(p, "blk.1.ffn_down.weight", zeroed)),
    "a block of weights zeroed": (
        "weights",
        "layers.1.mlp.up_proj",
        lambda p: broken.tensor(p, "blk.1.ffn_up.weight", lambda rows: rows * 0),
    ),
    "template": ("template", "renders otherwise", lambda p: broken.text(p, b"{{ bos_token }}", b"{{ eos_token }}")),
    "template, where no prompt goes": (
        "template",
        "text differs",
        lambda p: broken.text(p, b"m['role'] == 'assistant'", b"m['role']== 'assistant' "),
    ),
    "doubled BOS": ("special tokens", "BOS in front", doubled_bos),
    "other end token": ("end tokens", "named as an end token", other_eos),
    "tokens swapped": ("token ids", "instead of", tokens_swapped),
    "rope base": ("logits", "the same weights", lambda p: broken.setting(p, "llama.rope.freq_base", "f", 20000.0)),
    "norm epsilon": (
        "logits",
        "the same weights",
        lambda p: broken.setting(p, "llama.attention.layer_norm_rms_epsilon", "f", 0.05),
    ),
}


@pytest.mark.parametrize("kind", [pytest.param("Q8_0", marks=pytest.mark.slow), "Q2_K"])
@pytest.mark.parametrize("defect", list(DEFECTS))
def test_a_defect_is_found_and_named(made: dict[str, Path], tmp_path: Path, defect: str, kind: str) -> None:
    check, words, damage = DEFECTS[defect]
    path = damage(broken.copy(made[kind], tmp_path / "broken"))
    job = job_of(tmp_path, made["hf"], path, prompts_file=made["prompts"], tokens=12)
    with pytest.raises(ParityFailed, match="candidate1 is not the same model as reference: ") as caught:
        ExportParity().run(job)
    assert caught.value.exit_code == EXIT_GATE_FAIL
    found = checks_of(job)[check]
    assert not found["passed"]
    assert words in found["first_difference"]


def test_a_gptq_folder_is_judged_by_its_weights(made: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    write_gptq(made["hf"], tmp_path / "gptq")
    job = compare(made, tmp_path, tmp_path / "gptq")
    result = json.loads((job.out / "parity.json").read_text())
    assert result["candidates"][0]["not_run"] == ["logits", "greedy"]
    assert 0 < checks_of(job)["weights"]["largest_row_error"]["int4"] < 0.45
    tensors = load_file(tmp_path / "gptq" / "model.safetensors")
    stem = "model.layers.1.self_attn.o_proj."
    tensors[f"{stem}qweight"] = tensors[f"{stem}qweight"][:, ::-1].copy()
    save_file(tensors, tmp_path / "gptq" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ParityFailed, match=r"weights: row \d+ of model\.layers\.1\.self_attn\.o_proj\.weight is off by"
    ):
        compare(made, tmp_path, tmp_path / "gptq")


def test_a_gptq_folder_can_be_the_reference(made: dict[str, Path], tmp_path: Path) -> None:
    write_gptq(made["hf"], tmp_path / "gptq")
    path = export(tmp_path / "gptq", tmp_path / "gguf", "Q8_0")
    job = job_of(tmp_path, tmp_path / "gptq", path, prompts_file=made["prompts"], tokens=12)
    assert ExportParity().run(job)["verdict"] == "PASS"


def test_another_tokenizer_folder_is_found(made: dict[str, Path], tmp_path: Path) -> None:
    write_gptq(made["hf"], tmp_path / "gptq")
    path = tmp_path / "gptq" / "tokenizer_config.json"
    path.write_text(path.read_text().replace("<|assistant|>", "<|user|>"))
    with pytest.raises(ParityFailed, match=r"template: \['user'\] renders otherwise: at character"):
        compare(made, tmp_path, tmp_path / "gptq")


def test_end_tokens_follow_generation_config(made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["hf"], tmp_path / "hf")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 4]}))
    with pytest.raises(ParityFailed, match=r"end tokens: end token 4 \('<\|assistant\|>'\) does not stop the runtime"):
        ExportParity().run(job_of(tmp_path, folder, made["Q8_0"], prompts_file=made["prompts"], tokens=12))


def test_what_cannot_be_compared_is_refused(made: dict[str, Path], tmp_path: Path) -> None:
    for folders, words in (
        ((made["Q8_0"], made["hf"]), "the reference .* is a gguf artifact"),
        ((made["hf"],), "compares exports with a reference; it was given hf"),
        ((made["hf"], made["hf"]), "it was given hf, hf"),
    ):
        with pytest.raises(UsageError, match=words):
            ExportParity().check(job_of(tmp_path, *folders, prompts_file=made["prompts"]))
    with pytest.raises(UsageError, match="needs prompts"):
        ExportParity().check(job_of(tmp_path, made["hf"], made["Q8_0"]))


def test_a_file_of_another_model_ends_in_one_clear_error(made: dict[str, Path], tmp_path: Path) -> None:
    folder = write_model(tmp_path / "other", **{**SIZES, "layers": 1})
    path = export(folder, tmp_path / "export", "Q8_0")
    with pytest.raises(ParityFailed, match=r"weights: the file has no tensor blk\.1\."):
        compare(made, tmp_path, path)


@pytest.mark.slow
def test_two_bits_alone_pass_on_a_trained_model(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "models/m7"
    path = export(folder, tmp_path / "gguf", "Q2_K")
    job = job_of(tmp_path, folder, path, prompts_file=folder / "eval.jsonl", length=64)
    assert ExportParity().run(job)["prompts"] == 200
    figures = checks_of(job)["logits"]
    assert figures["quantization"]["kl_mean"] > 0.05, "two bits do change this model"
    assert figures["rms"] < 1.2 * figures["arithmetic"]["rms"]
    assert checks_of(job)["weights"]["largest_row_error"]["Q2_K"] < 0.5
    broken.swap_tensors(path, "blk.3.ffn_gate.weight", "blk.3.ffn_up.weight")
    with pytest.raises(ParityFailed, match=r"weights: row \d+ of model\.layers\.3\.mlp\.gate_proj\.weight"):
        ExportParity().run(job_of(tmp_path, folder, path, prompts_file=folder / "eval.jsonl", prompts=4))


@pytest.mark.slow
def test_the_command_ends_with_the_gates_code(made: dict[str, Path], tmp_path: Path) -> None:
    broken_file = broken.setting(broken.copy(made["Q2_K"], tmp_path / "broken"), "llama.rope.freq_base", "f", 20000.0)
    for number, (path, code) in enumerate(((made["Q2_K"], 0), (broken_file, EXIT_GATE_FAIL))):
        command = [sys.executable, "-m", "compress.cli", "run", "export.parity", "--from", made["hf"], "--from", path]
        command += ["--with", f"prompts_file={made['prompts']}", "--with", "tokens=8", "--work-dir", tmp_path / "work"]
        command += ["--out", tmp_path / f"out{number}"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert (tmp_path / f"out{number}" / "parity.json").is_file() == (code == 0)
    assert "error: model is not the same model as hf: logits: logits are" in done.stderr
