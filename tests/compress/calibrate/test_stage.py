"""The streaming pass against transformers' own forward with hooks, its resume and its errors."""

import json

import pytest
import torch
from cutting import altered
from stages import run_stage
from word_models import save_with_words, word_text

from compress.calibrate.hessian import DriftSum, HessianSum, symmetrize_
from compress.calibrate.reading import Calibration
from compress.errors import ArtifactError, DataError, UnsupportedArchitecture
from compress.model.blocks import ModelFolder
from compress.model.rotary import rope_table
from compress.windows import calibration_windows

SMALL = {"calibration_tokens": 1024, "calibration_length": 64}


def hooked_inputs(folder, windows):
    """Inputs of every linear by transformers, float32 ``[tokens, in]``."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _m, args, _o, name=name: seen.update({name: args[0].flatten(0, 1)}))
    with torch.no_grad():
        model(input_ids=windows)
    return seen


def relative(a, b):
    return float((a - b).norm() / b.norm())


def test_hessians_equal_those_of_transformers(tiny_llama, chat_jsonl, tiny_calibration):
    windows = calibration_windows(tiny_llama, chat_jsonl, 1024, 64)
    calibration = Calibration(tiny_calibration.path)
    inputs = hooked_inputs(tiny_llama, windows)
    assert calibration.tokens == windows.numel() == 1024
    assert set(inputs) == set(calibration.diagonals())
    for name, x in inputs.items():
        expected = x.T @ x / x.shape[0]
        hessian = calibration.hessian(name)
        assert torch.equal(hessian, hessian.T)
        assert relative(hessian, expected) < 2e-2, name  # factors rounded to bfloat16
        assert relative(torch.from_numpy(calibration.diagonals()[name]), expected.diagonal()) < 2e-2


def test_a_killed_pass_ends_with_the_same_bytes(tiny_llama, chat_jsonl, tiny_calibration, tmp_path):
    scratch = tmp_path / "scratch"

    def die(done, total, note=""):
        del total, note
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(
            "calibrate", tiny_llama, tmp_path / "a", scratch=scratch, calibration=chat_jsonl, progress=die, **SMALL
        )
    assert (scratch / "block-000.safetensors").is_file()
    (scratch / "hidden-002.tmp").write_bytes(b"half")
    again = run_stage("calibrate", tiny_llama, tmp_path / "b", scratch=scratch, calibration=chat_jsonl, **SMALL)
    assert again.digest == tiny_calibration.digest


def test_text_rows_and_short_data(tiny_llama, tmp_path, caplog):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"text": "a kettle " * 60}) + "\n")
    windows = calibration_windows(tiny_llama, path, 1024, 16)
    assert windows.shape[1] == 16
    assert 1 <= windows.shape[0] < 64
    assert "of 64 calibration windows" in caplog.text
    with pytest.raises(DataError, match="do not fill one calibration window"):
        calibration_windows(tiny_llama, path, 4096, 2048)


def test_unknown_architecture_and_scaling(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(UnsupportedArchitecture, match="LAYOUTS"):
        ModelFolder(tmp_path)
    with pytest.raises(UnsupportedArchitecture, match="yarn"):
        rope_table({"hidden_size": 8, "num_attention_heads": 2, "rope_scaling": {"rope_type": "yarn"}}, 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_a_weight_names_the_tensor(tiny_llama, chat_jsonl, tmp_path, value):
    def spoil(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = value

    folder = altered(tiny_llama, tmp_path / "m", spoil)
    with pytest.raises(ArtifactError, match=r"model.layers.1.mlp.up_proj.weight.*NaN"):
        run_stage("calibrate", folder, tmp_path / "o", calibration=chat_jsonl, **SMALL)


def test_activations_that_overflow_name_their_linear(tiny_llama, chat_jsonl, tmp_path):
    def explode(tensors):
        for name in ("gate", "up"):
            tensors[f"model.layers.1.mlp.{name}_proj.weight"] *= 1e24

    folder = altered(tiny_llama, tmp_path / "m", explode)
    with pytest.raises(ArtifactError, match=r"inputs of model\.layers\.1\.mlp\.down_proj become NaN or Inf"):
        run_stage("calibrate", folder, tmp_path / "o", calibration=chat_jsonl, **SMALL)


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "phi3", "gpt2"])
def test_hessians_of_other_families(tmp_path, name):
    model = save_with_words(name, tmp_path / "m")
    text = word_text(tmp_path / "t.jsonl")
    given = {"calibration_tokens": 1024, "calibration_length": 32}
    calibration = Calibration(run_stage("calibrate", tmp_path / "m", tmp_path / "c", calibration=text, **given).path)
    seen = {}
    for linear in calibration.diagonals():
        model.get_submodule(linear).register_forward_hook(lambda _m, x, _o, name=linear: seen.update({name: x[0]}))
    with torch.no_grad():
        model(input_ids=calibration_windows(tmp_path / "m", text, 1024, 32))
    for linear, x in seen.items():
        x = x.flatten(0, 1)
        assert relative(calibration.hessian(linear), x.T @ x / 1024) < 3e-2, linear
    assert set(seen) == set(calibration.diagonals()) == {*ModelFolder(tmp_path / "m").linears(), "lm_head"}


def test_hessian_sum_and_symmetry():
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    total = HessianSum(7)
    total.add(x[:20])
    total.add(x[20:].view(2, 15, 7))
    torch.testing.assert_close(total.mean("x"), x.T @ x / 50)
    bad = HessianSum(7)
    bad.add(x.clone().index_fill_(0, torch.tensor([3]), float("inf")))
    with pytest.raises(ArtifactError, match=r"the inputs of a\.b become NaN or Inf"):
        bad.mean("a.b")
    skewed = torch.randn(5000, 5000)
    symmetrize_(skewed)
    assert torch.equal(skewed, skewed.T)


def test_drift_sum():
    wanted, actual = torch.randn(2, 50, 7, generator=torch.Generator().manual_seed(0))
    total = DriftSum(7)
    total.add(actual[:20], wanted[:20])
    total.add(actual[20:].view(2, 15, 7), wanted[20:].view(2, 15, 7))
    torch.testing.assert_close(total.mean("x"), actual.T @ (wanted - actual) / 50)
    total.add(actual, wanted / 0)
    with pytest.raises(ArtifactError, match=r"the inputs of a\.b become NaN or Inf"):
        total.mean("a.b")
