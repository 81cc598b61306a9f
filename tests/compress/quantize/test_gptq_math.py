"""GPTQ against the paper's algorithm written out slowly, and what it promises of grids, dead inputs and damping."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import HoldfastError
from compress.quantize.gptq_math import importance_order, inverse_factor, solve
from compress.quantize.grids import IntGrid


def problem(n=96, out=24, tokens=400, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, n, generator=g) @ torch.randn(n, n, generator=g) / n**0.5
    return torch.randn(n, out, generator=g) * 0.05, x.T @ x / tokens


def slow_gptq(W, H, grid, group, damp):
    """Algorithm 1 of the paper in float64, one column at a time with the explicit inverse, one row of W at a time."""
    n = W.shape[0]
    H = H.double() + damp * H.double().diagonal().mean() * torch.eye(n, dtype=torch.float64)
    U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    W = W.double().clone()
    Q = torch.empty_like(W)
    for i in range(n):
        if i % group == 0:
            steps = grid.fit(W[i : i + group].float(), H.diagonal()[i : i + group].float())
        Q[i] = grid.decode(grid.encode(W[i].float(), steps), steps).double()
        W[i:] -= torch.outer(U[i, i:], (W[i] - Q[i]) / U[i, i])
    return Q


@pytest.mark.parametrize("group", [32, 96])
@pytest.mark.parametrize("symmetric", [True, False])
def test_equals_the_slow_reference(group, symmetric):
    W, H = problem()
    H = H + torch.eye(96)
    grid = IntGrid(4, symmetric, candidates=1)
    fast = solve(W, H, grid, group, damp=0.01, act_order=False)
    slow = slow_gptq(W, H, grid, group, 0.01)
    same = (fast.weights().double() - slow).abs() < 1e-6
    assert same.double().mean() > 0.99  # a rare tie may round the other way in float32


def error(W, Q, H):
    return float(((Q - W) * (H @ (Q - W))).sum())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_beats_rounding_to_nearest_and_reports_its_error(bits, symmetric):
    W, H = problem(seed=bits)
    grid = IntGrid(bits, symmetric)
    solution = solve(W, H, grid, 32)
    nearest = torch.cat([grid.decode(grid.encode(w, s := grid.fit(w, torch.ones(32))), s) for w in W.split(32)])
    ours = error(W, solution.weights(), H)
    assert ours < 0.8 * error(W, nearest, H)
    assert float(solution.error.sum()) == pytest.approx(ours, rel=1e-3)
    assert int(solution.codes.max()) <= grid.top
    assert int(solution.zeros.min()) >= 1


def test_scale_search_and_order_help():
    W, H = problem(n=256, out=64, tokens=2000, seed=9)
    plain = solve(W, H, IntGrid(3, candidates=1), 128, act_order=False)
    searched = solve(W, H, IntGrid(3), 128, act_order=False)
    assert float(searched.error.sum()) < float(plain.error.sum())


@given(st.integers(1, 6), st.sampled_from([1, 4, 32]), st.integers(0, 10))
def test_order_keeps_groups_together(groups, size, seed):
    diagonal = torch.rand(groups * size, generator=torch.Generator().manual_seed(seed))
    order = importance_order(diagonal, size)
    assert sorted(order.tolist()) == list(range(groups * size))
    for chunk in order.view(groups, size):
        assert len({int(i) // size for i in chunk}) == 1
        assert diagonal[chunk].tolist() == sorted(diagonal[chunk].tolist(), reverse=True)


def test_factor_is_the_upper_cholesky_of_the_inverse():
    _, H = problem(n=64)
    H = H.double() + torch.eye(64, dtype=torch.float64)
    U, damp = inverse_factor(H, 0.01)
    assert damp == 0.01
    damped = H + 0.01 * H.diagonal().mean() * torch.eye(64, dtype=torch.float64)
    torch.testing.assert_close(U.T @ U, torch.linalg.inv(damped))
    assert torch.equal(U, U.triu())


def test_damping_heals_what_is_not_positive_definite_and_says_so():
    W, H = problem(n=32, tokens=64)
    H = H - 0.3 * H.diagonal().mean() * torch.eye(32)
    solution = solve(W, H, IntGrid(4), 32)
    assert solution.damp > 0.01
    assert solution.weights().isfinite().all()
    with pytest.raises(HoldfastError, match="not positive definite"):
        inverse_factor(-torch.eye(8), 0.01)


def test_dead_inputs_keep_their_nearest_code_and_do_not_disturb():
    W, H = problem(n=64, seed=4)
    H[5] = 0
    H[:, 5] = 0
    W[5] = 3.0
    solution = solve(W, H, IntGrid(4), 32)
    calm = W.clone()
    calm[5] = 0.0
    assert float(solution.error.sum()) < 3 * float(solve(calm, H, IntGrid(4), 32).error.sum())


def test_stacked_matrices_equal_separate_ones_and_runs_repeat():
    W, H = problem(n=128, out=48)
    whole = solve(W, H, IntGrid(4), 64)
    parts = torch.cat([solve(w.contiguous(), H, IntGrid(4), 64).codes for w in W.split(16, dim=1)], dim=1)
    assert (parts == whole.codes).float().mean() > 0.999
    assert torch.equal(whole.codes, solve(W, H, IntGrid(4), 64).codes)


@settings(deadline=None, max_examples=30)
@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    symmetric=st.booleans(),
    kind=st.sampled_from(["normal", "zero", "constant", "positive", "tiny", "outlier"]),
    seed=st.integers(0, 99),
)
def test_grids_are_idempotent_and_within_half_a_step(bits, symmetric, kind, seed):
    w = torch.randn(32, 5, generator=torch.Generator().manual_seed(seed))
    w = {
        "normal": w,
        "zero": w * 0,
        "constant": w * 0 + 0.7,
        "positive": w.abs() + 1,
        "tiny": w * 1e-9,
        "outlier": torch.cat([w[:-1], w[-1:] * 50]),
    }[kind]
    grid = IntGrid(bits, symmetric, candidates=1)
    steps = grid.fit(w, torch.ones(32))
    codes = grid.encode(w, steps)
    decoded = grid.decode(codes, steps)
    assert torch.equal(grid.encode(decoded, steps), codes)
    assert torch.equal(steps.scale, steps.scale.half().float())
    assert bool(((steps.zero >= 1) & (steps.zero <= grid.top)).all())
    inner = (codes > 0) & (codes < grid.top)
    assert bool(((decoded - w).abs() <= steps.scale.abs() * 0.501 + 1e-7)[inner].all())
    searched = IntGrid(bits, symmetric).fit(w, torch.ones(32))
    better = (grid.decode(grid.encode(w, searched), searched) - w).square().sum()
    assert float(better) <= float((decoded - w).square().sum()) * (1 + 1e-5)
