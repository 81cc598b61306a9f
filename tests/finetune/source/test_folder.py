"""Users' model folders: what is taken, and what is refused with which words."""

from __future__ import annotations

import json
import struct

import pytest

from compress.errors import ArtifactError, HoldfastError
from compress.stage import Job
from finetune.source.folder import check_model_folder
from finetune.source.hf import download
from finetune.source.path import PathParams, PathSource


def tensors(path, cut=0):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    blob = struct.pack("<Q", len(header)) + header + bytes(8)
    path.write_bytes(blob[: len(blob) - cut])


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    (path / "tokenizer.json").write_text("{}")
    (path / "modeling_evil.py").write_text("print('no')")
    tensors(path / "model.safetensors")
    return path


def test_a_model_folder_is_copied_without_code(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    job = Job(params=PathParams(path=folder), out=out, scratch=tmp_path)
    PathSource().check(job)
    facts = PathSource().run(job)
    assert facts == {"architecture": "LlamaForCausalLM", "weight_files": 1}
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert PathSource().needs(job).disk_bytes == (folder / "model.safetensors").stat().st_size


def test_unusable_folders_are_refused(folder):
    def refused(match):
        with pytest.raises(HoldfastError, match=match):
            check_model_folder(folder)

    tensors(folder / "model.safetensors", cut=3)
    refused("cut short")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused("pickled weights")
    (folder / "pytorch_model.bin").unlink()
    refused(r"no \*\.safetensors")
    tensors(folder / "model-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "model-1.safetensors", "v": "model-2.safetensors"}}))
    refused("lacks model-2")
    index.write_text(json.dumps({"weight_map": {"w": "model-1.safetensors", "v": "model-1.safetensors"}}))
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
