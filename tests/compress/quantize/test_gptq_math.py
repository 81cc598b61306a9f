"""The solver against GPTQ written out slowly, and what it promises of sweeps, drift, dead inputs and damping."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import alike, codebook, damped, error, nearest, problem, slow_gptq, slow_order

from compress.calibrate.factor import inverse_factor
from compress.errors import HoldfastError
from compress.quantize import solver
from compress.quantize.gptq_math import DRIFT_RIDGE, importance_order, solve
from compress.quantize.grids import IntGrid, stored_half
from compress.quantize.problem import Plan
from compress.quantize.solver import RIDGE

PAPER = Plan(order="none", sweeps=0)
SIZES = [(96, 32, 24), (96, 96, 24), (320, 64, 5), (512, 256, 3), (640, 160, 3), (768, 384, 3), (576, 576, 3)]
"""Inputs, period, outputs: groups that end at, before and behind the outer block of 256 inputs."""


@pytest.mark.parametrize(("n", "period", "out"), SIZES)
@pytest.mark.parametrize("order", ["none", "groups", "inputs"])
def test_equals_the_slow_reference(n, period, out, order):
    W, H = problem(n, out, tokens=3 * n, seed=n)
    grid = IntGrid(4, symmetric=order != "groups", candidates=1, period=period)
    fast = solve(W, H, grid, Plan(order=order, sweeps=0))
    assert alike(fast.weights(), slow_gptq(W, H, grid, 0.01, order))
    assert fast.damp == 0.01
    place = torch.tensor(slow_order(H.diagonal().tolist(), order, period)).argsort()
    assert torch.equal(fast.index, (place if order == "inputs" else torch.arange(n)) // period)


def test_equals_the_slow_reference_on_a_codebook():
    W, H = problem(160, 12)
    assert alike(solve(W, H, codebook(32), Plan(sweeps=0)).weights(), slow_gptq(W, H, codebook(32), 0.01, "groups"))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("plan", [PAPER, Plan(), Plan(order="inputs")])
def test_beats_rounding_to_nearest_and_reports_its_error(bits, symmetric, plan):
    W, H = problem(seed=bits)
    grid = IntGrid(bits, symmetric, period=32)
    solution = solve(W, H, grid, plan)
    ours = error(W, solution.weights(), H)
    assert ours < 0.8 * error(W, nearest(W, grid), H)
    assert float(solution.error.sum()) == pytest.approx(ours, rel=1e-2)
    assert float(solution.energy.sum()) == pytest.approx(error(W, 0 * W, H), rel=1e-3)
    assert int(solution.codes.max()) <= grid.top
    assert 1 <= int(solution.steps.fields[0].min()) <= int(solution.steps.fields[0].max()) <= grid.top


def test_every_refinement_lowers_the_error():
    W, H = problem(256, 64, tokens=2000, seed=9)
    plain = solve(W, H, IntGrid(3, candidates=1), PAPER)
    searched = solve(W, H, IntGrid(3), PAPER)
    swept = solve(W, H, IntGrid(3), Plan(order="none"))
    errors = [float(s.error.sum()) for s in (plain, searched, swept)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.9 * errors[1]


def slow_sweep(W, H, Q, grid, steps):
    """Each code again, given all others, and each group's scale behind its codes: one at a time in float64."""
    H = damped(H.double(), RIDGE)
    W, Q, codes = W.double(), Q.double().clone(), torch.empty(Q.shape, dtype=torch.uint8)
    levels = torch.arange(grid.top + 1.0) if grid.levels is None else grid.levels
    scale, offset = (t.double().clone() for t in steps[:2])
    for i in range(len(W)):
        group = i // grid.period
        points = levels.double()[:, None] * scale[group] + offset[group]
        best = Q[i] - H[i] @ (Q - W) / H[i, i]
        codes[i] = (points - best).abs().argmin(0)
        Q[i] = points.gather(0, codes[i : i + 1].long())[0]
        if isinstance(grid, IntGrid) and (i + 1) % grid.period == 0:
            part = slice(i + 1 - grid.period, i + 1)
            C = codes[part].double() - steps.fields[0][group]
            for column in range(W.shape[1]):
                rest = Q[:, column] - W[:, column]
                rest[part] -= Q[part, column]  # what is left to the group: minimise (C s + rest)ᵀ H (C s + rest)
                direction = H[:, part] @ C[:, column]
                scale[group, column] = -(direction @ rest) / (direction[part] @ C[:, column])
            scale[group] = stored_half(scale[group].float()).double()
            offset[group] = -steps.fields[0][group] * scale[group]
            Q[part] = C * scale[group]
    return codes, scale


@pytest.mark.parametrize("grid", [codebook(32), IntGrid(3, period=32), IntGrid(2, symmetric=False, period=64)])
def test_a_sweep_equals_the_slow_one(grid):
    W, H = problem(192, 16, seed=3)
    before = solve(W, H, grid, PAPER)
    codes, scale = slow_sweep(W, H, before.weights(), grid, before.steps)
    after = solve(W, H, grid, Plan(order="none", sweeps=1))
    assert (codes != before.codes).float().mean() > 0.01
    assert (codes == after.codes).float().mean() > 0.99
    assert ((scale / after.steps.scale - 1).abs() < 2e-3).double().mean() > 0.9


