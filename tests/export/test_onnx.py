"""The ONNX stage: GPTQ codes reach the graph untouched, the runtime answers as Hugging Face does, bytes repeat."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_folder import write_model
from small_gptq import write_gptq

from compress.artifact import hash_files, open_artifact
from compress.errors import ArtifactError, UnsupportedArchitecture, UsageError
from compress.stage import Job
from export.onnx import ExportOnnx, OnnxParams, check_source, settle_graph

pytest.importorskip("onnx_ir", reason="the model builder needs onnx-ir")
SIZES = {"hidden": 64, "ffn": 96, "heads": 4, "layers": 2, "tied": True}


def export(folder: Path, place: Path, **params: Any) -> tuple[Path, dict]:
    shutil.rmtree(place, ignore_errors=True)
    for part in ("out", "scratch"):
        (place / part).mkdir(parents=True)
    settings = OnnxParams(**params)
    job = Job(params=settings, out=place / "out", scratch=place / "scratch", inputs=(open_artifact(folder),), threads=2)
    ExportOnnx().check(job)
    return job.out, dict(ExportOnnx().run(job))


def greedy(folder: Path, ids: list[int], count: int) -> list[int]:
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + count, min_length=len(ids) + count, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    return [int(i) for i in generator.get_sequence(0)[len(ids) :]]


def greedy_hf(model: Any, ids: list[int], count: int) -> list[int]:
    import torch

    for _ in range(count):
        with torch.no_grad():
            row = model(torch.tensor([ids])).logits[0, -1]
        row[2] = -1e9  # the end token is held back on both sides
        ids = [*ids, int(row.argmax())]
    return ids[-count:]


def load_hf(folder: Path, weights: dict[str, np.ndarray] | None = None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if weights:
        tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
        lacking = model.load_state_dict(tensors, strict=False)
        assert not lacking.unexpected_keys
    return model


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("onnx")
    source = write_model(place / "hf", **SIZES)
    plain = write_gptq(source, place / "gptq", symmetric=False)
    out, facts = export(place / "gptq", place / "int4", head="float", accuracy_level=1)
    return {"place": place, "source": source, "gptq": place / "gptq", "plain": plain, "out": out, "facts": facts}


def test_codes_reach_the_graph_untouched(built: dict[str, Any]) -> None:
    assert built["facts"]["weights_equal"] == 14
    from export.onnx_check import compare_weights

    other = built["place"] / "other"
    if not other.exists():
        write_gptq(write_model(built["place"] / "hf2", seed=1, **SIZES), other, symmetric=False)
    with pytest.raises(ArtifactError, match="is not the checkpoint's"):
        compare_weights(built["out"] / "model.onnx", other)


def test_greedy_tokens_equal_the_dequantized_checkpoint(built: dict[str, Any]) -> None:
    model = load_hf(built["source"], built["plain"])
    draw = np.random.default_rng(2)
    prompts = [draw.integers(6, 300, 12).tolist() for _ in range(8)]
    same = [greedy(built["out"], p, 8) == greedy_hf(model, p, 8) for p in prompts]
    assert sum(same) >= 7  # a tie between two tokens may fall either way


def test_settings_of_the_folder(built: dict[str, Any]) -> None:
    config = json.loads((built["out"] / "genai_config.json").read_text())
    assert config["model"]["eos_token_id"] == 2
    assert config["model"]["context_length"] == config["search"]["max_length"] == 256
    assert not config["search"]["do_sample"]
    names = {p.name for p in built["out"].iterdir()}
    assert {"model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json"} <= names
    assert "chat_template.jinja" in names or "chat_template" in (built["out"] / "tokenizer_config.json").read_text()
    for path in built["out"].iterdir():
        assert str(built["place"]).encode() not in path.read_bytes()


def test_the_graph_carries_no_mark_of_the_machine(built: dict[str, Any], tmp_path: Path) -> None:
    import onnx
    import onnxruntime_genai

    path = built["out"] / "model.onnx"
    model = onnx.load(str(path), load_external_data=False)
    assert model.producer_version == onnxruntime_genai.__version__
    model.producer_version = "0.18.0+1234567"
    model.doc_string = "made by hand"
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    settle_graph(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "params", [{"precision": "fp32"}, {"precision": "int8"}, {"precision": "int4", "head": "int4"}]
)
def test_two_runs_give_the_same_bytes(built: dict[str, Any], tmp_path: Path, params: dict) -> None:
    first, _ = export(built["source"], tmp_path / "a", **params)
    second, _ = export(built["source"], tmp_path / "b", **params)
    assert hash_files(first) == hash_files(second)


@pytest.mark.slow
def test_gptq_bytes_repeat_and_fp32_equals_hugging_face(built: dict[str, Any], tmp_path: Path) -> None:
    again, _ = export(built["gptq"], tmp_path / "a", head="float", accuracy_level=1)
    assert hash_files(again) == hash_files(built["out"])
    plain, _ = export(built["source"], tmp_path / "b", precision="fp32")
    model, draw = load_hf(built["source"]), np.random.default_rng(3)
    for _ in range(8):
        prompt = draw.integers(6, 300, 12).tolist()
        assert greedy(plain, prompt, 8) == greedy_hf(model, prompt, 8)


@pytest.mark.parametrize(
    ("settings", "params", "message"),
    [
        ({"bits": 4, "group_size": 32}, {"precision": "fp32"}, "4-bit GPTQ folder cannot become fp32"),
        ({"bits": 3, "group_size": 32}, {}, "3-bit GPTQ folder cannot become int4"),
        ({"bits": 4, "group_size": -1}, {}, "no kernel for group_size -1"),
        ({"dynamic": {r"+:^model\.layers\.0\.mlp\.up_proj$": {"bits": 8}}}, {}, "linears of different bits"),
        ({"dynamic": {r"-:^model\.layers\.0\.mlp\.up_proj$": {}}}, {}, "linears of different bits"),
        ({"desc_act": True}, {}, "only with 4 symmetric bits"),
        ({"desc_act": True, "sym": True, "bits": 8}, {"precision": "int8"}, "only with 4 symmetric bits"),
    ],
)
def test_what_would_need_requantizing_is_refused(
    built: dict[str, Any], tmp_path: Path, settings: dict, params: dict, message: str
) -> None:
    folder = tmp_path / "gptq"
    shutil.copytree(built["gptq"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= settings
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=message) as caught:
        check_source(folder, OnnxParams(**params))
    assert caught.value.next


def test_inputs_in_an_order_of_their_own_are_computed_exactly(built: dict[str, Any], tmp_path: Path) -> None:
    """desc_act: every input names its group; here they are dealt out at random."""
    from compress.quantize.packing import dequantize_folder

    folder = tmp_path / "gptq"
    write_gptq(built["source"], folder)
    tensors, draw = load_file(folder / "model.safetensors"), np.random.default_rng(7)
    orders = {size: draw.permutation(size) for size in (64, 96)}  # one for all that read the same input
    for name in [name for name in tensors if name.endswith(".g_idx")]:
        tensors[name] = tensors[name][orders[len(tensors[name])]]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= {"desc_act": True}
    (folder / "config.json").write_text(json.dumps(config))
    out, facts = export(folder, tmp_path / "onnx", head="float", accuracy_level=1)
    assert facts["weights_equal"] == 14
    model = load_hf(built["source"], {name: value.numpy() for name, value in dequantize_folder(folder).items()})
    prompts = [draw.integers(6, 300, 12).tolist() for _ in range(8)]
    assert sum(greedy(out, p, 8) == greedy_hf(model, p, 8) for p in prompts) >= 7


def test_refusals_before_building(built: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fp16 graphs run on CUDA only"):
        export(built["source"], tmp_path / "a", precision="fp16")
    folder = tmp_path / "hf"
    shutil.copytree(built["source"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["FooForCausalLM"]}))
    with pytest.raises(UnsupportedArchitecture, match="FooForCausalLM"):
        check_source(folder, OnnxParams())
