"""The stage: format of the folder, resume, shapes that do not fit, quality on a trained model."""

import json

import pytest
import torch
from stages import run_stage

from compress.calibrate import Calibration
from compress.errors import ArtifactError, UsageError
from compress.quantize.gptq import check_shape
from compress.quantize.packing import dequantize_folder
from compress.weights import Weights


@pytest.fixture(scope="module")
def quantized(tiny_llama, tiny_calibration, tmp_path_factory):
    return run_stage("quantize.gptq", tiny_llama, tmp_path_factory.mktemp("gptq") / "a", pass_=tiny_calibration)


def test_folder_and_facts(quantized, tiny_llama):
    assert quantized.kind == "gptq"
    config = json.loads((quantized.path / "config.json").read_text())["quantization_config"]
    assert config == json.loads((quantized.path / "quantize_config.json").read_text())
    assert (config["bits"], config["group_size"], config["desc_act"], config["lm_head"]) == (4, 128, False, False)
    assert (quantized.path / "tokenizer.json").read_bytes() == (tiny_llama / "tokenizer.json").read_bytes()
    assert quantized.facts["bits_per_weight"] == pytest.approx(4 + 20 / 128, abs=1e-4)
    assert quantized.facts["healed_damping"] == {} or all(d > 0.01 for d in quantized.facts["healed_damping"].values())
    assert all(0 < e < 0.05 for e in quantized.facts["relative_output_error"].values())


def test_dequantized_folder_is_near_the_source(quantized, tiny_llama):
    source, found = Weights(tiny_llama), dequantize_folder(quantized.path)
    assert sorted(found) == source.names()
    for name in source.names():
        a, b = source.load(name).float(), found[name]
        assert float((a - b).norm() / a.norm()) < (0.2 if "proj" in name else 1e-9), name


def test_a_killed_run_ends_with_the_same_bytes(quantized, tiny_llama, tiny_calibration, tmp_path):
    def die(done, total, note=""):
        del total, note
        if done == 1:
            raise KeyboardInterrupt

    scratch = tmp_path / "scratch"
    with pytest.raises(KeyboardInterrupt):
        run_stage("quantize.gptq", tiny_llama, tmp_path / "a", scratch=scratch, pass_=tiny_calibration, progress=die)
    again = run_stage("quantize.gptq", tiny_llama, tmp_path / "b", scratch=scratch, pass_=tiny_calibration)
    assert again.digest == quantized.digest


def test_shapes_that_do_not_fit_are_explained():
    with pytest.raises(UsageError, match=r"(?s)288 inputs.*group_size that fits: 32, -1"):
        check_shape("model.layers.0.mlp.down_proj", (64, 288), 128)
    with pytest.raises(UsageError, match="multiples of 32"):
        check_shape("x", (64, 100), 32)
    check_shape("x", (64, 288), -1)


def test_nan_in_the_hessian_names_the_linear(tiny_llama, tiny_calibration, tmp_path, monkeypatch):
    real = Calibration.hessian
    monkeypatch.setattr(
        Calibration, "hessian", lambda self, name: real(self, name) * (float("nan") if "down" in name else 1)
    )
    with pytest.raises(ArtifactError, match=r"mlp\.down_proj"):
        run_stage("quantize.gptq", tiny_llama, tmp_path / "a", pass_=tiny_calibration)


@pytest.mark.slow
def test_quality_on_a_trained_model(shared_data, tmp_path):
    """Mean KL to the float model on held-out windows stays below plain GPTQ's recorded figure (.00700 at 4 bits)."""
    from transformers import AutoModelForCausalLM

    from compress.windows import calibration_windows

    folder = shared_data / "models" / "m7"
    passed = run_stage("calibrate", folder, tmp_path / "c", calibration=folder / "calibration.jsonl.gz")
    out = run_stage("quantize.gptq", folder, tmp_path / "q", pass_=passed)
    ids = calibration_windows(folder, folder / "eval.jsonl", 100 * 256, 256)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    logp = []
    with torch.no_grad():
        for weights in ({}, dequantize_folder(out.path)):
            model.load_state_dict(weights, strict=False)
            logp.append(torch.cat([model(input_ids=part).logits.log_softmax(-1) for part in ids.split(10)]))
    kl = float((logp[0].exp() * (logp[0] - logp[1])).sum(-1).mean())
    assert kl < 0.88 * 0.00700
