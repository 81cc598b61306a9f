"""Damaged folders are refused with one clear error, before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf_export import job_of
from safetensors.numpy import load_file, save_file
from small_folder import TEXT, write_model
from small_gptq import write_gptq

from compress.errors import ArtifactError
from export.checkpoint import Checkpoint, open_checkpoint
from export.gguf.stage import ExportGguf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "hf", hidden=64, ffn=96, heads=4, tied=False)


def edit_weights(folder: Path, edit: Callable[[dict], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def edit_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def lose_a_shard(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')


UP = "model.layers.1.mlp.up_proj.weight"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "is truncated"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"holds no \*\.safetensors"),
    "missing shard": (lose_a_shard, "model-1.safetensors is missing"),
    "missing tensor": (lambda f: edit_weights(f, lambda t: t.pop(UP)), f"hold no {UP}"),
    "missing head": (lambda f: edit_weights(f, lambda t: t.pop("lm_head.weight")), "lm_head.weight is missing"),
    "unmerged adapter": (
        lambda f: edit_weights(f, lambda t: t.update({"model.layers.0.lora_A": np.ones((2, 2), np.float32)})),
        r"holds model.layers.0.lora_A of an adapter",
    ),
    "wrong dtype": (
        lambda f: edit_weights(f, lambda t: t.update({UP: t[UP].astype(np.int8)})),
        f"{UP} in .* has type I8",
    ),
    "wrong shape": (
        lambda f: edit_weights(f, lambda t: t.update({UP: t[UP][:-1]})),
        r"has shape \[95, 64\]; config.json says \[96, 64\]",
    ),
    "other sizes": (
        lambda f: edit_config(f, intermediate_size=80),
        r"has shape \[96, 64\]; config.json says \[80, 64\]",
    ),
    "no sizes": (lambda f: edit_config(f, hidden_size=None), "lacks a valid size"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
    "other quantizer": (lambda f: edit_config(f, quantization_config={"quant_method": "awq"}), "quantized by 'awq'"),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_damage_is_named_before_writing(folder: Path, tmp_path: Path, damage: str) -> None:
    harm, message = DAMAGE[damage]
    job = job_of(folder, tmp_path)
    harm(folder)
    with pytest.raises(ArtifactError, match=message) as caught:
        ExportGguf().check(job)
    assert caught.value.next
    with pytest.raises(ArtifactError):
        ExportGguf().run(job)
    assert list(job.out.iterdir()) == list(job.scratch.iterdir()) == []


def test_values_that_are_not_finite_name_their_tensor(folder: Path, tmp_path: Path) -> None:
    def spoil(tensors: dict) -> None:
        tensors[UP] = tensors[UP].copy()
        tensors[UP][3, 5] = np.nan

    edit_weights(folder, spoil)
    job = job_of(folder, tmp_path, type="Q8_0")
    with pytest.raises(ArtifactError, match=f"{UP} holds NaN or infinity"):
        ExportGguf().run(job)
    assert list(job.out.iterdir()) == []


def test_shards_and_dtypes_read_alike(folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    tensors = {name: torch.from_numpy(value) for name, value in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    halves = {"a.safetensors": {}, "b.safetensors": {}}
    kinds = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
    for number, (name, value) in enumerate(sorted(tensors.items())):
        tensors[name] = value.to(kinds[number % 4])
        halves["ab"[number % 2] + ".safetensors"][name] = tensors[name]
    for file, part in halves.items():
        save_torch(part, folder / file)
    weight_map = {name: file for file, part in halves.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.names() == sorted(tensors)
    for name, value in tensors.items():
        rows = value.shape[0] if value.ndim == 2 else 1
        got = checkpoint.rows(name, 0, rows).reshape(value.shape)
        assert np.array_equal(got, value.float().numpy())
    assert np.array_equal(checkpoint.rows(UP, 7, 9), tensors[UP].float().numpy()[7:9])


GPTQ = {
    "plain": {},
    "desc_act": {"desc_act": True, "sym": False},
    "three bits": {"bits": 3},
    "mixed": {"dynamic": {"*.down_proj": 8, "*.q_proj": 0, "*.1.*.up_proj": 3}},
    "sparse": {"sparsity": "2:4", "bits": 2},
    "per channel": {"group_size": -1, "bits": 8},
}


@pytest.mark.parametrize("kind", GPTQ)
def test_gptq_folders_are_read_as_the_solver_meant_them(folder: Path, tmp_path: Path, kind: str) -> None:
    """Of the real stage, with all that it can write; the other reader is in torch."""
    from compress.artifact import open_artifact
    from compress.quantize.gptq import Gptq
    from compress.quantize.packing import dequantize_folder
    from compress.stage import Job

    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"{line} {i}"}) + "\n" for i in range(20) for line in TEXT))
    sizes = {"calibration_tokens": 512, "calibration_length": 32, "group_size": 32, "upstream": True}
    params = Gptq.Params(calibration=text, **(sizes | GPTQ[kind]))
    for part in ("out", "scratch"):
        (tmp_path / part).mkdir()
    job = Job(params=params, out=tmp_path / "out", scratch=tmp_path / "scratch", inputs=(open_artifact(folder),))
    Gptq().check(job)
    Gptq().run(job)
    checkpoint = open_checkpoint(job.out)
    expected = {name: tensor.numpy() for name, tensor in dequantize_folder(job.out).items()}
    assert checkpoint.names() == sorted(expected)
    for name, value in expected.items():
        checkpoint.require_float(name)
        rows = value.shape[0] if value.ndim == 2 else 1
        assert checkpoint.shape(name) == value.shape
        assert np.array_equal(checkpoint.rows(name, 0, rows).reshape(value.shape), value), name
    packed = {name for name in checkpoint.entries if name.endswith(".qweight")}
    assert len(packed) == (12 if kind == "mixed" else 14)


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"config\.json does not exist"):
        Checkpoint(tmp_path)


def recoded(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    return lambda folder: edit_weights(folder, change)


def resettled(**values: object) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        settings = json.loads((folder / "config.json").read_text())["quantization_config"]
        edit_config(folder, quantization_config=settings | values)

    return harm


QK = "model.layers.0.self_attn.k_proj"
CODED: dict[str, tuple[Callable[[Path], object], str]] = {
    "other bits": (
        resettled(bits=8),
        r"qweight has shape \[8, 64\]; 8 bits .* and 64 inputs want \[16, 64\]",
    ),
    "bits that are a text": (resettled(bits="4"), "quantization_config.bits is '4', not one of 2, 3, 4, 8"),
    "no bits": (resettled(bits=None), "quantization_config.bits is None"),
    "another order of codes": (resettled(checkpoint_format="marlin"), "checkpoint_format is 'marlin', not gptq or"),
    "a pattern that is none": (resettled(dynamic={"+:[": {"bits": 8}}), "dynamic is .*, not an object of patterns"),
    "bits of a pattern": (resettled(dynamic={r"+:.*k_proj": {"bits": 8}}), f"{QK}.qweight has shape"),
    "codes of a float": (resettled(dynamic={r"-:.*k_proj": {}}), f"holds codes of {QK}, which .*dynamic leaves"),
    "a part missing": (recoded(lambda t: t.pop(f"{QK}.qzeros")), f"lacks {QK}.qzeros"),
    "long codes": (
        recoded(lambda t: t.update({f"{QK}.qweight": t[f"{QK}.qweight"].astype(np.int64)})),
        rf"{QK}.qweight is I64 \[8, .*, not I32 of rank 2",
    ),
    "fewer zeros": (recoded(lambda t: t.update({f"{QK}.qzeros": t[f"{QK}.qzeros"][:1]})), f"{QK}.qzeros has shape"),
    "a group beyond": (recoded(lambda t: t[f"{QK}.g_idx"].__setitem__(3, 7)), f"{QK}.g_idx names group 7, and .* 2"),
    "a group before": (recoded(lambda t: t[f"{QK}.g_idx"].__setitem__(3, -1)), f"{QK}.g_idx names group -1"),
}


@pytest.mark.parametrize("damage", list(CODED))
def test_codes_that_config_json_does_not_describe_are_named(tmp_path: Path, damage: str) -> None:
    source = write_model(tmp_path / "hf", hidden=64, ffn=64, heads=4, kv_heads=4, layers=1)
    folder = tmp_path / "gptq"
    write_gptq(source, folder)
    harm, message = CODED[damage]
    harm(folder)
    with pytest.raises(ArtifactError, match=message):
        open_checkpoint(folder).rows(f"{QK}.weight", 0, 1)
