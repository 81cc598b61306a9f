"""Behaviour drift: how far a candidate's next-token distribution has moved from the baseline's.

Accuracy alone hides changes of behaviour that cancel out (Dutta et al. 2024, "Accuracy is not all you need"), so
the gate's table shows the token KL divergence KL(baseline ‖ candidate) in nats, its 99.9th percentile, the share of
positions with the same most likely token and the ratio of perplexities. Both models are teacher-forced on the
baseline's own greedy replies, and only positions that predict a reply token count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

REFERENCE_BYTES = 1 << 30
"""Most bytes of baseline log-probabilities kept on disk; rows beyond it are left out (and the count says so)."""


class Logits(Protocol):
    """Anything with ``logits(ids) -> float32 [len(ids), vocabulary]``."""

    def logits(self, ids: Sequence[int]) -> Floats: ...


@dataclass(frozen=True)
class Forced:
    """A prompt and the baseline's reply to it, as token ids."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]

    @property
    def ids(self) -> list[int]:
        """What is fed: the last reply token predicts nothing that counts."""
        return [*self.prompt, *self.reply[:-1]]

    def own(self, logits: Floats) -> Floats:
        """The rows of ``logits [len(ids), V]`` that predict the reply: ``[len(reply), V]``."""
        return logits[len(self.prompt) - 1 :]


@dataclass(frozen=True)
class Drift:
    """Figures over ``tokens`` reply positions of ``rows`` replies; KL in nats per token."""

    kl_mean: float
    kl_p999: float
    top1: float
    perplexity_ratio: float
    rows: int
    tokens: int


def log_softmax(logits: Floats, width: int) -> Floats:
    """Natural log-probabilities over the first ``width`` entries of each row of ``logits [T, V]``."""
    part = logits[:, :width].astype(np.float32)
    part = part - part.max(axis=1, keepdims=True)
    return part - np.log(np.exp(part).sum(axis=1, keepdims=True))


def kl(p: Floats, q: Floats) -> Floats:
    """KL(p ‖ q) per row in nats, from log-probabilities ``[T, V]``; never below 0."""
    return np.maximum((np.exp(p) * (p - q)).sum(axis=1, dtype=np.float64), 0.0).astype(np.float32)


class Reference:
    """The baseline's logits on its own replies, kept in one file so that both models never share memory."""

    def __init__(self, path: Path, rows: Sequence[Forced], vocabulary: int) -> None:
        """``path``: float32 ``[sum(len(reply)), vocabulary]``, written by ``record``."""
        self.path, self.vocabulary = path, vocabulary
        self.rows = _fitting(rows, vocabulary)
        self.tokens = sum(len(row.reply) for row in self.rows)

    def record(self, baseline: Logits) -> None:
        """Run the baseline once over every row."""
        part = self.path.with_suffix(".part")
        with open(part, "wb") as handle:
            for row in self.rows:
                handle.write(np.ascontiguousarray(row.own(baseline.logits(row.ids)), dtype="<f4").tobytes())
        part.replace(self.path)

    def recorded(self) -> bool:
        """Whether the file is there, whole and for these very rows."""
        return self.path.is_file() and self.path.stat().st_size == self.tokens * self.vocabulary * 4

    def __iter__(self) -> Iterator[tuple[Forced, Floats]]:
        stored = np.memmap(self.path, dtype="<f4", mode="r", shape=(self.tokens, self.vocabulary))
        at = 0
        for row in self.rows:
            yield row, np.asarray(stored[at : at + len(row.reply)])
            at += len(row.reply)


def _fitting(rows: Sequence[Forced], vocabulary: int) -> tuple[Forced, ...]:
    kept, used = [], 0
    for row in rows:
        used += len(row.reply) * vocabulary * 4
        if row.reply and used <= REFERENCE_BYTES:
            kept.append(row)
    return tuple(kept)


def measure(reference: Reference, candidate: Logits) -> Drift:
    """Drift of ``candidate`` from the recorded baseline, one row in memory at a time.

    Vocabularies may differ by padding: the distributions are taken over the entries that both have.
    """
    divergences: list[Floats] = []
    agree, loss = 0, 0.0
    for row, stored in reference:
        own = row.own(candidate.logits(row.ids))
        width = min(stored.shape[1], own.shape[1])
        p, q = log_softmax(stored, width), log_softmax(own, width)
        divergences.append(kl(p, q))
        agree += int((p.argmax(1) == q.argmax(1)).sum())
        at = np.arange(len(row.reply)), np.asarray(row.reply)
        loss += float((p[at] - q[at]).sum(dtype=np.float64))
    every = np.concatenate(divergences) if divergences else np.zeros(1, np.float32)
    tokens = max(reference.tokens, 1)
    return Drift(
        kl_mean=float(every.mean(dtype=np.float64)),
        kl_p999=float(np.quantile(every.astype(np.float64), 0.999)),
        top1=agree / tokens,
        perplexity_ratio=float(np.exp(loss / tokens)),
        rows=len(reference.rows),
        tokens=reference.tokens,
    )


def spread_rows(count: int, wanted: int) -> list[int]:
    """``wanted`` of ``count`` indices, evenly spread and in order."""
    if wanted >= count:
        return list(range(count))
    return [int(n * count / wanted) for n in range(wanted)]
