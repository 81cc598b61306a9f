"""Blocks, embedding, final norm and logits of every family against transformers' own modules."""

import subprocess
import sys

import pytest
import torch
from tiny_families import CASES, PLAIN, ids, save_tiny

from compress.errors import UnsupportedArchitecture
from compress.model.blocks import ModelFolder
from compress.model.decoder import activation, rms_norm, run_block, window_mask

BFLOAT16_ERROR = 0.03
"""‖ours − float32‖ / ‖float32‖ of a hidden state after a few bfloat16 blocks."""


def nothing(name, x):
    del name, x


def walk(folder, tokens, dtype=torch.float32):
    """Every hidden state of our runner: embedding, then the output of each block."""
    states = [folder.embed(tokens)]
    rope = folder.rope(tokens.shape[1])
    for block in range(folder.blocks):
        tensors = folder.block_tensors(block, dtype)
        states.append(run_block(folder, block, tensors, states[-1], rope, nothing))
    return states


def close(ours, theirs):
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def error(a, b):
    return float((a.float() - b.float()).norm() / b.float().norm())


@pytest.mark.parametrize("name", CASES)
def test_states_and_logits_equal_those_of_transformers(tmp_path, name):
    model = save_tiny(name, tmp_path)
    folder = ModelFolder(tmp_path)
    with torch.no_grad():
        out = model(input_ids=ids(), output_hidden_states=True)
        ours = walk(folder, ids())
        for mine, theirs in zip(ours[:-1], out.hidden_states[:-1], strict=True):
            close(mine, theirs)
        normed = folder.final_norm(ours[-1])
        close(normed, out.hidden_states[-1])
        close(folder.logits(normed), out.logits)


@pytest.mark.parametrize("name", PLAIN)
def test_bfloat16_stays_near_float32(tmp_path, name):
    model = save_tiny(name, tmp_path)
    folder = ModelFolder(tmp_path)
    with torch.no_grad():
        exact = model(input_ids=ids(), output_hidden_states=True).hidden_states
        ours = walk(folder, ids(), torch.bfloat16)
        theirs = model.bfloat16()(input_ids=ids(), output_hidden_states=True).hidden_states
    for mine, reference, rounded in zip(ours[1:-1], exact[1:-1], theirs[1:-1], strict=True):
        assert mine.dtype == torch.float32
        assert error(mine, reference) < min(BFLOAT16_ERROR, 1.2 * error(rounded, reference))


def linear_inputs(model, tokens):
    """Input of every linear of the blocks by transformers' forward."""
    seen = {}
    for name, module in model.named_modules():
        if type(module).__name__ in {"Linear", "Conv1D"}:
            module.register_forward_hook(lambda _m, args, _o, name=name: seen.update({name: args[0]}))
    with torch.no_grad():
        model(input_ids=tokens)
    return seen


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_shared_input_is_seen_once(tmp_path, name, dtype):
    expected = linear_inputs(save_tiny(name, tmp_path), ids())
    folder = ModelFolder(tmp_path)
    x, rope = folder.embed(ids()), folder.rope(24)
    for block in range(folder.blocks):
        seen = []
        tensors = folder.block_tensors(block, dtype)
        x = run_block(folder, block, tensors, x, rope, lambda n, h, seen=seen: seen.append((n, h)))
        assert [n for n, _ in seen] == [group[0] for group in folder.layout.inputs]
        for (_, mine), group in zip(seen, folder.layout.inputs, strict=True):
            assert mine.dtype == dtype
            for linear in group:
                theirs = expected[folder.name(block, linear)]
                if dtype == torch.float32:
                    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
                else:
                    assert error(mine, theirs) < 2 * BFLOAT16_ERROR


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_gradients_flow_after_an_inference_pass(tmp_path, name):
    save_tiny(name, tmp_path)
    folder = ModelFolder(tmp_path)
    with torch.inference_mode():
        rope = folder.rope(24)
        folder.embed(ids())
        run_block(folder, 0, folder.block_tensors(0), folder.embed(ids()), rope, nothing)
    tensors = {n: t.requires_grad_() for n, t in folder.block_tensors(0).items()}
    run_block(folder, 0, tensors, folder.embed(ids()), rope, nothing).square().sum().backward()
    for name, tensor in tensors.items():
        assert tensor.grad is not None, name
        assert bool(tensor.grad.isfinite().all()), name
        assert float(tensor.grad.norm()) > 0 or "bias" in name, name


@pytest.mark.parametrize("name", ["gpt-nano-sort", "stories260k"])
def test_logits_of_trained_models(shared_data, name):
    from transformers import AutoModelForCausalLM

    path = shared_data / "models" / name
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    vocab = model.config.vocab_size
    tokens = torch.randint(0, vocab, (3, 11), generator=torch.Generator().manual_seed(1))
    folder = ModelFolder(path)
    with torch.no_grad():
        close(folder.logits(folder.final_norm(walk(folder, tokens)[-1])), model(input_ids=tokens).logits)


def test_a_block_runs_without_transformers(tmp_path):
    save_tiny("gemma2", tmp_path)
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "import torch; from pathlib import Path; from compress.model.blocks import ModelFolder\n"
        "from compress.model.decoder import run_block\n"
        f"m = ModelFolder(Path({str(tmp_path)!r})); x = m.embed(torch.zeros(1, 4, dtype=torch.int64))\n"
        "print(tuple(run_block(m, 0, m.block_tensors(0), x, m.rope(4), lambda *_: None).shape))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("(1, 4, 64)", 0), done.stderr


def test_rms_norm_equals_its_definition():
    x, weight = torch.randn(3, 5, 16), torch.randn(16)
    for offset in (0.0, 1.0):
        expected = torch.empty_like(x)
        for i in range(3):
            for j in range(5):
                row = x[i, j]
                expected[i, j] = row / (row.pow(2).sum() / 16 + 1e-5).sqrt() * (weight + offset)
        torch.testing.assert_close(rms_norm(x, weight, 1e-5, offset), expected)
    assert rms_norm(x, weight.bfloat16(), 1e-5).dtype == torch.bfloat16


def test_window_masks_only_where_the_window_is_shorter_and_built_once():
    mask = window_mask(4, 2)
    assert mask.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert window_mask(4, 2) is mask
    assert window_mask(4, None) is None
    assert window_mask(2, 2) is None


def test_an_unknown_activation_is_refused():
    with pytest.raises(UnsupportedArchitecture, match=r"'snake'.*") as caught:
        activation("snake")
    assert "silu" in str(caught.value)
