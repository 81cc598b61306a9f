"""The accuracy level is chosen by what int8 activations change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_folder import write_model

from compress.artifact import Artifact, open_artifact
from compress.errors import ArtifactError, DataError
from compress.stage import Job
from export.onnx.stage import ExportOnnx, OnnxParams

pytest.importorskip("onnxruntime_genai", reason="the onnx extra is not installed")


def export(folder: Path, place: Path, data: Path | None = None, **params: Any) -> tuple[Path, dict[str, Any]]:
    shutil.rmtree(place, ignore_errors=True)
    for part in ("out", "scratch"):
        (place / part).mkdir(parents=True)
    given = {"data": Artifact("data", data, "")} if data else {}
    settings = OnnxParams(**params)
    inputs = (open_artifact(folder),)
    job = Job(params=settings, out=place / "out", scratch=place / "scratch", inputs=inputs, threads=1, **given)
    ExportOnnx().check(job)
    return job.out, dict(ExportOnnx().run(job))


def levels(folder: Path) -> set[int]:
    """Levels stamped on the products of codes."""
    import onnx

    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    found = [a.i for n in graph.node if n.op_type == "MatMulNBits" for a in n.attribute if a.name == "accuracy_level"]
    assert len(found) == len([n for n in graph.node if n.op_type == "MatMulNBits"])
    return set(found)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Activations of one size, and little that a block adds to its input: int8 is exact enough."""
    folder = write_model(tmp_path_factory.mktemp("levels") / "hf", hidden=128, ffn=96, heads=4, layers=1, tied=False)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    for name in [name for name in tensors if "o_proj" in name or "down_proj" in name]:
        tensors[name] *= 0.05
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def outliers(calm: Path) -> Path:
    """The same function; but one input in 32 is 4,000 times as large, and its column as much smaller."""
    folder = calm.with_name("outliers")
    shutil.copytree(calm, folder)
    tensors = load_file(folder / "model.safetensors")
    for norm, readers in {"input_layernorm": ("q", "k", "v"), "post_attention_layernorm": ("gate", "up")}.items():
        tensors[f"model.layers.0.{norm}.weight"][::32] *= 4000
        for name in readers:
            place = "self_attn" if norm == "input_layernorm" else "mlp"
            tensors[f"model.layers.0.{place}.{name}_proj.weight"][:, ::32] /= 4000
    tensors["model.norm.weight"][::32] *= 4000
    tensors["lm_head.weight"][:, ::32] /= 4000
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_int8_activations_are_kept_where_they_change_nothing(calm: Path, tmp_path: Path, precision: str) -> None:
    out, facts = export(calm, tmp_path / "a", precision=precision)
    assert facts["accuracy_level"] == 4
    assert list(facts["accuracy_levels"]) == ["4"]
    assert facts["accuracy_levels"]["4"]["flips"] <= 0.02
    assert facts["accuracy_text"] == "drawn"
    assert facts["accuracy_tokens"] == 1024
    assert levels(out) == {4}


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_int8_activations_are_refused_where_outliers_drown_the_rest(
    outliers: Path, tmp_path: Path, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    out, facts = export(outliers, tmp_path / "a", precision=precision)
    assert facts["accuracy_levels"]["4"]["flips"] > 0.1
    assert facts["accuracy_levels"]["4"]["kl"] > 0.01
    assert facts["accuracy_levels"]["1"]["flips"] <= 0.001
    assert facts["accuracy_level"] == 1
    assert levels(out) == {1}
    assert "twenty times slower a token at a time; the text was drawn from the model" in caplog.text


def test_a_head_of_eight_bits_keeps_int8_activations_where_only_blocks_have_outliers(
    outliers: Path, calm: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(outliers, folder)
    tensors, plain = load_file(folder / "model.safetensors"), load_file(calm / "model.safetensors")
    for name in ("model.norm.weight", "lm_head.weight"):
        tensors[name] = plain[name]
    for name in [name for name in tensors if "o_proj" in name or "down_proj" in name]:
        tensors[name] *= 20
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    out, facts = export(folder, tmp_path / "a", precision="int4")
    assert list(facts["accuracy_levels"]) == ["4", "1, 8 bits 4"]
    assert (facts["accuracy_level"], facts["accuracy_level_8_bits"]) == (1, 4)
    assert levels(out) == {1, 4}
    assert "which is slower; the text was drawn" in caplog.text


def test_the_limit_decides(outliers: Path, tmp_path: Path) -> None:
    out, facts = export(outliers, tmp_path / "a", max_flips=1.0)
    assert facts["accuracy_level"] == 4
    assert levels(out) == {4}


def test_a_level_that_is_given_is_not_measured(outliers: Path, tmp_path: Path) -> None:
    for level in (0, 1, 4):
        out, facts = export(outliers, tmp_path / f"{level}", accuracy_level=level)
        assert facts["accuracy_level"] == level
        assert "accuracy_levels" not in facts
        assert levels(out) == {level}


def test_nothing_is_measured_without_codes(calm: Path, tmp_path: Path) -> None:
    out, facts = export(calm, tmp_path / "a", precision="fp32")
    assert facts["accuracy_level"] == 0
    assert levels(out) == set()


def write_data(folder: Path, *rows: Any) -> Path:
    folder.mkdir()
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "calibration.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_calibration_text_is_what_levels_are_tried_on(calm: Path, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Where is order 48213?"}, {"role": "assistant", "content": "On its way."}]
    data = write_data(tmp_path / "data", *([{"messages": talk}, {"text": "numbers 0 1 2 3"}] * 40))
    _, facts = export(calm, tmp_path / "a", data)
    assert facts["accuracy_text"] == "calibration"
    assert facts["accuracy_tokens"] == 1024
    _, again = export(calm, tmp_path / "b", data)
    assert again == facts


