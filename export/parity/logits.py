"""How far a runtime's logits are from those of the very same weights in transformers.

What remains between the two is the runtime's own arithmetic. How much that may be is not a constant: it is measured on
the same prompts by rounding in torch as the runtime does (``noise.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

NOISE = 2.0
"""The runtime may be so many times as far from exact arithmetic as the same roundings in torch put it, on average …"""
PEAK = 4.0
"""… and at the worst position (measured on correct exports: docs/formats.md, Parity)."""
FLOOR = 2e-4
"""Least tolerance as a share of the logits' own spread: float32 sums in another order."""


def divergence(expected: Floats, got: Floats) -> Floats:
    """KL(expected ‖ got) per row in nats, from logits ``[n, V]``."""
    import torch

    p, q = (torch.log_softmax(torch.from_numpy(np.ascontiguousarray(row)), 1) for row in (expected, got))
    found: Floats = (p.exp() * (p - q)).sum(1).clamp_min(0).numpy()
    return found


@dataclass
class Gap:
    """How far two sets of logits are apart."""

    positions: int = 0
    squares: float = 0.0
    """Sum over positions of the mean squared difference."""
    own_squares: float = 0.0
    """The same of the first set's own spread."""
    largest_row: float = 0.0
    """Largest root mean square difference of one position."""
    largest: float = 0.0
    """Largest absolute difference of one logit."""
    kl: float = 0.0
    largest_kl: float = 0.0
    agree: int = 0
    where: tuple[int, int] = (0, 0)
    """Row and position of ``largest_row``."""

    def add(self, number: int, expected: Floats, got: Floats) -> None:
        """Count one row of prompt and reply."""
        import torch

        width = min(expected.shape[1], got.shape[1])
        a, b = (torch.from_numpy(np.ascontiguousarray(logits[:, :width])) for logits in (expected, got))
        a, b = (logits - logits.mean(1, keepdim=True) for logits in (a, b))  # a constant changes no probability
        apart = (a - b).square().mean(1).double().numpy()
        kl = divergence(a.numpy(), b.numpy())
        self.positions += len(a)
        self.squares += float(apart.sum())
        self.own_squares += float(a.square().mean(1).double().sum())
        self.largest = max(self.largest, float((a - b).abs().max()))
        self.kl += float(kl.sum(dtype=np.float64))
        self.largest_kl = max(self.largest_kl, float(kl.max()))
        self.agree += int((a.argmax(1) == b.argmax(1)).sum())
        worst = float(np.sqrt(apart.max()))
        if not worst <= self.largest_row:  # NaN counts as worse
            self.largest_row, self.where = worst, (number, int(apart.argmax()))

    @property
    def rms(self) -> float:
        """Root mean square difference of a logit."""
        return math.sqrt(self.squares / max(self.positions, 1))

    @property
    def own(self) -> float:
        """Root mean square of the first set around its means."""
        return math.sqrt(self.own_squares / max(self.positions, 1))

    def told(self) -> dict[str, float | int]:
        """For parity.json."""
        count = max(self.positions, 1)
        return {
            "positions": self.positions,
            "max_abs": _figure(self.largest),
            "rms": _figure(self.rms),
            "kl_mean": _figure(self.kl / count),
            "kl_max": _figure(self.largest_kl),
            "top1": round(self.agree / count, 5),
        }


def _figure(value: float) -> float:
    """Four significant digits: what is written down must not depend on the last bits of a sum."""
    return float(f"{value:.4g}") if math.isfinite(value) else 1e30
