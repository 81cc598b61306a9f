"""The factorisation in place against torch.linalg in float64, at sizes around the leaves of the recursion."""

import pytest
import torch
from problems import damped

from compress.calibrate.factor import LEAF, cholesky_, inverse_factor, invert_lower_, reverse_

SIZES = [1, LEAF - 1, LEAF, LEAF + 1, 1100]


def hessian(n):
    g = torch.Generator().manual_seed(n)
    x = torch.randn(2 * n, n, generator=g, dtype=torch.float64) * torch.rand(n, generator=g, dtype=torch.float64)
    return x.T @ x / (2 * n) + 0.01 * torch.eye(n, dtype=torch.float64)


@pytest.mark.parametrize("n", SIZES)
def test_pieces_equal_linalg(n):
    H = hessian(n)
    L = H.clone()
    assert cholesky_(L)
    torch.testing.assert_close(L, torch.linalg.cholesky(H))
    inverse = L.clone()
    invert_lower_(inverse)
    torch.testing.assert_close(inverse, torch.linalg.inv(L))
    assert torch.equal(inverse, inverse.tril())
    assert torch.equal(reverse_(H.clone()), H.flip(0, 1))


@pytest.mark.parametrize("n", SIZES)
def test_factor_is_the_upper_cholesky_of_the_inverse(n):
    H = hessian(n)
    expected = torch.linalg.cholesky(torch.linalg.inv(damped(H, 0.01)), upper=True)
    kept = H.clone()
    U, damp = inverse_factor(H, 0.01)
    assert damp == 0.01
    torch.testing.assert_close(U, expected)
    assert torch.equal(U, U.triu())
    assert torch.equal(H, kept)
    single = inverse_factor(H.float(), 0.01).upper
    assert float((single - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("n", [64, 700])
@pytest.mark.parametrize("at", [0, -1])
def test_what_is_not_positive_definite_is_told(n, at):
    H = hessian(n)
    H[at, at] = -1.0
    assert not cholesky_(H.clone())
    H[at, at] = float("nan")
    assert not cholesky_(H.clone())
    H = hessian(n)
    H[at, at] = -0.1 * float(H.diagonal().mean())
    U, damp = inverse_factor(H, 0.01)
    assert damp > 0.1
    torch.testing.assert_close(U.T @ U @ damped(H, damp), torch.eye(n, dtype=torch.float64))
