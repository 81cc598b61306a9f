"""Width pruning: stock folders that compute what the cut model should, of every family."""

import json

import pytest
import torch
from cutting import altered, load, logits, perplexity
from stages import run_stage
from tiny_families import PLAIN, ids, save_tiny

from compress.errors import UsageError
from compress.model.blocks import ModelFolder
from compress.model.weights import Weights
from compress.prune.obs_math import compensated, survivors

SMALL = {"calibration_tokens": 1024, "calibration_length": 64}


@pytest.mark.parametrize("method", ["activations", "magnitude", "random"])
@pytest.mark.parametrize("compensate", [True, False])
def test_the_folder_is_a_stock_model(tiny_llama, tiny_calibration, tmp_path, method, compensate):
    out = run_stage(
        "prune.width",
        tiny_llama,
        tmp_path / "a",
        pass_=tiny_calibration,
        ffn=0.5,
        kv_groups=1,
        method=method,
        compensate=compensate,
        recover=None,
    )
    sizes = {key: out.facts[key] for key in ("ffn_before", "ffn_after", "kv_groups_before", "kv_groups_after")}
    assert list(sizes.values()) == [512, 256, 2, 1]
    config = json.loads((out.path / "config.json").read_text())
    assert [config[key] for key in ("intermediate_size", "num_attention_heads", "num_key_value_heads")] == [256, 2, 1]
    assert config["head_dim"] == 64
    assert load(out.path).model.layers[0].mlp.down_proj.weight.shape == (256, 256)
    source = Weights(tiny_llama).load("model.layers.0.mlp.up_proj.weight")
    kept = Weights(out.path).load("model.layers.0.mlp.up_proj.weight")
    assert all(bool((source == row).all(1).any()) for row in kept)
    assert 0 < out.facts["output_error"]["ffn"] < 1
    assert 0 < out.facts["output_error"]["attention"] < 1


def kept_columns(source, cut):
    """Which columns of ``source`` the matrix ``cut`` holds, in order."""
    return [int((source == column[:, None]).all(0).nonzero()) for column in cut.T]


@pytest.mark.parametrize("family", PLAIN)
def test_cutting_equals_silencing(family, tmp_path):
    """In the whole model, the columns that lost their inputs are set to zero."""
    folder = tmp_path / "m"
    folder.mkdir()
    whole = save_tiny(family, folder)
    groups = None if family == "gpt2" else 1
    out = run_stage(
        "prune.width",
        folder,
        tmp_path / "a",
        ffn=0.3,
        multiple_of=32,
        kv_groups=groups,
        method="magnitude",
        compensate=False,
        recover=None,
    )
    model, cut = ModelFolder(folder), ModelFolder(out.path)
    state = whole.state_dict()
    assert cut.shape.ffn == out.facts["ffn_after"] < model.shape.ffn
    for block in range(model.blocks):
        for name in [model.down_name(block)] + ([model.out_name(block)] if groups else []):
            kept = kept_columns(model.weight(name), cut.weight(name))
            silent = torch.zeros_like(model.weight(name))
            silent[:, kept] = model.weight(name)[:, kept]
            state[f"{name}.weight"].copy_(model.stored(name, silent))
    with torch.no_grad():
        wanted = whole(ids()).logits
    torch.testing.assert_close(logits(out.path, ids()), wanted, rtol=1e-4, atol=1e-4)


def test_compensation_solves_the_projections_anew(tiny_llama, tiny_calibration, tmp_path):
    from compress.calibrate.reading import Calibration

    common = {"pass_": tiny_calibration, "ffn": 0.5, "kv_groups": 1, "recover": None}
    out = run_stage("prune.width", tiny_llama, tmp_path / "a", **common)
    plain = run_stage("prune.width", tiny_llama, tmp_path / "b", **common, compensate=False)
    for kind in ("ffn", "attention"):
        assert out.facts["output_error"][kind] < plain.facts["output_error"][kind]
    model, cut = ModelFolder(tiny_llama), ModelFolder(out.path)
    H = Calibration(tiny_calibration.path).hessian(model.down_name(1))
    W = model.weight(model.down_name(1))
    keep = survivors(W, H, 256)
    torch.testing.assert_close(cut.weight(cut.down_name(1)), compensated(W, H, keep))
    gate = model.part(1, "gate").name
    assert torch.equal(cut.weight(gate), model.weight(gate)[keep])


