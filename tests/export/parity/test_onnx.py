"""Parity of ONNX folders: every kind of damage to graph, settings or tokenizer is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_export import export_onnx
from parity_job import checks_of, job_of
from small_folder import write_model
from small_gptq import write_gptq

from compress.errors import ParityFailed
from export.parity.stage import ExportParity

pytest.importorskip("onnxruntime_genai", reason="the onnx extra is not installed")
SIZES: dict[str, Any] = {"hidden": 64, "ffn": 96, "heads": 4, "layers": 2, "tied": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("onnx-parity")
    folder = write_model(place / "hf", **SIZES)
    write_gptq(folder, place / "gptq", symmetric=False)
    prompts = place / "prompts.jsonl"
    rows = [{"messages": [{"role": "user", "content": f"Where is order {n}?"}]} for n in range(6)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {"hf": folder, "gptq": place / "gptq", "prompts": prompts}
    found["onnx"] = export_onnx(place / "gptq", place / "onnx", accuracy_level=4)
    return found


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Change initializers of the graph; ``change`` edits a dictionary of writable arrays."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(folder / "model.onnx"))
    arrays = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    change(arrays)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    (folder / "model.onnx.data").unlink()
    onnx.save(model, str(folder / "model.onnx"))


def named(arrays: dict[str, np.ndarray], *parts: str) -> str:
    (found,) = [name for name in arrays if all(part in name for part in parts)]
    return found


def swap_gate_and_up(folder: Path) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        for part in ("qweight", "scales", "qzeros"):
            gate, up = (named(arrays, "layers.1.mlp", name, part) for name in ("gate_proj", "up_proj"))
            arrays[gate], arrays[up] = arrays[up], arrays[gate]

    rewrite(folder, change)


def zero_a_row(folder: Path) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[named(arrays, "layers.0.mlp.down_proj", "scales")].reshape(64, -1)[5] = 0

    rewrite(folder, change)


def shift_positions(folder: Path) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        table = arrays[named(arrays, "sin_cache")]
        table[...] = -table

    rewrite(folder, change)


def drop_norm(folder: Path) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[named(arrays, "layers.0.input_layernorm")] -= 1

    rewrite(folder, change)


def setting(key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "genai_config.json"
        config = json.loads(path.read_text())
        config["model"][key] = value
        path.write_text(json.dumps(config))

    return change


def other_merges(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    merges = tokenizer["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    path.write_text(json.dumps(tokenizer))


def other_template(folder: Path) -> None:
    for path in (folder / "chat_template.jinja", folder / "tokenizer_config.json"):
        if path.is_file():
            path.write_text(path.read_text().replace("<|assistant|>", "<|assistant|> "))


DEFECTS: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "gate and up swapped": ("weights", "model.layers.1.mlp.gate_proj.weight is off", swap_gate_and_up),
    "a row zeroed": ("weights", "row 5 of model.layers.0.mlp.down_proj.weight is off by 1", zero_a_row),
    "norm without its offset": ("weights", "model.layers.0.input_layernorm.weight", drop_norm),
    "rotary table": ("logits", "the same weights", shift_positions),
    "end token": ("end tokens", "end token 2 ('</s>') does not stop", setting("eos_token_id", [4])),
    "pad token": ("special tokens", "pad is token 3 instead of 0", setting("pad_token_id", 3)),
    "merges": ("token ids", "merge 0 is", other_merges),
    "template": ("template", "renders otherwise", other_template),
}


@pytest.mark.parametrize("defect", list(DEFECTS))
def test_a_defect_is_found_and_named(made: dict[str, Path], tmp_path: Path, defect: str) -> None:
    check, words, damage = DEFECTS[defect]
    folder = Path(shutil.copytree(made["onnx"], tmp_path / "broken"))
    damage(folder)
    job = job_of(tmp_path, made["hf"], folder, prompts_file=made["prompts"], tokens=8)
    with pytest.raises(ParityFailed):
        ExportParity().run(job)
    found = checks_of(job)[check]
    assert not found["passed"]
    assert words in found["first_difference"]


@pytest.mark.parametrize("reference", ["hf", "gptq"])
def test_codes_of_a_gptq_folder_are_the_same_model(made: dict[str, Path], tmp_path: Path, reference: str) -> None:
    job = job_of(tmp_path, made[reference], made["onnx"], prompts_file=made["prompts"], tokens=8)
    assert ExportParity().run(job)["verdict"] == "PASS"
    error = checks_of(job)["weights"]["largest_row_error"]["int4"]
    assert error == 0 if reference == "gptq" else 0.01 < error < 0.45


def test_a_prompt_may_end_with_padding(made: dict[str, Path], tmp_path: Path) -> None:
    """onnxruntime-genai alone takes it for no token, and would go on from the token before."""
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"text": f"order {n} is here.{end}"} for n in range(8) for end in ("<pad>", "</s>", "")]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = job_of(tmp_path, made["hf"], made["onnx"], prompts_file=prompts, tokens=8)
    assert ExportParity().run(job)["verdict"] == "PASS"
