"""The upper Cholesky factor of a damped Hessian's inverse, in place: two matrices are held, not six."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from compress.errors import HoldfastError
from compress.model.compute import exact_products

if TYPE_CHECKING:
    import torch

MAX_DAMP = 10.0
LEAF = 512


class Factor(NamedTuple):
    """U with H⁻¹ = Uᵀ U for the damped H, and the damping it took (a fraction of the mean diagonal)."""

    upper: torch.Tensor
    damp: float


def inverse_factor(H: torch.Tensor, damp: float) -> Factor:
    """U for H + damp · mean(diag H) · I, with ten times the damping until H is positive definite.

    With rows and columns reversed, H = R Rᵀ (R upper triangular), so H⁻¹ = R⁻ᵀ R⁻¹ and U = R⁻¹:
    one Cholesky factorisation and one triangular inverse, both in full float32 products.
    Raises HoldfastError if no damping up to MAX_DAMP heals it.
    """
    mean = H.diagonal().mean()
    with exact_products():
        while damp <= MAX_DAMP:
            L = H.flip(0, 1)
            L.diagonal().add_(damp * mean)
            if cholesky_(L):
                invert_lower_(L)
                return Factor(reverse_(L), damp)
            damp = max(damp * 10, 1e-3)
    raise HoldfastError(
        "the Hessian is not positive definite under any damping", next="calibrate again on more and cleaner text"
    )


def cholesky_(A: torch.Tensor) -> bool:
    """Overwrite symmetric A with its lower factor, halves by halves; False if A is not positive definite."""
    import torch

    n = A.shape[0]
    if n <= LEAF:
        lower, info = torch.linalg.cholesky_ex(A)
        A.copy_(lower)
        return int(info) == 0 and bool(lower.isfinite().all())
    m = _middle(n)
    if not cholesky_(A[:m, :m]):
        return False
    below = torch.linalg.solve_triangular(A[:m, :m].T, A[m:, :m], upper=True, left=False)
    A[m:, :m] = below
    A[:m, m:] = 0
    A[m:, m:].addmm_(below, below.T, alpha=-1)
    return cholesky_(A[m:, m:])


def invert_lower_(L: torch.Tensor) -> None:
    """Overwrite a lower triangular matrix with its inverse: [[A, 0], [B, C]]⁻¹ = [[A⁻¹, 0], [−C⁻¹ B A⁻¹, C⁻¹]]."""
    import torch

    n = L.shape[0]
    if n <= LEAF:
        eye = torch.eye(n, dtype=L.dtype, device=L.device)
        L.copy_(torch.linalg.solve_triangular(L, eye, upper=False))
        return
    m = _middle(n)
    invert_lower_(L[:m, :m])
    invert_lower_(L[m:, m:])
    L[m:, :m] = (L[m:, m:] @ (L[m:, :m] @ L[:m, :m])).neg_()


def reverse_(A: torch.Tensor) -> torch.Tensor:
    """Reverse rows and columns of a contiguous matrix in place."""
    flat = A.view(-1)
    size = flat.numel()
    for low in range(0, size // 2, 1 << 22):
        high = min(low + (1 << 22), size // 2)
        front = flat[low:high].flip(0)
        flat[low:high] = flat[size - high : size - low].flip(0)
        flat[size - high : size - low] = front
    return A


def _middle(n: int) -> int:
    return -(-n // 2 // 64) * 64
