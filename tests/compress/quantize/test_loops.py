"""The compiled kernels against the same loops in torch, and these against slower ones."""

import pytest
import torch
from problems import codebook, problem

from compress.calibrate.factor import inverse_factor
from compress.quantize import kernels, loops
from compress.quantize.grids import IntGrid
from compress.quantize.loops import Rounding

OUTPUTS = [1, 63, 65, 300]
ROWS = 96
GRIDS = {
    **{f"int{bits}": IntGrid(bits, period=32) for bits in (2, 3, 4, 8)},
    **{f"uint{bits}": IntGrid(bits, symmetric=False, period=32) for bits in (2, 4)},
    "levels4": codebook(32),
    "levels3": codebook(48, 8),
}
needs_kernels = pytest.mark.skipif(kernels.library() is None, reason="installed without a C compiler")


@pytest.fixture
def in_torch(monkeypatch):
    """Runs a loop in torch on copies of its arguments."""

    def run(loop, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "usable", lambda *tensors: False)
            return loop(*arguments)

    return run


def rounding(W, grid, keep=None):
    steps = [grid.fit(w.contiguous(), torch.ones(len(w))) for w in W.split(grid.period)]
    scale, offset = (torch.cat([step[i] for step in steps]) for i in range(2))
    sub = torch.arange(len(W), dtype=torch.int32) // grid.period
    return Rounding(sub, scale, offset, grid.top, grid.levels, keep)


def mask(W, keeps):
    return torch.rand(W.shape, generator=torch.Generator().manual_seed(1)) > 0.5 if keeps else None


def agree(a, b):
    assert (a == b).float().mean() >= 0.999


def near(a, b):
    """But for outputs in which a tie fell the other way."""
    assert ((a - b).abs().amax(0) <= 1e-3 * b.abs().amax()).float().mean() >= 0.99


@needs_kernels
@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_feed_equals_torch(grid, keeps, out, in_torch):
    W, H = problem(ROWS, out, seed=out)
    U, keep = inverse_factor(H, 0.01).upper, mask(W, keeps)
    how = rounding(W, grid, keep)
    found = []
    for run in (lambda *a: a[0](*a[1:]), in_torch):
        codes, E = torch.empty(W.shape, dtype=torch.uint8), torch.empty_like(W)
        run(loops.feed, W.clone(), U, how, codes, E)
        found.append((codes, E))
    (codes, E), (slow_codes, slow_E) = found
    agree(codes, slow_codes)
    near(E, slow_E)
    if keeps:
        values = how.scale[how.sub.long()] * (codes if how.levels is None else how.levels[codes.long()])
        assert bool(((values + how.offset[how.sub.long()])[~keep] == 0).all())


@needs_kernels
@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_descend_equals_torch(grid, keeps, out, in_torch):
    W, H = problem(ROWS, out, seed=out)
    how = rounding(W, grid, mask(W, keeps))
    start = torch.stack([how.round(i, W[i] * 0.9)[1] for i in range(ROWS)])
    found = []
    for run in (lambda *a: a[0](*a[1:]), in_torch):
        codes, Q = torch.empty(W.shape, dtype=torch.uint8), start.clone()
        run(loops.descend, Q, H @ (Q - W), H, how, codes)
        found.append((codes, Q))
    (codes, Q), (slow_codes, slow_Q) = found
    agree(codes, slow_codes)
    near(Q, slow_Q)


def slow_fit(w, h, top, middle, candidates, shrink):
    """Scale and zero point of one column in float64: every range tried, its least-squares scale, its error."""
    best = (float("inf"), 0.0, 0.0)
    live = [(float(x), float(weight)) for x, weight in zip(w, h, strict=True) if weight > 0]
    low, high = min(0.0, *(x for x, _ in live)), max(0.0, *(x for x, _ in live))
    for k in range(candidates):
        part = 1 + (shrink - 1) * k / max(1, candidates - 1)
        step = (-high if high > -low else -low) * part / (middle - 0.25) if middle else (high - low) * part / top
        zero = middle or min(max(round(-low * part / step), 1), top)
        codes = [min(max(round(x / step + zero), 0), top) - zero for x, _ in live]
        a = sum(weight * q * x for q, (x, weight) in zip(codes, live, strict=True))
        b = sum(weight * q * q for q, (_, weight) in zip(codes, live, strict=True))
        scale = a / b
        left = sum(weight * (x - scale * q) ** 2 for q, (x, weight) in zip(codes, live, strict=True))
        best = min(best, (left, scale, float(zero)))
    return best


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_kernels), False])
@pytest.mark.parametrize(("bits", "middle"), [(2, 2), (3, 4), (4, 8), (8, 128), (2, 0), (4, 0), (8, 0)])
@pytest.mark.parametrize("out", [1, 65])
def test_fit_finds_the_best_range(bits, middle, out, compiled, in_torch):
    W, _ = problem(32, out, seed=bits)
    h = torch.rand(32, generator=torch.Generator().manual_seed(2))
    h[3] = 0
    W[3] = 9.0
    settings = (2**bits - 1, middle, 16, 0.5)
    scale, zero = loops.fit(W, h, *settings) if compiled else in_torch(loops.fit, W, h, *settings)
    for column in range(out):
        least, _, _ = slow_fit(W[:, column], h, *settings)
        q = (W[:, column] / scale[column] + zero[column]).round().clamp(0, settings[0]) - zero[column]
        assert float((h * (W[:, column] - scale[column] * q) ** 2).sum()) <= least * 1.001 + 1e-9


@needs_kernels
def test_kernels_take_only_what_they_can_read():
    W = torch.zeros(8, 8)
    assert kernels.usable(W, W[2:6, 2:6])
    assert not kernels.usable(W, W.double())
    assert not kernels.usable(W.T)


@pytest.mark.parametrize("outputs", [1, 255, 512, 513, 777, 5000])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_output_is_handled_once(outputs, threads):
    before, seen = torch.get_num_threads(), torch.zeros(outputs, dtype=torch.int32)
    try:
        torch.set_num_threads(threads)
        kernels.spread(lambda first, last: seen[first:last].add_(1), outputs)
    finally:
        torch.set_num_threads(before)
    assert seen.tolist() == [1] * outputs
