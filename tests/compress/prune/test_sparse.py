"""Sparse pruning: exact zeros in a stock folder, as many and where they were asked for."""

import pytest
import torch
from cutting import load, logits, perplexity
from stages import run_stage
from tiny_families import PLAIN, ids, save_tiny

from compress.calibrate.factor import inverse_factor
from compress.calibrate.reading import Calibration
from compress.errors import UsageError
from compress.model.blocks import ModelFolder
from compress.model.weights import Weights
from compress.prune.sparse_math import choose_mask, sparsegpt, wanda_scores

METHODS = ["magnitude", "wanda", "sparsegpt"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4:8"])
def test_half_of_every_linear_is_zero(tiny_llama, tiny_calibration, tmp_path, method, pattern):
    out = run_stage("prune.sparse", tiny_llama, tmp_path / "a", pass_=tiny_calibration, method=method, pattern=pattern)
    assert all(share == pytest.approx(0.5, abs=1e-3) for share in out.facts["sparsity"].values())
    assert out.facts["sparsity_linears"] == pytest.approx(0.5, abs=1e-3)
    assert 0.4 < out.facts["sparsity_model"] < 0.5
    assert "no CPU gain" in out.facts["speed"]
    model = load(out.path)
    weight = model.model.layers[1].mlp.down_proj.weight
    if pattern != "unstructured":
        zeros, of = map(int, pattern.split(":"))
        assert bool(((weight.view(weight.shape[0], -1, of) == 0).sum(-1) == zeros).all())
    embedding = "model.embed_tokens.weight"
    assert torch.equal(Weights(out.path).load(embedding), Weights(tiny_llama).load(embedding))


def test_each_method_writes_what_its_maths_says(tiny_llama, tiny_calibration, tmp_path):
    model, calibration = ModelFolder(tiny_llama), Calibration(tiny_calibration.path)
    name, first = "model.layers.0.self_attn.v_proj", "model.layers.0.self_attn.q_proj"
    W, H = model.weight(name).T, calibration.hessian(first)
    wanted = {
        "magnitude": W.masked_fill(choose_mask(W.abs(), 0.3, per_output=False), 0),
        "wanda": W.masked_fill(choose_mask(wanda_scores(W, H.diagonal()), 0.3), 0),
        "sparsegpt": sparsegpt(W, inverse_factor(H, 0.01).upper, 0.3),
    }
    for method in METHODS:
        given = {"pass_": tiny_calibration, "method": method, "sparsity": 0.3}
        out = run_stage("prune.sparse", tiny_llama, tmp_path / method, **given)
        torch.testing.assert_close(ModelFolder(out.path).weight(name), wanted[method].T)


@pytest.mark.parametrize("family", PLAIN)
def test_every_family_stays_stock(family, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    whole = save_tiny(family, folder)
    out = run_stage("prune.sparse", folder, tmp_path / "a", method="magnitude", pattern="2:4")
    model = ModelFolder(folder)
    state = whole.state_dict()
    for name in model.linears():
        sparse = model.weight(name).unflatten(1, (-1, 4))
        lowest = sparse.abs().argsort(-1)[..., :2]
        state[f"{name}.weight"].copy_(model.stored(name, sparse.scatter(-1, lowest, 0.0).flatten(1)))
    with torch.no_grad():
        torch.testing.assert_close(logits(out.path, ids()), whole(ids()).logits, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_refused(tiny_llama, tmp_path):
    with pytest.raises(ValueError, match=r"pattern 2:4 means half"):
        run_stage("prune.sparse", tiny_llama, tmp_path / "a", pattern="2:4", sparsity=0.3)
    with pytest.raises(UsageError, match="needs a calibration pass"):
        run_stage("prune.sparse", tiny_llama, tmp_path / "b", method="wanda")
    folder = tmp_path / "odd"
    folder.mkdir()
    save_tiny("gpt2-untied", folder)
    from transformers import AutoConfig, GPT2LMHeadModel

    GPT2LMHeadModel(AutoConfig.from_pretrained(folder, n_inner=81)).save_pretrained(folder)
    with pytest.raises(UsageError, match=r"mlp.c_proj has 81 inputs, which 8 does not divide"):
        run_stage("prune.sparse", folder, tmp_path / "c", method="magnitude", pattern="4:8")


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_the_order_of_methods_on_a_trained_model(shared_data, tmp_path, pattern):
    folder = shared_data / "models" / "m7"
    text = folder / "calibration.jsonl.gz"
    passed = run_stage("calibrate", folder, tmp_path / "pass", calibration=text, calibration_tokens=16384)
    whole = perplexity(folder, folder / "eval.jsonl")
    found = []
    for method in ("sparsegpt", "wanda", "magnitude"):
        out = run_stage("prune.sparse", folder, tmp_path / method, pass_=passed, method=method, pattern=pattern)
        found.append(perplexity(out.path, folder / "eval.jsonl"))
    assert found == sorted(found)
    assert found[0] - whole < 0.7 * (found[1] - whole)
