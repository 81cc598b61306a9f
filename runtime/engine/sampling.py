"""From a row of logits to the next token."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import HoldfastError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .backends.base import Constraint, Rows

SEEDS = 2**64
SLOW = 1.0
"""Seconds of processor time that a grammar may take for one token: everybody waits for it."""
NEGLIGIBLE = 50.0
FEW = 512
"""So many of the likeliest tokens are sorted first; the whole vocabulary only where they do not hold the nucleus."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: penalties, temperature, then ``top_k``, ``top_p`` and ``min_p`` in that order.

    ``temperature`` 0 takes the most likely token; above, any positive number works, a tiny one like 0. ``top_k`` keeps
    so many of the likeliest tokens (0: all), ``top_p`` the likeliest that hold that probability together (Holtzman et
    al. 2020), ``min_p`` those at least that share as likely as the likeliest (Nguyen et al. 2024).
    ``presence_penalty`` is taken off the logit of every token of the reply so far, ``frequency_penalty`` once for each
    time it was said; ``repetition_penalty`` divides positive logits of the prompt's and the reply's tokens and
    multiplies negative ones (Keskar et al. 2019). ``seed`` is any integer; seeds that are equal modulo 2^64 give the
    same tokens, so -1 is a seed like others. None: at random.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0

    @property
    def penalises(self) -> bool:
        """Whether logits depend on what was said before."""
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1


class Sampler:
    """One request's choice of tokens; with a seed the same logits give the same tokens."""

    def __init__(self, sampling: Sampling, constraint: Constraint | None, prompt: Sequence[int] = ()) -> None:
        self._how = sampling
        self._constraint = constraint
        seed = None if sampling.seed is None else sampling.seed % SEEDS
        self._random = np.random.default_rng(seed) if sampling.temperature > 0 else None
        self._said: Counter[int] = Counter()
        self._seen = set(prompt) if sampling.repetition_penalty != 1 else set()
        self.plain = constraint is None and self._random is None and not sampling.penalises
        """Whether the choice is simply the largest logit (the scheduler then takes it for all rows at once)."""

    def pick(self, row: Rows) -> int:
        """The next token for logits ``row`` float32 [n_vocab].

        Raises UsageError where the grammar allows no token or is too slow, HoldfastError for logits that are no
        numbers.
        """
        started = time.thread_time()
        row = self._penalised(row) if self._how.penalises else row
        token = self._draw(row)
        if self._constraint is not None and not self._constraint.permits(token):
            allowed = self._constraint.allow(row)
            if allowed.max() == -np.inf:
                raise UsageError("the grammar allows no token here", next="check the grammar or the JSON schema")
            token = self._draw(allowed)
            _check_pace(started)
        return token

    def _penalised(self, row: Rows) -> Rows:
        how, row = self._how, row.copy()
        if self._seen:
            seen = np.fromiter(self._seen, np.int64, len(self._seen))
            logits = row[seen]
            row[seen] = np.where(logits > 0, logits / how.repetition_penalty, logits * how.repetition_penalty)
        if self._said:
            said = np.fromiter(self._said, np.int64, len(self._said))
            times = np.fromiter(self._said.values(), np.float32, len(self._said))
            row[said] -= how.presence_penalty + how.frequency_penalty * times
        return row

    def _draw(self, row: Rows) -> int:
        if self._random is None:
            return int(row.argmax())
        tokens, weights = self._weights(row)
        kept = self._kept(weights)
        sums = np.cumsum(weights[kept])
        at = int(np.searchsorted(sums, self._random.random() * sums[-1], side="right"))
        return int(tokens[kept[min(at, len(kept) - 1)]])

    def _kept(self, weights: NDArray[np.float64]) -> NDArray[np.int64]:
        """Which of the weights may be drawn."""
        how, least = self._how, self._how.min_p * float(weights.max())
        if not how.top_k and how.top_p == 1:
            return np.flatnonzero(weights >= least)
        order = self._likeliest(weights)
        if how.top_p < 1:
            sums = np.cumsum(weights[order])
            order = order[: int(np.searchsorted(sums, how.top_p * (sums[-1] if how.top_k else 1.0))) + 1]
        return order[weights[order] >= least]

    def _likeliest(self, weights: NDArray[np.float64]) -> NDArray[np.int64]:
        """Weights from the largest on, ties in their order: ``top_k`` of them, or at least what holds ``top_p``."""
        few = self._how.top_k or FEW
        likely = np.flatnonzero(weights >= np.partition(weights, -few)[-few]) if few < len(weights) else None
        if likely is None or (not self._how.top_k and weights[likely].sum() <= self._how.top_p):
            likely = np.arange(len(weights))
        order: NDArray[np.int64] = likely[np.argsort(-weights[likely], kind="stable")]
        return order[: self._how.top_k or None]

    def _weights(self, row: Rows) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Tokens and their weights, which sum to 1. The largest logit is taken off before the division, so that no
        temperature, however small, makes infinities of different tokens. What is less likely than e^-50 times the
        likeliest is left out: a whole vocabulary of it is less than the last bit of the sum."""
        top, temperature = float(row.max()), self._how.temperature
        if not np.isfinite(top):
            raise HoldfastError("the model's logits are no numbers", next="check the model with `holdfast verify`")
        tokens = np.flatnonzero(row >= np.float32(top - NEGLIGIBLE * temperature))
        with np.errstate(over="ignore"):
            weights = np.exp((row[tokens].astype(np.float64) - top) / temperature)
        found: NDArray[np.float64] = weights / weights.sum()
        return tokens, found

    def accept(self, token: int) -> None:
        """Note that ``token`` was emitted."""
        if self._how.penalises:
            self._said[token] += 1
            if self._how.repetition_penalty != 1:
                self._seen.add(token)
        if self._constraint is not None:
            started = time.thread_time()
            self._constraint.accept(token)
            _check_pace(started)

    def forced(self) -> list[int]:
        """Tokens that spell what the grammar leaves no choice about; empty without one."""
        return self._constraint.forced() if self._constraint is not None else []

    @property
    def complete(self) -> bool:
        """Whether the grammar lets nothing follow but the end."""
        return self._constraint is not None and self._constraint.complete

    def close(self) -> None:
        """Free the grammar."""
        if self._constraint is not None:
            self._constraint.close()
            self._constraint = None


class Chances:
    """What a token's probability was: of the model itself, before penalties, temperature and grammar."""

    def __init__(self, alternatives: int) -> None:
        self._alternatives = alternatives
        self.found: list[tuple[int, float, tuple[tuple[int, float], ...]]] = []
        """For each token of the reply: its id, its log probability, and the likeliest ids with theirs."""

    def note(self, row: Rows, token: int) -> None:
        """Add ``token``, chosen from logits ``row`` float32 [n_vocab]."""
        top = float(row.max())
        normaliser = top + float(np.log(np.exp(row - top).sum(dtype=np.float64)))
        best: list[tuple[int, float]] = []
        if self._alternatives:
            candidates = np.argpartition(-row, self._alternatives - 1)[: self._alternatives]
            order: Any = candidates[np.lexsort((candidates, -row[candidates]))]
            best = [(int(i), float(row[i]) - normaliser) for i in order]
        self.found.append((token, float(row[token]) - normaliser, tuple(best)))


def _check_pace(started: float) -> None:
    spent = time.thread_time() - started
    if spent > SLOW:
        raise UsageError(
            f"the grammar took {spent:.1f} s for one token", next="simplify the grammar or the JSON schema"
        )
