"""Behaviour drift: how far a candidate's next-token distribution has moved from the baseline's.

Accuracy alone hides changes of behaviour that cancel out (Dutta et al. 2024, "Accuracy is not all you need"), so
the gate's table shows the token KL divergence KL(baseline ‖ candidate) in nats, its 99.9th percentile, the share of
positions with the same most likely token and the ratio of perplexities. Both models are teacher-forced on the
baseline's own greedy replies, and only positions that predict a reply token count: all of them, or so many, drawn
at random with a fixed seed, as ``REFERENCE_BYTES`` holds the logits of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from compress.validate.runner import Floats, Progress, Scored, silent

Tokens = NDArray[np.int_]

REFERENCE_BYTES = 512 << 20
"""Most bytes of baseline logits kept on disk, in float32: half precision would be off by 1e-5 nats, which is no little
beside a good 8-bit file."""
LINES = 32
"""Distributions compared at once: what they take stays in the processor's caches."""


class Scores(Protocol):
    """Anything with the ``score`` of a runner."""

    def score(self, rows: Sequence[Scored]) -> Iterable[tuple[int, Floats]]: ...


@dataclass(frozen=True)
class Forced:
    """A prompt and the baseline's reply to it, as token ids."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]

    def before(self, chosen: Sequence[int]) -> Scored:
        """What is fed to predict the ``chosen`` reply tokens, and where."""
        at = [len(self.prompt) - 1 + k for k in chosen]
        return Scored((*self.prompt, *self.reply)[: at[-1] + 1], tuple(at))


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
        """``path``: float32 ``[tokens, vocabulary]``, written by ``record``."""
        self.path, self.vocabulary = path, vocabulary
        chosen = _choose([len(row.reply) for row in rows], REFERENCE_BYTES // (4 * max(vocabulary, 1)))
        pairs = [(row, some) for row, some in zip(rows, chosen, strict=True) if some]
        self.rows = [row.before(some) for row, some in pairs]
        self.said = [np.asarray([row.reply[k] for k in some]) for row, some in pairs]
        """The reply tokens that are predicted, by row."""
        self.ends = np.cumsum([0, *(len(some) for _, some in pairs)])
        self.tokens = int(self.ends[-1])

    def record(self, baseline: Scores, progress: Progress = silent) -> None:
        """Run the baseline once over every row."""
        part = self.path.with_suffix(".part")
        with open(part, "wb") as handle:
            for done, (number, logits) in enumerate(baseline.score(self.rows), 1):
                handle.seek(int(self.ends[number]) * self.vocabulary * 4)
                handle.write(np.ascontiguousarray(logits, dtype="<f4").tobytes())
                progress(done, len(self.rows))
        part.replace(self.path)

    def recorded(self) -> bool:
        """Whether the file is there, whole and for these very rows."""
        return self.path.is_file() and self.path.stat().st_size == self.tokens * self.vocabulary * 4

    def compared(self, candidate: Scores, progress: Progress) -> Iterator[tuple[slice, Floats, Floats, Tokens]]:
        """``(place, baseline [n, V], candidate [n, V], said [n])``: a few lines of one row at a time."""
        with open(self.path, "rb") as handle:
            for done, (number, logits) in enumerate(candidate.score(self.rows), 1):
                for at in range(0, len(logits), LINES):
                    own = logits[at : at + LINES]
                    begin = int(self.ends[number]) + at
                    handle.seek(begin * self.vocabulary * 4)
                    stored = np.fromfile(handle, "<f4", len(own) * self.vocabulary).reshape(len(own), -1)
                    yield slice(begin, begin + len(own)), stored, own, self.said[number][at : at + LINES]
                progress(done, len(self.rows))


def _choose(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Positions of each reply: all, or ``most`` of them drawn at random with a fixed seed."""
    places = [(row, k) for row, length in enumerate(lengths) for k in range(length)]
    if len(places) > most:
        drawn = np.random.default_rng(0).choice(len(places), most, replace=False)
        places = [places[n] for n in sorted(drawn.tolist())]
    found: list[list[int]] = [[] for _ in lengths]
    for row, k in places:
        found[row].append(k)
    return found


def measure(reference: Reference, candidate: Scores, progress: Progress = silent) -> Drift:
    """Drift of ``candidate`` from the recorded baseline.

    Vocabularies may differ by padding: the distributions are taken over the entries that both have.
    """
    divergence, loss = np.zeros((2, max(reference.tokens, 1)))
    agree = 0
    for place, stored, own, said in reference.compared(candidate, progress):
        width = min(stored.shape[1], own.shape[1])
        p, q = log_softmax(stored, width), log_softmax(own, width)
        divergence[place] = kl(p, q)
        agree += int((p.argmax(1) == q.argmax(1)).sum())
        at = np.arange(len(said)), said
        loss[place] = p[at].astype(np.float64) - q[at]
    return Drift(
        kl_mean=float(divergence.mean()),
        kl_p999=float(np.quantile(divergence, 0.999)),
        top1=agree / max(reference.tokens, 1),
        perplexity_ratio=float(np.exp(loss.mean())),
        rows=len(reference.rows),
        tokens=reference.tokens,
    )


def spread_rows(count: int, wanted: int) -> list[int]:
    """``wanted`` of ``count`` indices, evenly spread and in order."""
    if wanted >= count:
        return list(range(count))
    return [int(n * count / wanted) for n in range(wanted)]
