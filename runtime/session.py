"""A loaded model that answers: `chat`, `stream`, `complete_many`, `logits`."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .engine.requests import Request
from .engine.sampling import Sampling
from .engine.scheduler import Scheduler, as_matrix
from .engine.template import Message, render
from .errors import UsageError
from .exchange import Exchange
from .reply import Completion, Reply, Settings

if TYPE_CHECKING:
    from .bundle.manifest import Manifest
    from .engine.backends.base import Backend, Rows
    from .rules import RuleBook

Messages = Sequence[Message]


class Session:
    """A loaded model. Thread-safe; close it, or use it as a context manager."""

    def __init__(
        self,
        backend: Backend,
        *,
        template: str | None = None,
        rules: RuleBook | None = None,
        manifest: Manifest | None = None,
        name: str = "model",
        queue: int = 1024,
    ) -> None:
        self.engine = backend
        self.rules = rules
        self.manifest = manifest
        self.name = name
        self.template = template or backend.template
        self._forged = re.compile("|".join(map(re.escape, backend.controls))) if backend.controls else None
        self._one_list = threading.Lock()
        self.scheduler = Scheduler(backend, queue=queue)
        self.threads = ThreadPoolExecutor(backend.slots + min(queue, 256), "holdfast-wait")
        """For async callers: a thread per reply that waits or runs (asyncio's own pool has a handful)."""

    @property
    def backend(self) -> str:
        """``llama.cpp`` or ``onnxruntime-genai``."""
        return self.engine.name

    # ---- prompts ----

    def encode_chat(self, messages: Messages) -> list[int]:
        """Token ids of the conversation, ready for the assistant's turn.

        Control tokens written inside a message's content are removed: a user cannot forge a turn.
        """
        if self.template is None:
            raise UsageError(
                "the model has no chat template",
                next="save the model with one (chat_template.jinja) and export it again, or use `logits`",
            )
        clean = [self._clean(message) for message in messages]
        return self.engine.encode(render(self.template, clean, bos=self.engine.bos, eos=self.engine.eos))

    def _clean(self, message: Message) -> Message:
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise UsageError("a message needs a text role and a text content", next='{"role": "user", "content": "…"}')
        while self._forged is not None and self._forged.search(content):
            content = self._forged.sub("", content)
        return {**message, "role": role, "content": content}

    def request(self, messages: Messages, how: Settings, **more: Any) -> Request:
        """A generation that has not been submitted yet."""
        return Request(
            self.encode_chat(messages),
            max_tokens=how.max_tokens,
            sampling=Sampling(how.temperature, how.top_p, how.seed),
            stops=tuple(how.stop),
            grammar=how.grammar,
            deadline=None if how.timeout is None else time.monotonic() + how.timeout,
            **more,
        )

    # ---- many prompts, for measuring ----

    def complete_many(self, prompts: Sequence[Messages], *, max_tokens: int = 256) -> list[Completion]:
        """Greedy replies to many conversations, batched. The same list gives the same tokens every time.

        Lists run one after another, each from an empty cache.
        """
        return self.continue_many([self.encode_chat(messages) for messages in prompts], max_tokens=max_tokens)

    def continue_many(self, prompts: Sequence[Sequence[int]], *, max_tokens: int = 256) -> list[Completion]:
        """`complete_many` for prompts that are token ids already."""
        requests = [Request(list(ids), max_tokens=max_tokens, fresh=i == 0) for i, ids in enumerate(prompts)]
        with self._one_list:
            self.scheduler.submit(requests, bounded=False)
            for request in requests:
                request.wait()
        return [
            Completion(r.text, r.tokens, r.finish_reason, (r.first_token_at or r.finished_at) - r.submitted_at)
            for r in requests
        ]

    def logits(self, ids: Sequence[int]) -> Rows:
        """float32 [len(ids), n_vocab]: row i scores the token after ``ids[: i + 1]``."""
        request = Request(list(ids), score=True)
        self.scheduler.submit([request], bounded=False)
        request.wait()
        return as_matrix(request.logits)

    # ---- chat ----

    def chat(
        self,
        messages: Messages,
        facts: Mapping[str, Any] | None = None,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        grammar: str | None = None,
        timeout: float | None = None,
        enforce: bool = True,
    ) -> Reply:
        """Answer. With rules: their system prompt stands in front when the caller gives none, and (``enforce``)
        what they decide is set, what breaks a hard rule is retried once and then replaced by the safe reply."""
        how = Settings(max_tokens, temperature, top_p, seed, stop, grammar, timeout)
        return Exchange(self, messages, facts or {}, how).reply(enforce=enforce)

    async def achat(self, messages: Messages, facts: Mapping[str, Any] | None = None, **options: Any) -> Reply:
        """`chat` without blocking the event loop."""
        enforce = options.pop("enforce", True)
        return await self.turn(messages, facts, **options).areply(enforce=enforce)

    def turn(self, messages: Messages, facts: Mapping[str, Any] | None = None, **options: Any) -> Exchange:
        """One turn that has not been started, for callers that need to cancel it or to see its parts."""
        return Exchange(self, messages, facts or {}, Settings(**options))

    def stream(
        self, messages: Messages, facts: Mapping[str, Any] | None = None, *, enforce: bool = True, **options: Any
    ) -> Iterator[str]:
        """The reply in pieces of text. Where rules are enforced it comes in one piece, after it was checked.
        Leaving the loop early cancels the request."""
        turn = self.turn(messages, facts, **options)
        if enforce and self.rules is not None:
            yield turn.reply(enforce=True).raw
            return
        pieces: queue.SimpleQueue[str] = queue.SimpleQueue()
        request = turn.submit(pieces.put)
        try:
            while piece := pieces.get():
                yield piece
            request.wait()
        finally:
            turn.cancel()

    async def astream(
        self, messages: Messages, facts: Mapping[str, Any] | None = None, *, enforce: bool = True, **options: Any
    ) -> AsyncIterator[str]:
        """`stream` for an event loop."""
        async for piece in self.turn(messages, facts, **options).pieces(enforce=enforce):
            yield piece

    # ---- life ----

    def close(self) -> None:
        """Stop decoding and free the model."""
        self.scheduler.close()
        self.threads.shutdown()
        self.engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
