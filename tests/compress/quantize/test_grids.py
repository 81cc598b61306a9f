"""What every grid promises: nearest points, repeatable rounding, scales that a checkpoint can hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import codebook

from compress.quantize.grids import LEAST_HALF, IntGrid, Steps, decode, encode, stored_half

KINDS = ["normal", "zero", "constant", "positive", "negative", "tiny", "huge", "outlier"]


def weights(kind, seed):
    w = torch.randn(32, 5, generator=torch.Generator().manual_seed(seed))
    return {
        "normal": w,
        "zero": w * 0,
        "constant": w * 0 + 0.7,
        "positive": w.abs() + 1,
        "negative": -w.abs() - 1,
        "tiny": w * 1e-9,
        "huge": w * 1e4,
        "outlier": torch.cat([w[:-1], w[-1:] * 50]),
    }[kind]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([2, 3, 4, 8]), st.booleans(), st.sampled_from(KINDS), st.integers(0, 99))
def test_integers_are_idempotent_and_within_half_a_step(bits, symmetric, kind, seed):
    w = weights(kind, seed)
    grid = IntGrid(bits, symmetric, candidates=1, period=32)
    steps = grid.fit(w, torch.ones(32))
    codes = encode(grid, w, steps)
    decoded = decode(grid, codes, steps)
    assert torch.equal(encode(grid, decoded, steps), codes)
    assert torch.equal(steps.scale, steps.scale.half().float())
    zero = steps.fields[0]
    assert bool(((zero >= 1) & (zero <= grid.top) & (zero == zero.round())).all())
    assert torch.equal(steps.offset, -zero * steps.scale)
    inner = (codes > 0) & (codes < grid.top)
    assert bool(((decoded - w).abs() <= steps.scale.abs() * 0.501 + 1e-7)[inner].all())
    searched = IntGrid(bits, symmetric, period=32).fit(w, torch.ones(32))
    better = (decode(grid, encode(grid, w, searched), searched) - w).square().sum()
    # the search weighs steps before float16 rounds them, which may move a weight that lay between two codes
    assert float(better) <= float((decoded - w).square().sum()) * (1 + 1e-2) + 1e-12


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(KINDS), st.sampled_from([8, 16]), st.integers(0, 99))
def test_codebooks_take_the_nearest_level(kind, size, seed):
    w, grid = weights(kind, seed), codebook(32, size)
    steps = grid.fit(w, torch.ones(32))
    codes = encode(grid, w, steps)
    points = grid.levels[:, None, None] * steps.scale
    best = (points - w).abs().amin(0)
    decoded = decode(grid, codes, steps)
    torch.testing.assert_close((decoded - w).abs(), best, rtol=1e-4, atol=1e-9)
    assert torch.equal(encode(grid, decoded, steps), codes)


def test_sub_blocks_have_steps_of_their_own():
    grid = IntGrid(4, period=32)
    steps = Steps(torch.tensor([[1.0], [2.0]]), torch.tensor([[-8.0], [0.0]]))
    w = torch.cat([torch.full((16, 1), 3.0), torch.full((16, 1), 8.0)])
    assert encode(grid, w, steps).flatten().tolist() == [11] * 16 + [4] * 16
    assert torch.equal(decode(grid, encode(grid, w, steps), steps), w)


@pytest.mark.parametrize("symmetric", [True, False])
def test_inputs_that_count_for_nothing_do_not_sway_the_fit(symmetric):
    grid, w, h = IntGrid(4, symmetric, period=32), weights("normal", 1), torch.ones(32)
    loud = w.clone()
    loud[7], h[7] = 100.0, 0.0
    for quiet, found in zip(grid.fit(w, h)[:2], grid.fit(loud, h)[:2], strict=True):
        assert torch.equal(quiet, found)
    alone = grid.fit(w, torch.zeros(32))
    assert torch.equal(alone.scale, grid.fit(w, torch.ones(32)).scale)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_stored_scales_are_finite_halves_that_are_not_zero(value):
    half = float(stored_half(torch.tensor([value])))
    assert half == float(torch.tensor(half).half())
    assert LEAST_HALF * 0.99 <= abs(half) <= 65504
    if LEAST_HALF * 1.01 < abs(value) < 65504:
        assert abs(half - value) <= abs(value) * 2**-11