def test_drawn_text_begins_with_a_user_and_follows_the_models_probabilities(calm: Path, tmp_path: Path) -> None:
    from export.onnx.levels import draw_windows, logits, opening, session
    from export.tokenizers.read import load_tokenizer

    out, _ = export(calm, tmp_path / "a", accuracy_level=0)
    tokenizer = load_tokenizer(calm)
    start = opening(tokenizer)
    assert tokenizer.decode(start) == "<s><|user|>"
    import onnx

    run = session(onnx.load(str(out / "model.onnx"), load_external_data=False), out / "model.onnx", 0, 1)
    windows = draw_windows(run, calm, 0)
    assert sum(map(len, windows)) == 1024
    assert all(list(ids[: len(start)]) == start for ids in windows)
    assert len({tuple(ids) for ids in windows}) == len(windows)
    ranks = [(rows > rows[ids[at + 1]]).sum() for ids in windows for at, rows in enumerate(logits(run, ids)[:-1])]
    uniform = logits(run, windows[0]).shape[1] / 2
    assert np.mean(ranks) < 0.5 * uniform  # the cache holds what the whole text would
    assert all(np.array_equal(*pair) for pair in zip(windows, draw_windows(run, calm, 0), strict=True))


def test_a_broken_row_is_named(calm: Path, tmp_path: Path) -> None:
    for number, row in enumerate(("{", '{"prompt": "x"}', "[1]", '{"messages": [{"role": "user"}]}')):
        data = write_data(tmp_path / f"data{number}", {"text": "a"}, row)
        with pytest.raises(DataError, match=r"calibration.jsonl:2"):
            export(calm, tmp_path / "a", data)
    with pytest.raises(DataError, match="holds no text"):
        export(calm, tmp_path / "a", write_data(tmp_path / "empty", {"text": ""}))


@pytest.mark.parametrize("name", ["m7", "stories260k"])
def test_real_models(shared_data: Path, tmp_path: Path, name: str) -> None:
    """The level that is chosen is one whose measured flips are within the limit."""
    _, facts = export(shared_data / "models" / name, tmp_path / "a")
    chosen = list(facts["accuracy_levels"].values())[-1]
    assert chosen["flips"] <= 0.02
    assert np.isfinite(chosen["kl"])
    assert chosen["kl"] < 0.002


def test_a_tokenizer_without_tokens_for_every_character_is_refused(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="finds no token for a character"):
        export(shared_data / "models" / "babyllama105", tmp_path / "a")
    assert not list((tmp_path / "a" / "out").iterdir())
