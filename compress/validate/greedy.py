"""Greedy decoding and scoring of many prompts in one torch model: tensors and token ids only.

``transformers.generate`` concatenates the whole key/value cache at every step, keeps finished rows in the
batch and computes a shared system prompt once per row. Here the cache is a slab allocated once, finished rows
are dropped, and the tokens that all rows of a batch begin with are computed once.

Rows are left-padded *behind* the shared prefix, so that the last position of every row is its last prompt token:
``[shared prefix][padding][rest of the prompt][reply …]``. Floating-point sums depend on the shape of the batch, so
a token whose two best logits nearly tie may change with the composition of the batch; the gate measures that as
the baseline's A/A flip floor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from compress.validate.batches import common_prefix

KEEP_BELOW = 0.75
"""Finished rows are dropped once fewer than this share of the batch is still running."""


class Step(Protocol):
    """One forward pass: ``(ids [B, T], mask [B, past + T], positions [B, T], cache, at) -> logits [N, V]``.

    ``at``: index of the ``N`` wanted positions of ``[B, T]``.
    """

    def __call__(self, ids: Any, mask: Any, positions: Any, cache: Any, at: Any) -> Any: ...


@dataclass(frozen=True)
class Decoded:
    """Reply ids without the end token, and whether the token limit cut it."""

    token_ids: tuple[int, ...]
    truncated: bool


def make_cache(layers: int, capacity: int) -> Any:
    """A transformers ``Cache`` whose layers write into slabs of ``capacity`` positions."""
    from transformers.cache_utils import Cache, DynamicLayer

    class Slab(DynamicLayer):
        """Keys and values ``[B, heads, capacity, head size]``; only the first ``length`` positions are read."""

        length = 0

        def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys = key_states.new_empty((*key_states.shape[:2], capacity, key_states.shape[3]))
            self.values = value_states.new_empty((*value_states.shape[:2], capacity, value_states.shape[3]))
            self.is_initialized = True

        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            end = self.length + key_states.shape[2]
            self.keys[:, :, self.length : end] = key_states
            self.values[:, :, self.length : end] = value_states
            self.length = end
            return self.keys[:, :, :end], self.values[:, :, :end]

        def get_seq_length(self) -> int:
            return self.length

        def spread(self, rows: int) -> None:
            """Give each of ``rows`` rows its own copy of the one row computed so far."""
            self.keys = self.keys.expand(rows, -1, -1, -1).contiguous()
            self.values = self.values.expand(rows, -1, -1, -1).contiguous()

        def keep(self, rows: Any) -> None:
            self.keys, self.values = self.keys[rows], self.values[rows]

    return Cache(layers=[Slab() for _ in range(layers)])


def decode_batch(
    step: Step,
    layers: int,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stop: frozenset[int],
    beat: Callable[[float], None] = lambda share: None,
) -> list[Decoded]:
    """Greedy replies to one batch of non-empty ``prompts`` (token ids), in their order; ``beat(share done)`` at every
    step."""
    import torch

    rest = max(map(len, prompts)) - (prefix := common_prefix(prompts))
    cache = make_cache(layers, prefix + rest + max_tokens)
    _read_prefix(step, cache, prompts[0][:prefix], len(prompts))
    ids = torch.zeros(len(prompts), rest, dtype=torch.long)
    mask = torch.ones(len(prompts), prefix + rest + max_tokens, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tail = prompt[prefix:]
        ids[row, rest - len(tail) :] = torch.tensor(tail)
        mask[row, prefix : prefix + rest - len(tail)] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    end = prefix + rest
    logits = step(ids, mask[:, :end], positions[:, prefix:end], cache, LAST)
    return _continue(step, cache, logits, mask, positions, end, stop, beat)


LAST = (slice(None), -1)
"""The last position of every row."""


def _read_prefix(step: Step, cache: Any, shared: Sequence[int], rows: int) -> None:
    """Compute what all rows begin with once, and give it to each."""
    import torch

    if not shared:
        return
    ids = torch.tensor([list(shared)])
    step(ids, torch.ones_like(ids), torch.arange(len(shared))[None], cache, LAST)
    for layer in cache.layers:
        layer.spread(rows)


def _continue(
    step: Step,
    cache: Any,
    logits: Any,
    mask: Any,
    positions: Any,
    at: int,
    stop: frozenset[int],
    beat: Callable[[float], None],
) -> list[Decoded]:
    """Extend every row from ``logits [B, V]`` until it stops or the slab (``mask``'s width) is full."""
    replies: list[list[int]] = [[] for _ in range(mask.shape[0])]
    stopped = [False] * len(replies)
    alive, begun = list(range(len(replies))), at
    while True:
        chosen = logits.argmax(-1)
        for row, token in zip(alive, chosen.tolist(), strict=True):
            if not stopped[row]:
                stopped[row] = token in stop
                replies[row] += [] if stopped[row] else [token]
        at += 1
        if at >= mask.shape[1] or all(stopped[row] for row in alive):
            break
        beat(max((at - begun) / (mask.shape[1] - begun), sum(stopped) / len(stopped)))
        running = [n for n, row in enumerate(alive) if not stopped[row]]
        if len(running) < KEEP_BELOW * len(alive):
            alive = [alive[n] for n in running]
            mask, positions, chosen = mask[running], positions[running], chosen[running]
            for layer in cache.layers:
                layer.keep(running)
        logits = step(chosen[:, None], mask[:, :at], positions[:, at - 1 : at], cache, LAST)
    return [Decoded(tuple(ids), not done) for ids, done in zip(replies, stopped, strict=True)]


def decode(
    step: Step,
    layers: int,
    prompts: Sequence[Sequence[int]],
    batches: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stop: frozenset[int],
    progress: Callable[[int, int], None],
) -> Iterator[tuple[int, Decoded]]:
    """``(index, reply)`` of every prompt, batch by batch."""
    done = 0
    for batch in batches:

        def beat(share: float, done: int = done, size: int = len(batch)) -> None:
            progress(done + int(share * size), len(prompts))

        chosen = [prompts[i] for i in batch]
        replies = decode_batch(step, layers, chosen, max_tokens=max_tokens, stop=stop, beat=beat)
        done += len(batch)
        progress(done, len(prompts))
        yield from zip(batch, replies, strict=True)


def score_batch(step: Step, layers: int, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Any]:
    """``[len(where), V]`` of every row ``(ids, where)``: the logits behind those positions, ascending.

    Rows are padded behind their end, which a causal model does not see.
    """
    import torch

    prefix = min(common_prefix([ids for ids, _ in rows]), min(where[0] for _, where in rows))
    rest = max(len(ids) for ids, _ in rows) - prefix
    cache = make_cache(layers, prefix + rest)
    _read_prefix(step, cache, rows[0][0][:prefix], len(rows))
    ids = torch.zeros(len(rows), rest, dtype=torch.long)
    for line, (row, _) in enumerate(rows):
        ids[line, : len(row) - prefix] = torch.tensor(list(row[prefix:]))
    counts = [len(where) for _, where in rows]
    lines = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(counts))
    columns = torch.tensor([at - prefix for _, where in rows for at in where])
    mask = torch.ones(len(rows), prefix + rest, dtype=torch.long)
    positions = torch.arange(prefix, prefix + rest).expand(len(rows), -1)
    return list(step(ids, mask, positions, cache, (lines, columns)).split(counts))
