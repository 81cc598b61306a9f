"""Depth pruning: stock folders with fewer blocks."""

import json

import pytest
import torch
from cutting import altered, load, logits, perplexity
from stages import run_stage
from tiny_families import PLAIN, ids, save_tiny

from compress.errors import DataError, UsageError
from compress.model.blocks import ModelFolder


@pytest.mark.parametrize("family", PLAIN)
def test_a_block_that_adds_nothing_can_go(family, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    whole = save_tiny(family, folder)
    out = run_stage("prune.depth", folder, tmp_path / "a", blocks=1, method="random", recover=None)
    model = ModelFolder(folder)
    (gone,) = out.facts["removed"]
    assert out.facts["blocks_after"] == ModelFolder(out.path).blocks == 2
    state = whole.state_dict()
    norms = model.layout.norms
    for name in [model.out_name(gone), model.down_name(gone)]:
        state[f"{name}.weight"].zero_()
        if f"{name}.bias" in state:
            state[f"{name}.bias"].zero_()
    assert norms.attention_out is None or family.startswith("gemma")  # norms of zeros are zeros
    with torch.no_grad():
        torch.testing.assert_close(logits(out.path, ids()), whole(ids()).logits, rtol=1e-4, atol=1e-4)


def test_the_least_influential_block_goes(tiny_llama, chat_jsonl, tmp_path):
    def quiet(tensors):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            tensors[f"model.layers.0.{name}.weight"] *= 0.01
            tensors[f"model.layers.1.{name}.weight"] *= 10

    folder = altered(tiny_llama, tmp_path / "m", quiet)
    small = {"calibration": chat_jsonl, "calibration_tokens": 1024, "calibration_length": 64}
    passed = run_stage("calibrate", folder, tmp_path / "pass", **small)
    common = {"pass_": passed, "blocks": 0.5, "recover": None}
    out = run_stage("prune.depth", folder, tmp_path / "a", **common)
    assert out.facts["removed"] == [0]
    assert out.facts["influence"][0] < out.facts["influence"][1]
    assert json.loads((out.path / "config.json").read_text())["num_hidden_layers"] == 1
    kept = load(out.path).model.layers[0].mlp.up_proj.weight
    assert torch.equal(kept, ModelFolder(folder).weight("model.layers.1.mlp.up_proj"))


def test_the_search_runs_on_calibration_text(tiny_llama, chat_jsonl, tmp_path):
    small = {"calibration": chat_jsonl, "search_tokens": 1024, "calibration_length": 64}
    out = run_stage("prune.depth", tiny_llama, tmp_path / "a", blocks=1, method="perplexity", recover=None, **small)
    assert len(out.facts["losses"]) == 2
    load(out.path)


def test_recovery_compares_blocks_with_those_they_stand_in_for(tiny_llama, tiny_calibration, chat_jsonl, tmp_path):
    recover = {"distill_steps": 6, "batch": 4, "hidden": 1.0, "lr": 1e-3}
    given = {"pass_": tiny_calibration, "blocks": 1, "recover": recover, "rows": chat_jsonl}
    out = run_stage("prune.depth", tiny_llama, tmp_path / "a", **given)
    assert out.facts["recovery"]["steps"] == 6
    load(out.path)


def test_what_does_not_fit_is_refused(tiny_llama, tiny_calibration, tmp_path):
    common = {"pass_": tiny_calibration, "recover": None}
    with pytest.raises(UsageError, match="of 2 blocks would remove 2"):
        run_stage("prune.depth", tiny_llama, tmp_path / "a", **common, blocks=2)
    with pytest.raises(UsageError, match="needs a calibration pass"):
        run_stage("prune.depth", tiny_llama, tmp_path / "b", blocks=1, recover=None)
    with pytest.raises(DataError, match="no calibration text"):
        run_stage("prune.depth", tiny_llama, tmp_path / "c", blocks=1, method="perplexity", recover=None)
    with pytest.raises(UsageError, match="needs training rows"):
        run_stage("prune.depth", tiny_llama, tmp_path / "d", pass_=tiny_calibration, blocks=1)


@pytest.mark.slow
def test_the_search_beats_influence_beats_chance_on_a_trained_model(shared_data, tmp_path):
    folder = shared_data / "models" / "m7"
    text = folder / "calibration.jsonl.gz"
    passed = run_stage("calibrate", folder, tmp_path / "pass", calibration=text, calibration_tokens=16384)
    found = []
    for method, seed in (("perplexity", 0), ("influence", 0), ("random", 0), ("random", 1), ("random", 2)):
        given = {"pass_": passed, "calibration": text, "blocks": 3, "method": method, "recover": None}
        out = run_stage("prune.depth", folder, tmp_path / f"{method}-{seed}", seed=seed, **given)
        found.append(perplexity(out.path, folder / "eval.jsonl"))
    searched, by_influence, *by_chance = found
    assert searched < min(by_influence, *by_chance)
    assert by_influence < sum(by_chance) / len(by_chance)