def test_removing_dead_channels_changes_nothing(tiny_llama, chat_jsonl, tmp_path):
    def kill(tensors):
        for layer in (0, 1):
            tensors[f"model.layers.{layer}.mlp.gate_proj.weight"][1::2] = 0
            tensors[f"model.layers.{layer}.self_attn.v_proj.weight"][:64] = 0

    folder = altered(tiny_llama, tmp_path / "m", kill)
    passed = run_stage("calibrate", folder, tmp_path / "c", calibration=chat_jsonl, **SMALL)
    out = run_stage("prune.width", folder, tmp_path / "a", pass_=passed, ffn=0.5, kv_groups=0.5, recover=None)
    tokens = torch.arange(6, 60)[None]
    torch.testing.assert_close(logits(folder, tokens), logits(out.path, tokens), rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused(tiny_llama, tiny_calibration, tmp_path):
    common = {"pass_": tiny_calibration, "recover": None}
    with pytest.raises(UsageError, match="widths that fit: 256"):
        run_stage("prune.width", tiny_llama, tmp_path / "a", **common, ffn=0.1)
    with pytest.raises(UsageError, match="of 2 KV groups"):
        run_stage("prune.width", tiny_llama, tmp_path / "b", **common, ffn=None, kv_groups=2)
    with pytest.raises(UsageError, match="needs a calibration pass"):
        run_stage("prune.width", tiny_llama, tmp_path / "c", ffn=0.5, recover=None)
    with pytest.raises(ValueError, match="nothing to remove"):
        run_stage("prune.width", tiny_llama, tmp_path / "d", **common, ffn=None)
    folder = tmp_path / "gpt2"
    folder.mkdir()
    save_tiny("gpt2", folder)
    with pytest.raises(UsageError, match="gpt2 config cannot hold another number of heads"):
        run_stage("prune.width", folder, tmp_path / "e", ffn=None, kv_groups=2, method="random", compensate=False)


@pytest.fixture(scope="module")
def m7(shared_data, tmp_path_factory):
    """The trained model and its calibration pass."""
    folder = shared_data / "models" / "m7"
    text = folder / "calibration.jsonl.gz"
    out = tmp_path_factory.mktemp("m7") / "pass"
    return folder, run_stage("calibrate", folder, out, calibration=text, calibration_tokens=16384)


@pytest.mark.slow
@pytest.mark.parametrize("compensate", [True, False])
@pytest.mark.parametrize("what", [{"ffn": 1 / 3}, {"ffn": 1 / 2, "multiple_of": 128}, {"ffn": None, "kv_groups": 2}])
def test_activations_beat_the_baselines_on_a_trained_model(m7, tmp_path, what, compensate):
    """Magnitude beats random for KV groups only: this model's FFN channels of small norm matter most."""
    folder, passed = m7
    found = {}
    for method in ("activations", "magnitude", "random"):
        given = {"pass_": passed, "method": method, "compensate": compensate, "recover": None, **what}
        out = run_stage("prune.width", folder, tmp_path / method, **given)
        found[method] = perplexity(out.path, folder / "eval.jsonl")
    assert found["activations"] < 0.95 * min(found["magnitude"], found["random"])
    if "kv_groups" in what:
        assert found["magnitude"] < found["random"]


@pytest.mark.slow
def test_compensation_regains_half_of_the_loss_of_a_trained_model(m7, tmp_path):
    folder, passed = m7
    before = perplexity(folder, folder / "eval.jsonl")
    found = []
    for compensate in (True, False):
        given = {"pass_": passed, "ffn": 1 / 3, "compensate": compensate, "recover": None}
        out = run_stage("prune.width", folder, tmp_path / str(compensate), **given)
        found.append(perplexity(out.path, folder / "eval.jsonl"))
    assert found[0] - before < 0.5 * (found[1] - before)
