"""Width pruning: the maths, the folder it writes, and recovery that resumes to the same bytes."""

import json

import pytest
import torch
from stages import run_stage

from compress.artifact import Artifact
from compress.distill import Example, collate, distillation_loss, learning_rate, load_examples, plan_batches
from compress.errors import DataError, UsageError
from compress.prune.width_math import activation_importance, keep_channels, kept_width
from compress.weights import Weights


@pytest.fixture
def rows(chat_jsonl, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(chat_jsonl.read_bytes())
    return Artifact("data", folder, "d")


def test_kept_width_rounds_and_explains():
    assert kept_width(768, 0.25, 256) == 512
    assert kept_width(1024, 0.6, 256) == 512
    assert kept_width(768, 0.5, 128) == 384
    with pytest.raises(UsageError, match=r"(?s)widths that fit: 256, 512"):
        kept_width(768, 0.05, 256)
    with pytest.raises(UsageError, match="widths that fit: none"):
        kept_width(256, 0.5, 256)


def test_importance_is_the_mean_squared_contribution():
    g = torch.Generator().manual_seed(0)
    a, down = torch.randn(300, 6, generator=g), torch.randn(4, 6, generator=g)
    slow = torch.stack([(a[:, j : j + 1] * down[:, j]).square().sum(1).mean() for j in range(6)])
    torch.testing.assert_close(activation_importance(down, a.square().mean(0)), slow)
    assert keep_channels(torch.tensor([1.0, 3.0, 3.0, 0.0]), 2).tolist() == [1, 2]
    assert keep_channels(torch.ones(4), 2).tolist() == [0, 1]


@pytest.mark.parametrize("method", ["activations", "magnitude", "random"])
def test_the_folder_is_a_stock_model(tiny_llama, tiny_calibration, tmp_path, method):
    from transformers import AutoModelForCausalLM

    out = run_stage(
        "prune.width", tiny_llama, tmp_path / "a", pass_=tiny_calibration, ffn=0.5, method=method, recover=None
    )
    assert out.facts["ffn_before"] == 512
    assert out.facts["ffn_after"] == 256
    assert json.loads((out.path / "config.json").read_text())["intermediate_size"] == 256
    model, info = AutoModelForCausalLM.from_pretrained(out.path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.model.layers[0].mlp.down_proj.weight.shape == (256, 256)
    source = Weights(tiny_llama).load("model.layers.0.mlp.up_proj.weight")
    kept = Weights(out.path).load("model.layers.0.mlp.up_proj.weight")
    assert all(bool((source == row).all(1).any()) for row in kept)


def altered(folder, target, change):
    """A copy of a model folder with ``change`` applied to its dict of tensors."""
    from safetensors.torch import load_file, save_file

    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_removing_dead_channels_changes_nothing(tiny_llama, chat_jsonl, tmp_path):
    from transformers import AutoModelForCausalLM

    def kill(tensors):
        for layer in (0, 1):
            tensors[f"model.layers.{layer}.mlp.gate_proj.weight"][1::2] = 0

    folder = altered(tiny_llama, tmp_path / "m", kill)
    small = {"calibration": chat_jsonl, "calibration_tokens": 1024, "calibration_length": 64}
    passed = run_stage("calibrate", folder, tmp_path / "c", **small)
    out = run_stage("prune.width", folder, tmp_path / "a", pass_=passed, ffn=0.5, recover=None)
    ids = torch.arange(6, 60)[None]
    with torch.no_grad():
        logits = [AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32)(ids).logits for p in (folder, out.path)]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)


def test_recovery_lowers_the_loss_and_resumes_to_the_same_bytes(tiny_llama, rows, tmp_path):
    def sharpen(tensors):
        for name, tensor in tensors.items():
            tensor *= 1 if "norm" in name else 6 if "mlp" in name else 2

    folder = altered(tiny_llama, tmp_path / "m", sharpen)
    recover = {"distill_steps": 24, "batch": 4, "checkpoint_every": 4, "lr": 3e-4}
    common = {"data": rows, "ffn": 0.5, "method": "magnitude", "recover": recover}
    whole = run_stage("prune.width", folder, tmp_path / "a", **common)
    assert whole.facts["recovery"]["kl_after"] < 0.8 * whole.facts["recovery"]["kl_before"]
    assert whole.facts["recovery"]["kept"] == "recovered"

    def die(done, total, note=""):
        del total, note
        if done == 7:
            raise KeyboardInterrupt

    scratch = tmp_path / "scratch"
    with pytest.raises(KeyboardInterrupt):
        run_stage("prune.width", folder, tmp_path / "b", scratch=scratch, progress=die, **common)
    assert (scratch / "distill.pt").is_file()
    again = run_stage("prune.width", folder, tmp_path / "c", scratch=scratch, **common)
    assert again.digest == whole.digest


def test_recovery_that_would_harm_is_dropped(tiny_llama, tiny_calibration, rows, tmp_path):
    common = {"pass_": tiny_calibration, "data": rows, "ffn": 0.5}
    plain = run_stage("prune.width", tiny_llama, tmp_path / "a", **common, recover=None)
    wild = run_stage("prune.width", tiny_llama, tmp_path / "b", **common, recover={"distill_steps": 3, "lr": 0.5})
    assert wild.facts["recovery"]["kl_after"] > wild.facts["recovery"]["kl_before"]
    assert wild.digest == plain.digest


def test_recovery_without_rows_is_refused(tiny_llama, tiny_calibration, tmp_path):
    with pytest.raises(UsageError, match="recovery after pruning needs training rows"):
        run_stage("prune.width", tiny_llama, tmp_path / "a", pass_=tiny_calibration, ffn=0.5)


def test_examples_cover_the_last_reply_only(tiny_llama, tmp_path):
    path = tmp_path / "t.jsonl"
    turns = [("user", "hello"), ("assistant", "hi"), ("user", "bye"), ("assistant", "see you")]
    path.write_text(json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}) + "\n")
    (example,) = load_examples(tiny_llama, path, 512)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_llama / "tokenizer.json"))
    assert tokenizer.decode(example.ids[example.start :], skip_special_tokens=False) == "see you</s>"
    with pytest.raises(DataError, match="no row fits"):
        load_examples(tiny_llama, path, 3)
    path.write_text('{"messages": [{"role": "user", "content": "x"}]}\n')
    with pytest.raises(DataError, match=r":1: .*assistant"):
        load_examples(tiny_llama, path, 512)


def test_batches_loss_and_rate():
    plan = plan_batches([5, 9, 5, 9, 7], 2, 9, seed=1)
    assert len(plan) == 9
    assert sorted(i for step in plan[:3] for i in step) == [0, 1, 2, 3, 4]
    assert plan == plan_batches([5, 9, 5, 9, 7], 2, 9, seed=1)
    batch = collate([Example([4, 5, 6], 2), Example([7, 8, 9, 3], 1)])
    assert batch.ids.tolist() == [[4, 5, 6, 0], [7, 8, 9, 3]]
    assert batch.targets.tolist() == [1, 4, 5, 6]
    a, b = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    p, q = b.softmax(-1), a.softmax(-1)
    torch.testing.assert_close(distillation_loss(a, b, 1.0), (p * (p / q).log()).sum())
    assert float(distillation_loss(a, a, 2.0)) == pytest.approx(0, abs=1e-7)
    rates = [learning_rate(s, 100, 1.0) for s in range(100)]
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.11
