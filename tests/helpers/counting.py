"""A backend without a model, for tests of what stands above one."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np

from runtime.engine.backends.base import Interrupted, Span
from runtime.engine.chat import Chat
from runtime.errors import HoldfastError

N_VOCAB, STOP = 50, 0
POISON = [13, 13, 13]
"""A prompt that the engine cannot decode."""


class Counting:
    """A backend whose next token is a function of everything its slot holds, so a wrong cache gives wrong tokens."""

    name, version, chat = "counting", "1", Chat()
    clock = staticmethod(time.perf_counter)
    n_vocab, context, alike, batch, memory_bytes = N_VOCAB, 600, 600, 512, 0
    stops, controls, added, shares, grammars, folds, drafts, keeps = (
        frozenset({STOP}),
        (),
        (),
        True,
        False,
        False,
        True,
        False,
    )

    def __init__(self, slots: int = 4) -> None:
        self.slots = slots
        self.held: dict[int, list[int]] = {i: [] for i in range(slots)}
        self.batches: list[list[Span]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.broken = self.slow = self.stopped = False

    def piece(self, token: int) -> bytes:
        return "é".encode()[token % 2 :][:1]  # half a character per token

    def decode(self, spans: Sequence[Span]) -> np.ndarray:
        self.gate.wait()
        if self.slow:
            self.held[spans[0].slot].extend(spans[0].tokens)  # part of the step was done
            while not self.stopped:
                time.sleep(0.001)
            raise Interrupted
        if self.broken:
            raise HoldfastError("the engine broke")
        if any(list(s.tokens[:3]) == POISON for s in spans):
            self.held[spans[0].slot].append(1)  # half of the batch was done
            raise RuntimeError("a bad token")
        self.batches.append(list(spans))
        assert sum(len(s.tokens) for s in spans) <= self.batch
        rows = []
        for slot, start, tokens, wanted in spans:
            assert start == len(self.held[slot])
            for token in tokens:
                self.held[slot].append(token)
                rows.append(following(self.held[slot]))
            del rows[len(rows) - len(tokens) : len(rows) - wanted]
        return np.stack(rows) if rows else np.empty((0, N_VOCAB), np.float32)

    def stop(self, *, on: bool) -> None:
        self.stopped = on

    def copy(self, source: int, target: int, length: int) -> None:
        self.held[target] = self.held[source][:length]

    def cut(self, slot: int, length: int) -> None:
        del self.held[slot][length:]

    def close(self) -> None:
        pass


def following(held: Sequence[int]) -> np.ndarray:
    row = np.zeros(N_VOCAB, np.float32)
    row[next_token(held)] = 1
    return row


def next_token(held: Sequence[int]) -> int:
    return 1 + sum((i + 1) * t for i, t in enumerate(held)) % (N_VOCAB - 1)


def expected(prompt: Sequence[int], count: int) -> list[int]:
    held = list(prompt)
    for _ in range(count):
        held.append(next_token(held))
    return held[len(prompt) :]
