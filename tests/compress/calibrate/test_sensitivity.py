"""The streaming backward pass against transformers' autograd, and its predictions against measured KL."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from tiny_families import ids, save_tiny

from compress.calibrate import sensitivity
from compress.calibrate.sensitivity import draw_labels, measure, predicted_kl
from compress.errors import ArtifactError
from compress.model.blocks import ModelFolder
from compress.windows import calibration_windows


def silent(done, total, note=""):
    del done, total, note


def gammas(folder, windows, scratch, dtype=torch.float32, seed=7, progress=silent):
    return measure(ModelFolder(folder), windows, scratch, seed, progress, dtype)


def inverted(p, u):
    """The first label whose cumulative probability exceeds u, token by token."""
    labels = torch.zeros(u.shape, dtype=torch.int64)
    for place, threshold in zip(torch.cartesian_prod(*map(torch.arange, u.shape)).tolist(), u.flatten(), strict=True):
        label, total = 0, float(p[(*place, 0)])
        while total <= float(threshold):
            label += 1
            total += float(p[(*place, label)])
        labels[tuple(place)] = label
    return labels


def reference(model, names, windows, seed=7):
    """E[g²] of every linear's output by hooks and one backward pass through all of transformers' model."""
    outputs = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: (out.retain_grad(), outputs.update({name: out}))[1]
        )
        for name in names
    ]
    logits = model(input_ids=windows).logits
    for handle in handles:
        handle.remove()
    u = torch.rand(windows.shape, generator=torch.Generator().manual_seed(seed))
    labels = inverted(logits.detach().double().softmax(-1), u)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    return {name: out.grad.square().flatten(0, 1).mean(0) for name, out in outputs.items()}


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "phi3", "qwen3"])
def test_equals_autograd_through_the_whole_model(tmp_path, name, monkeypatch):
    monkeypatch.setattr(sensitivity, "ACTIVATION_BYTES", 4 * 2 * 24 * 96)  # batches that do not divide the windows
    monkeypatch.setattr(sensitivity, "LOGIT_BYTES", 4 * 2 * 24 * 90)
    model, scratch = save_tiny(name, tmp_path), tmp_path / "scratch"
    scratch.mkdir()
    windows = ids(5)
    ours = gammas(tmp_path, windows, scratch)
    theirs = reference(model, ModelFolder(tmp_path).linears(), windows)
    assert list(ours) == ModelFolder(tmp_path).linears()
    for linear, gamma in theirs.items():
        torch.testing.assert_close(ours[linear], gamma, rtol=2e-3, atol=1e-5 * float(gamma.max()))
    assert not list(scratch.iterdir())


def test_bfloat16_is_close_and_runs_repeat(tiny_llama, tmp_path):
    windows = ids(8, 32)
    exact = gammas(tiny_llama, windows, tmp_path)
    rough = gammas(tiny_llama, windows, tmp_path, torch.bfloat16)
    again = gammas(tiny_llama, windows, tmp_path, torch.bfloat16)
    with torch.inference_mode():
        nested = gammas(tiny_llama, windows, tmp_path, torch.bfloat16)
    for name, gamma in exact.items():
        assert float(rough[name].sum()) == pytest.approx(float(gamma.sum()), rel=0.05)
        assert torch.equal(rough[name], again[name])
        assert torch.equal(rough[name], nested[name])
    other = gammas(tiny_llama, windows, tmp_path, seed=8)
    assert not torch.equal(other["model.layers.0.mlp.up_proj"], exact["model.layers.0.mlp.up_proj"])


def test_labels_follow_the_distribution():
    p = torch.tensor([0.0, 0.25, 0.75, 0.0])
    u = torch.rand(40000, generator=torch.Generator().manual_seed(1))
    drawn = draw_labels(p.expand(40000, 4), u).bincount(minlength=4) / 40000
    assert drawn[0] == drawn[3] == 0
    assert float(drawn[2]) == pytest.approx(0.75, abs=0.01)
    assert draw_labels(p.expand(2, 4), torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 2]


def test_predicted_kl_is_the_quadratic_form():
    g = torch.Generator().manual_seed(0)
    D, x, gamma = torch.randn(5, 7, generator=g), torch.randn(30, 7, generator=g), torch.rand(5, generator=g)
    slow = sum(0.5 * float(gamma[o]) * float((x[t] @ D[o]) ** 2) for t in range(30) for o in range(5)) / 30
    assert predicted_kl(D, x.T @ x / 30, gamma) == pytest.approx(slow, rel=1e-5)


def test_gradients_that_overflow_name_their_linear(tmp_path):
    save_tiny("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] *= 1e38
    save_file(tensors, tmp_path / "model.safetensors")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(ArtifactError, match=r"gradients of model\.layers\.\d\..* become NaN or Inf"):
        gammas(tmp_path, ids(), scratch)


class Measured:
    """A transformers model whose linears can be changed one at a time, and what it says before."""

    def __init__(self, folder, windows, dtype):
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self.windows = windows
        self.before = self._say()

    @torch.no_grad()
    def _say(self):
        return self.model(input_ids=self.windows).logits.log_softmax(-1)

    def input_hessian(self, name):
        sums = []
        module = self.model.get_submodule(name)
        handle = module.register_forward_hook(lambda _m, args, _o: sums.append(args[0].flatten(0, 1)))
        self._say()
        handle.remove()
        return (sums[0].T @ sums[0] / len(sums[0])).float()

    def kl(self, name, D):
        """Mean KL(p ‖ p̂) per token with the weight error D."""
        weight = self.model.get_submodule(name).weight.data
        weight += D
        after = self._say()
        weight -= D
        return float((self.before.exp() * (self.before - after)).sum(-1).mean())


def test_predicts_the_kl_of_small_noise(tmp_path):
    """Within 1.3 times where tokens are independent: windows of one position, whose queries and keys do not matter."""
    save_tiny("mistral-full", tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    windows = ids(900, 1)
    gamma, model = gammas(tmp_path, windows, scratch), Measured(tmp_path, windows, torch.float64)
    generator = torch.Generator().manual_seed(2)
    ratios = {}
    for name, per_output in gamma.items():
        W = model.model.get_submodule(name).weight.detach().float()
        D = 0.01 * W.std() * torch.randn(W.shape, generator=generator)
        if name.endswith(("q_proj", "k_proj")):
            assert predicted_kl(D, model.input_hessian(name), per_output) < 1e-12
        else:
            ratios[name] = model.kl(name, D) / predicted_kl(D, model.input_hessian(name), per_output)
    assert max(ratios.values()) < 1.3, ratios
    assert min(ratios.values()) > 1 / 1.3, ratios


def rounded(W, bits, group=128):
    """Round to nearest, symmetric, one scale per group of inputs."""
    groups = W.unflatten(1, (-1, group))
    top = 2 ** (bits - 1)
    scale = groups.abs().amax(-1, keepdim=True) / (top - 0.5)
    return ((groups / scale).round().clamp(-top, top - 1) * scale).flatten(1)


@pytest.mark.slow
def test_predicts_and_ranks_the_kl_of_rounding_single_linears(shared_data, tmp_path):
    """On a trained model, whose tokens are not independent, within 2.5 times at 2, 3 and 4 bits."""
    folder = shared_data / "models" / "m7"
    windows = calibration_windows(folder, folder / "calibration.jsonl.gz", 8192, 256)
    gamma, model = gammas(folder, windows, tmp_path), Measured(folder, windows[:8], torch.float32)
    pairs = []
    for name in [name for name in gamma if name.split(".")[2] in {"0", "3", "7"}]:
        W, H = model.model.get_submodule(name).weight.detach(), model.input_hessian(name)
        for bits in (2, 3, 4, 8):
            D = rounded(W, bits) - W
            pairs.append((predicted_kl(D, H, gamma[name]), model.kl(name, D)))
            assert bits == 8 or 1 / 2.5 < pairs[-1][1] / pairs[-1][0] < 2.5, (name, bits)
    predicted, measured = zip(*pairs, strict=True)
    assert spearmanr(predicted, measured).statistic > 0.97
