"""From a row of logits to the next token."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import HoldfastError, UsageError

if TYPE_CHECKING:
    from .backends.base import Constraint, Rows

SEEDS = 2**64
SLOW = 1.0
"""Seconds of processor time that a grammar may take for one token: everybody waits for it."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    ``temperature`` 0 takes the most likely token; above, any positive number works, a tiny one like 0. ``seed`` is any
    integer; seeds that are equal modulo 2^64 give the same tokens, so -1 is a seed like others. None: at random.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


class Sampler:
    """One request's choice of tokens; with a seed the same logits give the same tokens."""

    def __init__(self, sampling: Sampling, constraint: Constraint | None) -> None:
        self._how = sampling
        self._constraint = constraint
        seed = None if sampling.seed is None else sampling.seed % SEEDS
        self._random = np.random.default_rng(seed) if sampling.temperature > 0 else None
        self.plain = constraint is None and self._random is None
        """Whether the choice is simply the largest logit (the scheduler then takes it for all rows at once)."""

    def pick(self, row: Rows) -> int:
        """The next token for logits ``row`` float32 [n_vocab].

        Raises UsageError where the grammar allows no token or is too slow, HoldfastError for logits that are no
        numbers.
        """
        started = time.thread_time()
        token = self._draw(row)
        if self._constraint is not None and not self._constraint.permits(token):
            allowed = self._constraint.allow(row)
            if allowed.max() == -np.inf:
                raise UsageError("the grammar allows no token here", next="check the grammar or the JSON schema")
            token = self._draw(allowed)
            _check_pace(started)
        return token

    def _draw(self, row: Rows) -> int:
        if self._random is None:
            return int(row.argmax())
        weights = self._weights(row)
        if self._how.top_p >= 1:
            total = np.cumsum(weights)  # sorting a vocabulary of 50,000 takes ten times as long as the rest
            at = int(np.searchsorted(total, self._random.random() * total[-1], side="right"))
            return min(at, len(total) - 1)
        order = np.argsort(-weights, kind="stable")
        kept = int(np.searchsorted(np.cumsum(weights[order]), self._how.top_p)) + 1
        nucleus = order[:kept]
        return int(self._random.choice(nucleus, p=weights[nucleus] / weights[nucleus].sum()))

    def _weights(self, row: Rows) -> Any:
        """float64 [n_vocab] that sum to 1. The largest logit is taken off before the division, so that no
        temperature, however small, makes infinities of different tokens."""
        with np.errstate(over="ignore", invalid="ignore"):
            above = row.astype(np.float64) - float(row.max())
            weights = np.exp(above / self._how.temperature)
        total = weights.sum()
        if not total >= 1:
            raise HoldfastError("the model's logits are no numbers", next="check the model with `holdfast verify`")
        return weights / total

    def accept(self, token: int) -> None:
        """Tell the grammar that ``token`` was emitted."""
        if self._constraint is not None:
            started = time.thread_time()
            self._constraint.accept(token)
            _check_pace(started)

    def close(self) -> None:
        """Free the grammar."""
        if self._constraint is not None:
            self._constraint.close()
            self._constraint = None


def _check_pace(started: float) -> None:
    spent = time.thread_time() - started
    if spent > SLOW:
        raise UsageError(
            f"the grammar took {spent:.1f} s for one token", next="simplify the grammar or the JSON schema"
        )
