"""Choosing bits: what each width would cost, and that a budget is kept and well spent."""

import json
from functools import partial

import pytest
import torch
from problems import error, problem
from stages import run_stage
from word_models import SMALL, save_with_words, word_text

from compress.calibrate.reading import Calibration
from compress.calibrate.sensitivity import measure
from compress.model.blocks import ModelFolder
from compress.model.weights import Weights
from compress.quantize.budget import allocate
from compress.quantize.choose import packed_bytes
from compress.quantize.gptq_math import solve
from compress.quantize.grids import IntGrid
from compress.quantize.mixed import options_of, rounded
from compress.quantize.packing import to_checkpoint
from compress.quantize.problem import Plan

BITS = (2, 3, 4, 8)


def test_rounded_is_nearest_by_period():
    W, H = problem(64, 32)
    grid = IntGrid(4, period=32)
    Q = rounded(W.T.contiguous(), H.diagonal(), grid)
    for low in (0, 32):
        w, h = W[low : low + 32].contiguous(), H.diagonal()[low : low + 32].contiguous()
        scale, offset, _ = grid.fit(w, h)
        codes = ((w - offset) / scale).round().clamp(0, 15)
        torch.testing.assert_close(Q.T[low : low + 32], codes * scale + offset)


def test_options_cost_half_the_weighted_output_error():
    W, H = problem(64, 32)
    gamma = torch.rand(32, generator=torch.Generator().manual_seed(1))
    offers = {str(bits): (partial(rounded, grid=IntGrid(bits, period=32)), 100 * bits) for bits in BITS}
    options = options_of(W.T.contiguous(), H, gamma, offers)
    assert [(option.label, option.nbytes) for option in options] == [(str(bits), 100 * bits) for bits in BITS]
    losses = [option.loss for option in options]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 100 * losses[-1] > 0
    D = rounded(W.T.contiguous(), H.diagonal(), IntGrid(3, period=32)) - W.T
    slow = sum(float(gamma[o]) * error(D[o, :, None], 0 * D[o, :, None], H) for o in range(32)) / 2
    assert losses[1] == pytest.approx(slow, rel=1e-4)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("period", [32, 128])
def test_bytes_of_an_option_are_those_of_the_checkpoint(bits, period):
    W, H = problem(128, 64)
    grid = IntGrid(bits, period=period)
    tensors = to_checkpoint(solve(W, H, grid, Plan(sweeps=0)))
    assert packed_bytes((64, 128), grid) == sum(tensor.nbytes for tensor in tensors.values())


def test_a_mixture_beats_uniform_bits_of_the_same_size():
    options = {}
    for place, level in enumerate([0.001, 0.03, 1.0, 30.0]):
        W, H = problem(64, 32, seed=place)
        grids = [IntGrid(bits, period=32) for bits in BITS]
        offers = {str(grid.bits): (partial(rounded, grid=grid), packed_bytes((32, 64), grid)) for grid in grids}
        options[f"l{place}"] = options_of(W.T.contiguous(), H, torch.full((32,), level), offers)
    uniform = [next(o for o in choices if o.label == "4") for choices in options.values()]
    budget = sum(option.nbytes for option in uniform)
    chosen = allocate(options, budget)
    assert sum(option.nbytes for option in chosen.values()) <= budget
    assert sum(option.loss for option in chosen.values()) < 0.7 * sum(option.loss for option in uniform)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A model (GPT-2 shapes fit groups of 32) with its text and calibration pass."""
    place = tmp_path_factory.mktemp("uneven")
    save_with_words("gpt2", place / "m")
    text = word_text(place / "t.jsonl")
    return place / "m", text, run_stage("calibrate", place / "m", place / "c", calibration=text, **SMALL)


def predicted(folder, text, passed, bits_of, scratch):
    """Summed loss of the stage's own measure for bits by name."""
    from compress.windows import calibration_windows

    scratch.mkdir()
    model, calibration = ModelFolder(folder), Calibration(passed.path)
    windows = calibration_windows(folder, text, SMALL["calibration_tokens"], SMALL["calibration_length"])
    gamma = measure(model, windows, scratch, 17, lambda *a: None, torch.float32)
    return sum(
        option.loss
        for n in model.linears()
        for grid in [IntGrid(bits_of(n), period=32)]
        for option in options_of(
            model.weight(n), calibration.hessian(n), gamma[n], {"": (partial(rounded, grid=grid), 0)}
        )
    )


def test_bits_per_weight_is_kept_and_beats_uniform_bits(uneven, tmp_path):
    folder, text, passed = uneven
    uniform_bits = 4 + (16 + 4) / 32 + 1.0  # scales and zeros per 32, g_idx
    out = run_stage(
        "quantize.gptq", folder, tmp_path / "q", pass_=passed, calibration=text, group_size=32,
        bits_per_weight=uniform_bits, **SMALL,
    )  # fmt: skip
    special = json.loads((tmp_path / "q.scratch" / "bits.json").read_text())
    assert out.facts["bits_per_weight"] <= uniform_bits
    assert sum(out.facts["chosen_bits"].values()) == len(special) == 12
    assert len(out.facts["chosen_bits"]) > 1
    mixed = predicted(folder, text, passed, special.__getitem__, tmp_path / "s1")
    assert mixed < predicted(folder, text, passed, lambda name: 4, tmp_path / "s2")
    again = run_stage(
        "quantize.gptq", folder, tmp_path / "r", pass_=passed, calibration=text, group_size=32,
        bits_per_weight=uniform_bits, **SMALL,
    )  # fmt: skip
    assert again.digest == out.digest


def test_budget_mb_is_the_size_of_all_weights(uneven, tmp_path):
    megabytes = 0.2
    folder, text, passed = uneven
    out = run_stage(
        "quantize.gptq", folder, tmp_path / "q", pass_=passed, calibration=text, group_size=32,
        budget_mb=megabytes, choose=[3, 4, 8], dynamic={"*.0.attn.c_proj": 8}, **SMALL,
    )  # fmt: skip
    weights = Weights(out.path)
    size = sum(weights.spec(name).size for name in weights.names())
    assert 0.8 * megabytes * 1e6 < size <= megabytes * 1e6
    assert set(out.facts["chosen_bits"]) <= {"3", "4", "8"}
    config = json.loads((out.path / "config.json").read_text())["quantization_config"]
    assert config["dynamic"][r"+:^transformer\.h\.0\.attn\.c_proj$"] == {"bits": 8}
