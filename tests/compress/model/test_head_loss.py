"""Losses at the head, piece by piece, against their definitions over everything."""

import pytest
import torch
from torch.nn import functional

from compress.model import head_loss


@pytest.fixture(params=[12 << 20, 20 * 50], ids=["at once", "in pieces"])
def given(request, monkeypatch):
    """Head's input ``[31, 24]`` of student and teacher, their heads ``[50, 24]``, targets."""
    monkeypatch.setattr(head_loss, "SCORES", request.param)
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(31, 24, generator=draw) for _ in range(2))
    heads = (torch.randn(50, 24, generator=draw) for _ in range(2))
    targets = torch.randint(0, 50, (31,), generator=draw)
    return student.requires_grad_(), next(heads).requires_grad_(), teacher, next(heads), targets


def scores(hidden, head, cap):
    found = hidden.double() @ head.double().T
    return cap * (found / cap).tanh() if cap else found


def agree(loss, wanted, leaves, dtype):
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=tolerance)
    slopes = (torch.autograd.grad(value, leaves) for value in (loss, wanted))
    for mine, theirs in zip(*slopes, strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cap", [None, 5.0])
def test_labels(given, cap, dtype):
    student, head, _, _, targets = given
    wanted = functional.cross_entropy(scores(student, head, cap), targets, reduction="sum")
    agree(head_loss.label_loss(student.to(dtype), head, targets, cap), wanted, (student, head), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("temperature", "cap"), [(1.0, None), (2.0, None), (2.0, 5.0)])
def test_distillation(given, temperature, cap, dtype):
    student, head, teacher, theirs, _ = given
    p = (scores(teacher, theirs, cap) / temperature).softmax(-1)
    q = (scores(student, head, cap) / temperature).softmax(-1)
    wanted = temperature**2 * (p * (p / q).log()).sum()
    loss = head_loss.distillation_loss(student.to(dtype), head, teacher.to(dtype), theirs, temperature, cap)
    agree(loss, wanted, (student, head), dtype)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(given):
    student, head, *_ = given
    loss = head_loss.distillation_loss(student, head, student.detach(), head.detach(), 2.0)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-4)
