"""From a row of logits to the next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .backends.base import Constraint, Rows


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. ``temperature`` 0 takes the most likely one."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


class Sampler:
    """One request's choice of tokens; with a seed the same logits give the same tokens."""

    def __init__(self, sampling: Sampling, constraint: Constraint | None) -> None:
        self._how = sampling
        self._constraint = constraint
        self._random = np.random.default_rng(sampling.seed) if sampling.temperature > 0 else None
        self.plain = constraint is None and self._random is None
        """Whether the choice is simply the largest logit (the scheduler then takes it for all rows at once)."""

    def pick(self, row: Rows) -> int:
        """The next token for logits ``row`` float32 [n_vocab]."""
        token = self._draw(row)
        if self._constraint is not None and not self._constraint.permits(token):
            token = self._draw(self._constraint.allow(row))
        return token

    def _draw(self, row: Rows) -> int:
        if self._random is None:
            return int(row.argmax())
        scaled = row.astype(np.float64) / self._how.temperature
        weights = np.exp(scaled - scaled.max())
        weights /= weights.sum()
        order = np.argsort(-weights, kind="stable")
        kept = int(np.searchsorted(np.cumsum(weights[order]), self._how.top_p)) + 1
        nucleus = order[:kept]
        return int(self._random.choice(nucleus, p=weights[nucleus] / weights[nucleus].sum()))

    def accept(self, token: int) -> None:
        """Tell the grammar that ``token`` was emitted."""
        if self._constraint is not None:
            self._constraint.accept(token)

    def close(self) -> None:
        """Free the grammar."""
        if self._constraint is not None:
            self._constraint.close()
            self._constraint = None