@pytest.mark.parametrize(("kind", "slack"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-3)])
@pytest.mark.parametrize("order", ["none", "groups"])
def test_sweeps_never_raise_the_error(kind, slack, order, monkeypatch):
    """But for rounding, where gradients are computed in bfloat16."""
    monkeypatch.setattr(solver, "dtype", lambda: kind)
    for seed in range(8):
        W, H = problem(160, 6, tokens=200, seed=seed)
        found = [solve(W, H, codebook(32, 8), Plan(order=order, sweeps=sweeps)).weights() for sweeps in range(5)]
        errors = [error(W, Q, damped(H, RIDGE)) for Q in found]
        assert all(after <= before * (1 + slack) for before, after in pairwise(errors))
        assert errors[-1] < errors[0]


def streams(n=96, tokens=600, seed=1):
    """Inputs of the float model, and what they are behind quantized layers."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, n, generator=g) @ torch.randn(n, n, generator=g) / n**0.5
    shift = torch.randn(n, n, generator=g) * 0.3 / n**0.5
    return x, x + x @ shift + 0.1 * torch.randn(tokens, n, generator=g)


def test_drift_aims_at_the_float_model():
    x, actual = streams()
    W, _ = problem()
    H, K = actual.T @ actual / len(x), actual.T @ (x - actual) / len(x)
    grid = IntGrid(4, candidates=1, period=32)
    target = W.double() + torch.linalg.inv(damped(H.double(), DRIFT_RIDGE)) @ K.double() @ W.double()
    with_drift = solve(W, H, grid, PAPER, drift=K)
    assert alike(with_drift.weights(), slow_gptq(target, H, grid, 0.01))
    for plan in (PAPER, Plan(), Plan(order="inputs")):
        missed = [
            float((x @ W - actual @ solve(W, H, IntGrid(4, period=32), plan, drift=drift).weights()).square().sum())
            for drift in (None, K)
        ]
        assert missed[1] < 0.7 * missed[0]


@given(st.integers(1, 6), st.sampled_from([1, 4, 32]), st.integers(0, 10))
def test_order_keeps_groups_together(groups, size, seed):
    diagonal = torch.rand(groups * size, generator=torch.Generator().manual_seed(seed))
    order = importance_order(diagonal, size)
    assert order.tolist() == slow_order(diagonal.tolist(), "groups", size)
    for chunk in order.view(groups, size):
        assert len({int(i) // size for i in chunk}) == 1


def test_damping_heals_what_is_not_positive_definite_and_says_so():
    W, H = problem(n=32, tokens=64)
    H = H - 0.3 * H.diagonal().mean() * torch.eye(32)
    solution = solve(W, H, IntGrid(4, period=32))
    assert solution.damp > 0.01
    assert solution.weights().isfinite().all()
    with pytest.raises(HoldfastError, match="not positive definite"):
        inverse_factor(-torch.eye(8), 0.01)


@pytest.mark.parametrize("plan", [PAPER, Plan(), Plan(order="inputs")])
def test_dead_inputs_keep_their_nearest_code_and_do_not_disturb(plan):
    W, H = problem(n=64, seed=4)
    H[5] = H[:, 5] = 0
    calm, loud = W.clone(), W.clone()
    loud[5] = 3.0
    grid = IntGrid(4, period=32)
    quiet, solution = solve(calm, H, grid, plan), solve(loud, H, grid, plan)
    live = torch.arange(64) != 5
    assert (solution.codes == quiet.codes)[live].float().mean() > (0.999 if plan is PAPER else 0.9)
    assert float(solution.error.sum()) < 1.1 * float(quiet.error.sum())
    miss = (quiet.weights() - W)[5].abs() / quiet.steps.scale[quiet.index[5]].abs()
    inside = (quiet.codes[5] > 0) & (quiet.codes[5] < grid.top)
    assert bool((miss[inside] <= 0.501).all())


def test_a_layer_that_never_got_input_is_rounded_to_nearest():
    W, _ = problem(n=64)
    grid = IntGrid(4, period=32)
    solution = solve(W, torch.zeros(64, 64), grid, Plan())
    assert error(W, solution.weights(), torch.eye(64)) < 1.1 * error(W, nearest(W, grid), torch.eye(64))


def test_stacked_matrices_equal_separate_ones_and_split():
    W, H = problem(n=128, out=48)
    whole = solve(W, H, IntGrid(4, period=64))
    parts = whole.split([16, 32])
    for part, w in zip(parts, W.split([16, 32], dim=1), strict=True):
        alone = solve(w.contiguous(), H, IntGrid(4, period=64))
        assert (part.codes == alone.codes).float().mean() > 0.999
        assert part.steps.fields[0].shape == alone.steps.fields[0].shape
    assert torch.equal(torch.cat([part.weights() for part in parts], 1), whole.weights())
    assert torch.equal(torch.cat([part.error for part in parts]), whole.error)


def test_repeats_run_to_run_and_hardly_depends_on_threads():
    W, H = problem(n=256, out=1100, seed=5)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            first, second = (solve(W, H, IntGrid(3, period=64)) for _ in range(2))
            assert torch.equal(first.codes, second.codes)
            assert torch.equal(first.weights(), second.weights())
            found.append(first)
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert (other.codes == found[0].codes).float().mean() >= 0.999
        assert float(other.error.sum()) == pytest.approx(float(found[0].error.sum()), rel=1e-3)
