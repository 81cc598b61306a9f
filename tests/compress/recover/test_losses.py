"""Losses against their definitions, and the learning rate's shape."""

import pytest
import torch

from compress.model import head_loss
from compress.recover import costs
from compress.recover.losses import hidden_loss, learning_rate


def test_hidden_states_are_compared_whatever_their_size():
    g = torch.Generator().manual_seed(0)
    s, t = torch.randn(3, 8, generator=g), torch.randn(3, 8, generator=g)
    units = [x / x.square().mean(1, keepdim=True).sqrt() for x in (s, t)]
    torch.testing.assert_close(hidden_loss([s], [t]), (units[0] - units[1]).square().mean(), rtol=1e-4, atol=1e-5)
    assert float(hidden_loss([s, t], [7 * s, 0.1 * t])) == pytest.approx(0, abs=1e-8)
    torch.testing.assert_close(hidden_loss([s, s], [t, s]), hidden_loss([s], [t]) / 2)


def test_the_rate_warms_up_and_decays():
    rates = [learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[0] < 0.3
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.11


def test_the_estimate_knows_how_many_scores_are_held():
    assert costs.SCORES == head_loss.SCORES
