"""Recovery of a pruned folder: it helps, it resumes to the same bytes, and it never harms."""

import json

import pytest
import torch
from cutting import altered, load, perplexity
from stages import run_stage
from tiny_families import PLAIN, ids, save_tiny

from compress.artifact import Artifact
from compress.errors import UsageError
from compress.model.blocks import ModelFolder
from compress.model.weights import Weights
from compress.recover.models import add_adapters, decoder_blocks, load_model, say, write_back
from compress.recover.params import Recover
from compress.recover.rows import Batch


@pytest.fixture
def rows(chat_jsonl, tmp_path):
    """A data artifact with training rows."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(chat_jsonl.read_bytes())
    return Artifact("data", folder, "d")


@pytest.fixture
def sharp(tiny_llama, tmp_path):
    """The tiny model with weights so large that its answers differ."""

    def sharpen(tensors):
        for name, tensor in tensors.items():
            tensor *= 1 if "norm" in name else 6 if "mlp" in name else 2

    return altered(tiny_llama, tmp_path / "sharp", sharpen)


CUT = {"ffn": 0.5, "method": "magnitude", "compensate": False}
STEPS = {"distill_steps": 24, "batch": 4, "checkpoint_every": 4, "lr": 3e-4}


SLOW_HIDDEN = pytest.param({"hidden": 1.0}, marks=pytest.mark.slow)


@pytest.mark.parametrize("how", [{}, SLOW_HIDDEN, {"lora": 4, "lr": 3e-3}])
def test_recovery_lowers_the_loss_and_resumes_to_the_same_bytes(sharp, rows, tmp_path, how):
    common = {"data": rows, **CUT, "recover": {**STEPS, **how}}
    whole = run_stage("prune.width", sharp, tmp_path / "a", **common)
    facts = whole.facts["recovery"]
    assert facts["kl_after"] < 0.8 * facts["kl_before"]
    assert facts["kept"] == "recovered"
    load(whole.path)

    def die(done, total, note=""):
        del total
        if done == 7 and "recovering" in note:
            raise KeyboardInterrupt

    scratch = tmp_path / "scratch"
    with pytest.raises(KeyboardInterrupt):
        run_stage("prune.width", sharp, tmp_path / "b", scratch=scratch, progress=die, **common)
    assert (scratch / "recover.pt").is_file()
    again = run_stage("prune.width", sharp, tmp_path / "c", scratch=scratch, **common)
    assert again.digest == whole.digest


@pytest.mark.parametrize("how", [{}, SLOW_HIDDEN, {"lora": 4, "lr": 3e-3}])
def test_text_teaches_the_rows_themselves(tiny_llama, chat_jsonl, tmp_path, how):
    path = tmp_path / "texts.jsonl"
    replies = [json.loads(line)["messages"][-1]["content"] for line in chat_jsonl.read_text().splitlines()]
    path.write_text("".join(json.dumps({"text": reply}) + "\n" for reply in replies))
    recover = {**STEPS, "lr": 1e-3, "loss": "text", **how}
    out = run_stage("prune.width", tiny_llama, tmp_path / "a", **CUT, rows=path, recover=recover)
    facts = out.facts["recovery"]
    assert facts["cross_entropy_after"] < facts["cross_entropy_before"] - 0.5
    assert facts["examples"] == 360


def test_recovery_that_would_harm_is_dropped(tiny_llama, tiny_calibration, rows, tmp_path):
    common = {"pass_": tiny_calibration, "data": rows, "ffn": 0.5}
    plain = run_stage("prune.width", tiny_llama, tmp_path / "a", **common, recover=None)
    wild = run_stage("prune.width", tiny_llama, tmp_path / "b", **common, recover={"distill_steps": 3, "lr": 0.5})
    assert wild.facts["recovery"]["kl_after"] > wild.facts["recovery"]["kl_before"]
    assert wild.facts["recovery"]["kept"] == "as pruned"
    assert wild.digest == plain.digest


def test_recovery_without_rows_is_refused(tiny_llama, tiny_calibration, tmp_path):
    with pytest.raises(UsageError, match="recovery after pruning needs training rows"):
        run_stage("prune.width", tiny_llama, tmp_path / "a", pass_=tiny_calibration, ffn=0.5)
    with pytest.raises(ValueError, match="temperature belongs to loss: distill"):
        Recover(loss="text", temperature=2.0)


@pytest.mark.parametrize("family", PLAIN)
def test_every_family_speaks_learns_by_adapters_and_is_written_back(family, tmp_path):
    save_tiny(family, tmp_path)
    model = load_model(tmp_path)
    tokens = ids()
    batch = Batch(tokens, torch.arange(tokens.numel()))
    with torch.no_grad():
        whole = model(tokens, output_hidden_states=True)
        said = say(model, batch, [1, 0])
    logits = said.hidden @ said.head.T
    logits = said.cap * (logits / said.cap).tanh() if said.cap else logits
    torch.testing.assert_close(logits, whole.logits.flatten(0, 1))
    for block, states in zip([1, 0], said.blocks, strict=True):
        torch.testing.assert_close(states, whole.hidden_states[block + 1].flatten(0, 1))
    assert len(decoder_blocks(model)) == ModelFolder(tmp_path).blocks

    adapted = add_adapters(model, tmp_path, 2, seed=1)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(ModelFolder(tmp_path).linears())
    for name, parameter in model.named_parameters():
        if name in trained:
            parameter.data.normal_(0, 0.1)
    with torch.no_grad():
        wanted = model(tokens).logits
    assert not torch.allclose(wanted, whole.logits, atol=0.1)
    names = Weights(tmp_path).names()
    write_back(adapted.merge_and_unload(), tmp_path)
    assert Weights(tmp_path).names() == names
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path)(tokens).logits, wanted, rtol=1e-4, atol=1e-4)


def test_a_folder_without_the_prefix_is_written_back(tmp_path):
    model = save_tiny("gpt2", tmp_path)
    from safetensors.torch import load_file, save_file

    stored = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
    save_file(bare | {"h.0.attn.bias": torch.ones(1, 1, 32, 32)}, tmp_path / "model.safetensors")
    with torch.no_grad():
        model.transformer.wte.weight.mul_(2)
    write_back(model, tmp_path)
    weights = Weights(tmp_path)
    assert torch.equal(weights.load("wte.weight"), 2 * bare["wte.weight"])
    assert "h.0.attn.bias" not in weights  # a constant of older folders, which the model computes anew


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"hidden": 0.0}, {"lora": 16, "lr": 2e-3}, {"loss": "text", "lora": 16, "lr": 1e-3}])
def test_recovery_regains_half_of_the_loss_of_a_trained_model(shared_data, tmp_path, how):
    folder = shared_data / "models" / "m7"
    text = folder / "calibration.jsonl.gz"
    passed = run_stage("calibrate", folder, tmp_path / "pass", calibration=text, calibration_tokens=16384)
    recover = {"distill_steps": 40, "lr": 5e-4, "max_length": 256, **how}
    perplexities = [perplexity(folder, folder / "eval.jsonl")]
    for name, value in (("cut", None), ("recovered", recover)):
        given = {"pass_": passed, "ffn": 2 / 3, "compensate": False, "rows": text, "recover": value}
        out = run_stage("prune.width", folder, tmp_path / name, **given)
        perplexities.append(perplexity(out.path, folder / "eval.jsonl"))
    whole, cut, recovered = perplexities
    assert recovered - whole < 0.5 * (cut - whole)
