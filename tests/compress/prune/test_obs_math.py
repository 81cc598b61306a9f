"""Optimal Brain Surgeon on columns against least squares on the inputs themselves."""

import pytest
import torch

from compress.prune import obs_math
from compress.prune.obs_math import compensated, eliminate, output_error, removal_cost, survivors


@pytest.fixture
def layer():
    """Correlated inputs X [tokens, in], W [out, in] and H = mean of x xᵀ."""
    g = torch.Generator().manual_seed(3)
    X = torch.randn(400, 12, generator=g) @ torch.randn(12, 12, generator=g)
    return X, torch.randn(5, 12, generator=g), X.T @ X / 400


def least_squares(X, W, keep):
    """The best columns for the kept inputs and the mean squared error that is left."""
    fit = torch.linalg.lstsq(X[:, keep].double(), (X @ W.T).double()).solution
    return fit.T.float(), float((X[:, keep].double() @ fit - (X @ W.T).double()).square().sum() / len(X))


def test_compensation_is_least_squares(layer):
    X, W, H = layer
    keep = torch.tensor([0, 2, 3, 7, 11])
    fit, error = least_squares(X, W, keep)
    found = compensated(W, H, keep, damp=0.0)
    torch.testing.assert_close(found, fit, rtol=1e-3, atol=1e-3)
    energy = float((X @ W.T).square().sum() / len(X))
    assert output_error(W, H, keep, found) == pytest.approx(error / energy, rel=1e-3)
    assert output_error(W, H, keep, W[:, keep]) > output_error(W, H, keep, found)


def test_damping_pulls_towards_the_weights_as_they_were(layer):
    X, W, H = layer
    keep = torch.arange(6)
    damp = 0.3 * float(H.diagonal()[:6].mean())
    rows = torch.cat([X[:, :6], (len(X) * damp) ** 0.5 * torch.eye(6)])
    wanted = torch.cat([X @ W.T, (len(X) * damp) ** 0.5 * W[:, :6].T])
    ridge = torch.linalg.lstsq(rows, wanted).solution.T
    torch.testing.assert_close(compensated(W, H, keep, damp=0.3), ridge, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [1, 3])
def test_the_cost_of_a_group_is_the_error_left_by_least_squares(layer, size):
    X, W, H = layer
    costs = removal_cost(W, torch.linalg.inv(H.double()).float(), size)
    for group in range(12 // size):
        keep = torch.tensor([i for i in range(12) if i // size != group])
        assert float(costs[group]) == pytest.approx(least_squares(X, W, keep)[1], rel=1e-2)


def test_elimination_keeps_the_inverse_of_what_is_left(layer):
    X, W, H = layer
    keep = torch.tensor([1, 4, 5, 9])
    left, P = eliminate(W, torch.linalg.inv(H), keep)
    torch.testing.assert_close(P, torch.linalg.inv(H[keep][:, keep]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(left, least_squares(X, W, keep)[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [1, 3])
def test_survivors_are_those_of_a_greedy_search(layer, size):
    X, W, H = layer
    alive = list(range(12 // size))
    while len(alive) > 2:
        left = {group: [g * size + i for g in alive if g != group for i in range(size)] for group in alive}
        errors = {group: least_squares(X, W, torch.tensor(columns))[1] for group, columns in left.items()}
        alive.remove(min(alive, key=errors.__getitem__))
    assert survivors(W, H, 2, size=size, damp=0.0).tolist() == alive


def test_rounds_end_at_the_count_asked_for(layer, monkeypatch):
    _, W, H = layer
    monkeypatch.setattr(obs_math, "ROUNDS", 2)
    kept = survivors(W, H, 5)
    assert len(kept) == 5
    assert kept.tolist() == sorted(set(kept.tolist()))


def test_a_dead_input_goes_first(layer):
    _, W, H = layer
    H[4], H[:, 4] = 0.0, 0.0
    assert 4 not in survivors(W, H, 11).tolist()
