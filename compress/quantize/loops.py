"""The inner loops of the solver: scale search, error feedback and coordinate descent over a few hundred inputs.

Each function works on tensors of any device; on a CPU the compiled kernels do the same faster.
``sub`` int32 ``[rows]`` names the row of ``scale`` and ``offset`` that each input takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from compress.quantize import kernels

if TYPE_CHECKING:
    import torch


class Rounding(NamedTuple):
    """How a block of inputs is rounded: everything but the weights."""

    sub: torch.Tensor
    """int32 ``[rows]``."""
    scale: torch.Tensor
    """float32 ``[any, out]``."""
    offset: torch.Tensor
    """float32, as ``scale``."""
    top: int
    levels: torch.Tensor | None = None
    keep: torch.Tensor | None = None
    """bool ``[rows, out]``: False where the weight must be zero."""

    def round(self, i: int, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and values of input i for the weights ``w`` ``[out]``."""
        import torch

        scale, offset = self.scale[self.sub[i]], self.offset[self.sub[i]]
        wanted = w if self.keep is None else torch.where(self.keep[i], w, 0.0)
        codes = nearest((wanted - offset) / scale, self.top, self.levels)
        level = codes.float() if self.levels is None else self.levels[codes.long()]
        return codes, level * scale + offset

    def pointers(self, codes: torch.Tensor) -> list[int | None]:
        """The kernels' arguments ``sub … codes``."""
        where = [None if t is None else t.data_ptr() for t in (self.levels, self.keep)]
        return [self.sub.data_ptr(), self.scale.data_ptr(), self.offset.data_ptr(), self.top, *where, codes.data_ptr()]


def nearest(x: torch.Tensor, top: int, levels: torch.Tensor | None) -> torch.Tensor:
    """Codes uint8 whose levels are nearest to ``x``."""
    import torch

    if levels is None:
        return x.round().clamp_(0, top).to(torch.uint8)
    return torch.bucketize(x, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)


def fit(
    w: torch.Tensor, h: torch.Tensor, top: int, middle: int, candidates: int, shrink: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point, float32 ``[out]``, of ``w`` ``[rows, out]``.

    Of ``candidates`` ranges, shrunken down to ``shrink``, the one whose least-squares scale leaves the smallest
    Σ hᵢ (wᵢ − scale (codeᵢ − zero))². ``middle`` > 0 fixes the zero point there; inputs with hᵢ = 0 do not count.
    """
    import torch

    scale, zero = w.new_zeros(w.shape[1]), w.new_zeros(w.shape[1])
    lib = kernels.usable(w, h)
    if lib:
        rest = (top, middle, candidates, shrink, scale.data_ptr(), zero.data_ptr())
        kernels.spread(
            lambda first, last: lib.holdfast_fit(
                w.data_ptr(), w.stride(0), w.shape[0], h.data_ptr(), first, last, *rest
            ),
            w.shape[1],
        )
        return scale, zero
    w, weight = w[h > 0], h[h > 0][:, None]
    low, high = w.amin(0).clamp_max(0), w.amax(0).clamp_min(0)
    best = torch.full_like(scale, -1.0)
    for fraction in torch.linspace(1.0, shrink, candidates).tolist():
        step, z = _range(low * fraction, high * fraction, top, middle)
        codes = torch.where(step.abs() > 1e-30, w / step, 0.0).add_(z).round_().clamp_(0, top).sub_(z)
        a, b = (weight * codes * w).sum(0), (weight * codes * codes).sum(0)
        gain = torch.where(b > 0, a * a / b, 0.0)
        better = gain > best
        best = torch.where(better, gain, best)
        scale = torch.where(better, torch.where(b > 0, a / b, step), scale)
        zero = torch.where(better, z, zero)
    return scale, zero


def _range(low: torch.Tensor, high: torch.Tensor, top: int, middle: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    if middle:
        reach = torch.where(high > -low, -high, -low)
        return reach / (middle - 0.25), torch.full_like(low, middle)
    step = (high - low) / top
    return step, torch.where(step > 1e-30, -low / step, 0.0).round_().clamp_(1, top)


def feed(W: torch.Tensor, U: torch.Tensor, how: Rounding, codes: torch.Tensor, E: torch.Tensor) -> None:
    """Round the inputs of ``W`` ``[rows, out]`` in order; eᵢ = (wᵢ − ŵᵢ) / Uᵢᵢ goes to ``E`` and to the later inputs.

    ``U`` ``[rows, rows]`` upper triangular. W itself may keep its old values.
    """
    lib = kernels.usable(W, U, how.scale, E)
    if lib and W.shape[0] <= kernels.MAX_ROWS:
        kernels.spread(
            lambda first, last: lib.holdfast_feed(
                W.data_ptr(), W.stride(0), W.shape[0], U.data_ptr(), U.stride(0), first, last,
                *how.pointers(codes), E.data_ptr(),
            ),
            W.shape[1],
        )  # fmt: skip
        return
    for i in range(W.shape[0]):
        codes[i], value = how.round(i, W[i])
        E[i] = (W[i] - value) / U[i, i]
        W[i + 1 :].addr_(U[i, i + 1 :], E[i], alpha=-1)


def descend(Q: torch.Tensor, G: torch.Tensor, H: torch.Tensor, how: Rounding, codes: torch.Tensor) -> None:
    """One sweep of coordinate descent on tr((Q − W)ᵀ H (Q − W)) over the inputs of ``Q`` ``[rows, out]``.

    ``G`` = H (Q − W) of these inputs, used up; ``H`` ``[rows, rows]``. Q and codes are brought up to date.
    """
    lib = kernels.usable(Q, G, H, how.scale)
    if lib and Q.shape[0] <= kernels.MAX_ROWS:
        kernels.spread(
            lambda first, last: lib.holdfast_descend(
                Q.data_ptr(), G.data_ptr(), Q.stride(0), Q.shape[0], H.data_ptr(), H.stride(0), first, last,
                *how.pointers(codes),
            ),
            Q.shape[1],
        )  # fmt: skip
        return
    for i in range(Q.shape[0]):
        codes[i], value = how.round(i, Q[i] - G[i] / H[i, i])
        G[i + 1 :].addr_(H[i + 1 :, i], value - Q[i])
        Q[i] = value
