"""Masks and the SparseGPT solver against slow references."""

import pytest
import torch

from compress.calibrate.factor import inverse_factor
from compress.errors import UsageError
from compress.prune.sparse_math import (
    PATTERNS,
    Pattern,
    check_pattern,
    choose_mask,
    obs_scores,
    sparsegpt,
    sparsity,
    wanda_scores,
)


@pytest.fixture
def layer():
    """W [in, out], and H with its factor U."""
    g = torch.Generator().manual_seed(1)
    X = torch.randn(900, 136, generator=g) @ torch.randn(136, 136, generator=g)
    H = X.T @ X / 900
    return torch.randn(136, 6, generator=g), H, inverse_factor(H, 0.01).upper


def test_the_lowest_scores_of_each_output_go():
    scores = torch.tensor([[4.0, 1.0], [3.0, 2.0], [2.0, 3.0], [1.0, 4.0], [9.0, 9.0]])
    assert choose_mask(scores, 0.4).T.tolist() == [[False, False, True, True, False], [True, True, False, False, False]]
    assert choose_mask(torch.ones(4, 1), 0.5).flatten().tolist() == [True, True, False, False]
    assert not choose_mask(scores, 0.0).any()
    assert choose_mask(scores, 1.0).all()


def test_the_lowest_scores_of_the_matrix_go():
    scores = torch.tensor([[1.0, 9.0], [2.0, 8.0], [3.0, 7.0], [4.0, 6.0]])
    assert choose_mask(scores, 0.5, per_output=False).T.tolist() == [[True] * 4, [False] * 4]


@pytest.mark.parametrize("pattern", PATTERNS.values())
def test_every_group_of_a_pattern_loses_its_lowest(pattern):
    scores = torch.rand(16, 5, generator=torch.Generator().manual_seed(0))
    mask = choose_mask(scores, pattern)
    for output in range(5):
        for start in range(0, 16, pattern.of):
            group = scores[start : start + pattern.of, output].tolist()
            lowest = sorted(group)[: pattern.zeros]
            assert mask[start : start + pattern.of, output].tolist() == [score in lowest for score in group]


def test_a_pattern_must_divide_the_inputs():
    check_pattern(16, Pattern(4, 8), "x")
    with pytest.raises(UsageError, match=r"mlp.down_proj has 12 inputs, which 8 does not divide"):
        check_pattern(12, Pattern(4, 8), "mlp.down_proj")


def test_wanda_is_the_weight_times_the_norm_of_its_input():
    g = torch.Generator().manual_seed(0)
    X, W = torch.randn(50, 4, generator=g), torch.randn(4, 3, generator=g)
    slow = torch.tensor([[abs(float(W[i, o])) * float(X[:, i].norm()) for o in range(3)] for i in range(4)])
    torch.testing.assert_close(wanda_scores(W, X.square().mean(0)) * 50**0.5, slow)


def slow_sparsegpt(W, H, target):
    """Weight by weight: the inverse of the Hessian of the inputs that are left, recomputed at every input."""
    W, H = W.double().clone(), H.double()
    n = W.shape[0]
    mask = torch.zeros(W.shape, dtype=torch.bool)
    step = target.of if isinstance(target, Pattern) else 128
    for i in range(n):
        if i % step == 0:
            rows = range(i, min(i + step, n))
            pivots = [torch.linalg.inv(H[j:, j:])[0, 0] for j in rows]
            scores = torch.stack([W[j] ** 2 / pivot for j, pivot in zip(rows, pivots, strict=True)])
            mask[i : i + step] = choose_mask(scores, target, per_output=False)
        inverse = torch.linalg.inv(H[i:, i:])
        for o in range(W.shape[1]):
            if mask[i, o]:
                W[i:, o] -= W[i, o] / inverse[0, 0] * inverse[:, 0]
                W[i, o] = 0.0
    return W.float()


@pytest.mark.parametrize("target", [0.5, 0.7, Pattern(2, 4), Pattern(4, 8)])
def test_sparsegpt_equals_the_slow_elimination(layer, target):
    W, H, U = layer
    damped = H + 0.01 * H.diagonal().mean() * torch.eye(len(H))
    found = sparsegpt(W, U, target)
    torch.testing.assert_close(found, slow_sparsegpt(W, damped, target), rtol=1e-3, atol=1e-3)
    assert sparsity(found) == pytest.approx(target if isinstance(target, float) else 0.5, abs=0.005)


def output_error(pruned, W, H):
    D = pruned - W
    return float((H @ D * D).sum())


def test_the_updates_of_sparsegpt_lower_the_error_of_its_mask(layer):
    W, H, U = layer
    pruned = sparsegpt(W, U, 0.5)
    assert output_error(pruned, W, H) < 0.8 * output_error(W.masked_fill(pruned == 0, 0.0), W, H)


def test_wanda_heeds_the_size_of_the_inputs(layer):
    W, H, _ = layer
    scale = torch.logspace(-1, 1, len(H))
    H = H * scale[:, None] * scale
    by_magnitude = W.masked_fill(choose_mask(W.abs(), 0.5), 0.0)
    by_wanda = W.masked_fill(choose_mask(wanda_scores(W, H.diagonal()), 0.5), 0.0)
    assert output_error(by_wanda, W, H) < 0.5 * output_error(by_magnitude, W, H)


def test_obs_scores_are_the_errors_of_single_removals(layer):
    W, _, U = layer
    torch.testing.assert_close(obs_scores(W, U.diagonal())[5, 2], (W[5, 2] / U[5, 5]) ** 2)
