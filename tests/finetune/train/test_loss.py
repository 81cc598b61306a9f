"""The loss at labelled positions against cross-entropy over everything."""

import pytest
import torch
from torch.nn import functional

from compress.model import head_loss
from finetune.train.loss import IGNORED, label_loss


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("scores", [12 << 20, 20 * 50])
def test_value_and_gradients_are_those_of_cross_entropy(monkeypatch, cap, scores):
    monkeypatch.setattr(head_loss, "SCORES", scores)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 31, 24, generator=draw).bfloat16().float().requires_grad_()
    head = torch.randn(50, 24, generator=draw).bfloat16().float().requires_grad_()
    labels = torch.randint(0, 50, (4, 31), generator=draw)
    labels[torch.rand(4, 31, generator=draw) < 0.4] = IGNORED
    loss = label_loss(hidden, head, labels, cap)
    found = torch.autograd.grad(loss, (hidden, head))

    wide, weight = hidden.double(), head.double()
    scored = wide[:, :-1] @ weight.T
    scored = cap * (scored / cap).tanh() if cap else scored
    whole = functional.cross_entropy(
        scored.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )
    assert float(loss.detach()) == pytest.approx(float(whole.detach()), rel=2e-3)
    for mine, theirs in zip(found, torch.autograd.grad(whole, (hidden, head)), strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < 1e-2


def test_no_label_no_loss():
    hidden = torch.randn(2, 5, 8, requires_grad=True)
    none = label_loss(hidden, torch.randn(9, 8), torch.full((2, 5), IGNORED))
    none.backward()
    assert float(none.detach()) == 0
    assert not hidden.grad.any()
