"""A .gguf, an onnxruntime-genai folder or a bundle in the runtime that ships."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from compress.memory import trim
from compress.validate.batches import plan_batches
from compress.validate.runner import Completion, Floats, Messages, Probe, Progress, Runner, Scored, silent
from runtime.engine.template import STILL
from runtime.reply import Settings

SLAB_BYTES = 64 << 20
"""Most bytes of logits in memory at once, a row's own aside."""


class RuntimeRunner(Runner):
    """The runtime with its own settings. ``context``: tokens that are enough for what will be asked; the caches of all
    slots are made for so many, and made anew at full size should a prompt be longer."""

    retries = True

    def __init__(self, path: Path, *, threads: int | None = None, context: int | None = None) -> None:
        del threads  # the runtime chooses what suits the model
        self.path, self.limited = path, context is not None
        self._open(context)

    def _open(self, context: int | None) -> None:
        from runtime.session import load

        self.session = load(self.path, context=context)
        self.session.clock = STILL
        self.session.engine.keep_threads()
        self.vocabulary = self.session.engine.n_vocab
        self.context = self.session.engine.context

    def _make_room(self, tokens: int) -> None:
        if self.limited and tokens > self.context:
            self.session.close()
            self.limited = False
            self._open(None)

    def encode(self, messages: Messages) -> list[int]:
        return self.session.encode_chat(messages)

    def complete(
        self, prompts: Sequence[Messages], max_tokens: int, *, regroup: bool = False, progress: Progress = silent
    ) -> list[Completion]:
        self.reserve(prompts, max_tokens)
        encoded = [self.encode(messages) for messages in prompts]
        order = [i for batch in plan_batches(encoded, self.session.engine.slots, reverse=regroup) for i in batch]
        replies = self.session.continue_many([encoded[i] for i in order], max_tokens=max_tokens, progress=progress)
        found = {
            i: Completion(r.text, tuple(r.token_ids), r.finish_reason == "length", r.ttft_s)
            for i, r in zip(order, replies, strict=True)
        }
        return [found[i] for i in range(len(prompts))]

    def score(self, rows: Sequence[Scored]) -> Iterator[tuple[int, Floats]]:
        self._make_room(max((row.where[-1] + 2 for row in rows), default=0))
        given = [row.ids[: row.where[-1] + 1] for row in rows]
        last = [row.where[-1] - row.where[0] + 1 for row in rows]
        most = max(last, default=1)
        size = max(1, min(self.session.engine.slots, SLAB_BYTES // (4 * self.vocabulary * most)))
        for number, batch in enumerate(plan_batches(given, size)):
            found = self.session.score_many([given[i] for i in batch], [last[i] for i in batch], fresh=not number)
            for i, logits in zip(batch, found, strict=True):
                yield i, logits[np.asarray(rows[i].where) - rows[i].where[0]]

    def stop_ids(self) -> frozenset[int]:
        return self.session.engine.stops

    def probe(self, messages: Messages, max_tokens: int) -> Probe:
        served = self.session.chat(messages, max_tokens=max_tokens, enforce=False).timings
        (alone,) = self.session.complete_many([messages], max_tokens=1)
        return Probe(alone.ttft_s, served.ttft_ms / 1000, served.tokens_per_s or None)

    def reserve(self, prompts: Sequence[Messages], max_tokens: int) -> None:
        if self.limited:
            self._make_room(max((len(self.encode(messages)) for messages in prompts), default=0) + max_tokens)

    def retry_many(self, prompts: Sequence[Messages], grammar: str | None, max_tokens: int) -> list[tuple[str, bool]]:
        self.reserve(prompts, max_tokens)
        allowed = grammar if self.session.engine.grammars else None
        how = Settings(max_tokens=max_tokens, temperature=0.7, top_p=0.95, seed=1, grammar=allowed)
        requests = [self.session.request(messages, how, fresh=not n) for n, messages in enumerate(prompts)]
        self.session.scheduler.submit(requests, bounded=False)
        for request in requests:
            request.wait()
        return [(request.text, request.finish_reason == "length") for request in requests]

    def close(self) -> None:
        self.session.close()
        trim()
