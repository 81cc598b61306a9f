"""Users' model folders: what is taken, and what is refused with which words."""

from __future__ import annotations

import json
import shutil

import pytest
from small_folder import write_model

from compress.errors import ArtifactError, HoldfastError
from compress.model.safetensors_header import read_header
from compress.stage import Job, JobOutline
from finetune.source.folder import check_model_folder
from finetune.source.hf import download
from finetune.source.path import PathParams, PathSource


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("whole") / "hf", hidden=64, ffn=96, heads=4, layers=1)


@pytest.fixture
def folder(whole, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(whole, path)
    (path / "modeling_evil.py").write_text("print('no')")
    return path


def taken(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    job = Job(params=PathParams(path=folder), out=out, scratch=tmp_path)
    PathSource().check(job)
    facts = PathSource().run(job)
    ahead = PathSource().needs(JobOutline(params=PathParams(path=folder)))
    assert ahead.disk_bytes >= sum(p.stat().st_size for p in out.iterdir())
    return facts, sorted(p.name for p in out.iterdir())


NAMES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_a_model_folder_is_copied_without_code_or_other_weights(folder, tmp_path):
    for stranger in ("consolidated.safetensors", "adapter_model.safetensors", "model.fp16.safetensors"):
        (folder / stranger).write_bytes(b"anything")
    facts, names = taken(folder, tmp_path)
    assert facts == {"architecture": "LlamaForCausalLM", "weight_files": 1}
    assert names == NAMES


def test_shards_are_copied_with_their_index(folder, tmp_path):
    (folder / "model.safetensors").rename(folder / "part-a.safetensors")
    names = read_header(folder / "part-a.safetensors")
    index = {"weight_map": dict.fromkeys(names, "part-a.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    facts, kept = taken(folder, tmp_path)
    assert facts["weight_files"] == 1
    assert {"model.safetensors.index.json", "part-a.safetensors"} <= set(kept)


def test_unusable_folders_are_refused(folder):
    def refused(match):
        with pytest.raises(HoldfastError, match=match):
            check_model_folder(folder)

    weights, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    blob = weights.read_bytes()
    weights.write_bytes(blob[:-3])
    refused("is truncated")
    weights.rename(folder / "pytorch_model.bin")
    refused("pickled weights")
    (folder / "pytorch_model.bin").unlink()
    refused(r"no \*\.safetensors")
    (folder / "model-1.safetensors").write_bytes(blob)
    refused("holds model-1.safetensors, and neither model.safetensors nor")
    index.write_text(json.dumps({"weight_map": {"w": "model-1.safetensors", "v": "model-2.safetensors"}}))
    refused("model-2.safetensors is missing")
    index.write_text(json.dumps({"weight_map": {"v": "model-1.safetensors"}}))
    refused("tensor v")
    (folder / "tokenizer.json").unlink()
    refused("no tokenizer")
    (folder / "config.json").write_text("{}")
    refused("names no architecture")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": {"bits": 4}}))
    refused("already quantized")
    (folder / "config.json").unlink()
    refused("is missing")


def test_without_a_network_the_hub_says_so(tmp_path, monkeypatch):
    import huggingface_hub

    def no_network(*arguments, **options):
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    with pytest.raises(HoldfastError, match=r"cannot fetch a/b@main.*OSError") as caught:
        download("a/b", "main", tmp_path)
    assert "source: {path" in str(caught.value)
    assert not isinstance(caught.value, ArtifactError)
