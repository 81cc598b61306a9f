"""Moments of both streams against hooks in two models of transformers, the float one and the changed one."""

import pytest
import torch
from tiny_families import ids
from word_models import save_with_words

from compress.calibrate import streaming
from compress.errors import ArtifactError
from compress.model.blocks import ModelFolder
from compress.quantize import upstream
from compress.quantize.upstream import TwoStreams, moments

WINDOWS = ids(5, 24)


@pytest.fixture
def in_float32(monkeypatch):
    """Exact states, and batches that do not divide the windows."""
    for module in (streaming, upstream):
        monkeypatch.setattr(module, "dtype", lambda: torch.float32)
    monkeypatch.setattr(streaming, "BATCH_BYTES", 4 * 2 * 24 * 256)


def altered_weight(W, name):
    """W with an error of a fifth, as if it had been quantized."""
    noise = torch.randn(W.shape, generator=torch.Generator().manual_seed(len(name)))
    return W + 0.2 * W.std() * noise


def hooked(model, names):
    """Inputs of the linears, float32 ``[tokens, in]``."""
    seen = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _m, x, _o, name=name: seen.update({name: x[0]}))
        for name in names
    ]
    with torch.no_grad():
        model(input_ids=WINDOWS)
    for handle in handles:
        handle.remove()
    return {name: x.flatten(0, 1) for name, x in seen.items()}


def changed_copy(model, folder, names):
    """Inputs of transformers' model before and after all ``names`` are altered."""
    before = hooked(model, names)
    with torch.no_grad():
        for name in names:
            W = altered_weight(folder.weight(name), name)
            model.get_submodule(name).weight.copy_(folder.stored(name, W))
    return before, hooked(model, names)


@pytest.mark.parametrize("name", ["llama-linear", "qwen3", "gemma2", "phi3", "gpt2", "gpt2-untied"])
def test_moments_equal_those_of_two_models(tmp_path, name, in_float32):
    model = save_with_words(name, tmp_path / "m")
    folder = ModelFolder(tmp_path / "m")
    scratch = tmp_path / "s"
    scratch.mkdir()
    found = {}

    def quantize(names, measured):
        found.update(dict.fromkeys(names, measured))
        return {name: altered_weight(folder.weight(name), name) for name in names}

    with torch.inference_mode():
        streams = TwoStreams(folder, WINDOWS, scratch)
        streams.begin()
        for block in range(folder.blocks):
            streams.block(block, quantize)
            streams.forget(block)
        streams.head(quantize)
    names = [*folder.linears(), folder.head_name]
    assert list(found) == names
    if folder.head_weight != "lm_head.weight":
        names.remove(folder.head_name)
    before, after = changed_copy(model, folder, names)
    for linear in names:
        wanted, actual = before[linear], after[linear]
        torch.testing.assert_close(found[linear].hessian, actual.T @ actual / 120, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found[linear].drift, actual.T @ (wanted - actual) / 120, rtol=1e-3, atol=2e-3)
        assert found[linear].tokens == 120
    assert float(found[names[-1]].drift.norm()) > 0.05 * float(found[names[-1]].hessian.norm())


def test_a_linear_left_as_it_is_passes_its_input_on(tmp_path, in_float32):
    save_with_words("llama-linear", tmp_path / "m")
    streams = TwoStreams(ModelFolder(tmp_path / "m"), WINDOWS, tmp_path)
    drifts = []

    def leave(names, measured):
        drifts.append(float(measured.drift.abs().max()))
        return {}

    with torch.inference_mode():
        streams.begin()
        streams.block(0, leave)
        streams.block(1, leave)
    assert drifts == [0.0] * 8


@pytest.mark.parametrize("stream", [0, 1])
def test_overflow_in_either_stream_names_the_linear(stream):
    pair = [torch.ones(2, 3, 4), torch.ones(2, 3, 4)]
    pair[stream] = pair[stream] * float("inf")
    with pytest.raises(ArtifactError, match=r"inputs of a\.b become NaN or Inf"):
        moments([tuple(pair)], "a.b")


def test_states_of_a_block_are_forgotten_and_nothing_else(tmp_path, in_float32):
    save_with_words("gpt2", tmp_path / "m")
    scratch = tmp_path / "s"
    scratch.mkdir()
    streams = TwoStreams(ModelFolder(tmp_path / "m"), WINDOWS, scratch)
    with torch.inference_mode():
        streams.begin()
        streams.block(0, lambda names, measured: {})
    kept = {path.name for path in scratch.iterdir()}
    streams.forget(0)
    gone = kept - {path.name for path in scratch.iterdir()}
    assert gone == {"wanted-000.bin", "actual-000.bin"}
    assert {"wanted-001.bin", "actual-001.bin"} <= kept
    assert not [name for name in kept if name.endswith(".tmp")]
