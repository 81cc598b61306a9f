"""A loaded model that answers: `load` a bundle or a model, then `chat`, `stream`, `complete_many`, `logits`."""

from __future__ import annotations

import asyncio
import queue
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .backends import open_backend
from .errors import ArtifactError, UsageError
from .sampling import Sampling
from .scheduler import Request, Scheduler, as_matrix
from .template import Message, render

if TYPE_CHECKING:
    from .backends.base import Backend, Rows
    from .manifest import Manifest
    from .rules import RuleBook, Turn, Verdict

Messages = Sequence[Message]


@dataclass(frozen=True)
class Completion:
    """One reply of `Session.complete_many`."""

    text: str
    token_ids: list[int]
    finish_reason: str
    """``stop`` (the model ended its turn) or ``length``."""
    ttft_s: float
    """Seconds from submission to the first token, waiting in the queue included."""


@dataclass(frozen=True)
class Usage:
    """Tokens of a chat turn; ``cached_tokens`` of the prompt came from a kept prefix."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """``ttft_ms`` from submission to the first token; ``tokens_per_s`` of the decoding after it."""

    ttft_ms: float = 0.0
    tokens_per_s: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True)
class Reply:
    """An answer and how it came about."""

    text: str
    """The words for the customer: the contract's ``reply`` field, or the whole text without a contract."""
    raw: str
    """The whole reply; with a contract a JSON object."""
    fields: Mapping[str, Any] | None = None
    """The contract's fields, or None without a contract."""
    report: tuple[Verdict, ...] = ()
    """One verdict per active rule (empty without rules)."""
    interventions: tuple[str, ...] = ()
    """What enforcement changed; empty when the model kept the rules by itself."""
    finish_reason: str = "stop"
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)

    @property
    def action(self) -> str | None:
        """The contract's ``action``."""
        return self._field("action")

    @property
    def priority(self) -> str | None:
        """The contract's ``priority``."""
        return self._field("priority")

    @property
    def queue(self) -> str | None:
        """The contract's ``queue``."""
        return self._field("queue")

    @property
    def citations(self) -> tuple[str, ...]:
        """The contract's ``citations``."""
        found = (self.fields or {}).get("citations")
        return tuple(map(str, found)) if isinstance(found, list) else ()

    def _field(self, name: str) -> str | None:
        value = (self.fields or {}).get(name)
        return None if value is None else str(value)


@dataclass(frozen=True)
class Settings:
    """How a reply is generated."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    grammar: str | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens is {self.max_tokens}", next="ask for at least one token")
        if not 0 <= self.temperature <= 10 or not 0 < self.top_p <= 1:
            raise UsageError(
                f"temperature {self.temperature} or top_p {self.top_p} is out of range",
                next="temperature is within 0..10, top_p within 0..1",
            )


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
            raise UsageError("the model has no chat template", next="add one to the model, or use `logits`")
        clean = [self._clean(message) for message in messages]
        return self.engine.encode(render(self.template, clean, bos=self.engine.bos, eos=self.engine.eos))

    def _clean(self, message: Message) -> Message:
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise UsageError("a message needs a text role and a text content", next='{"role": "user", "content": "…"}')
        while self._forged is not None and self._forged.search(content):
            content = self._forged.sub("", content)
        return {**message, "role": role, "content": content}

    def _request(self, messages: Messages, how: Settings, **more: Any) -> Request:
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
        how = Settings(max_tokens=max_tokens)
        requests = [self._request(messages, how, fresh=i == 0) for i, messages in enumerate(prompts)]
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
        return Turned(self, messages, facts or {}, how).reply(enforce=enforce)

    async def achat(self, messages: Messages, facts: Mapping[str, Any] | None = None, **options: Any) -> Reply:
        """`chat` without blocking the event loop."""
        return await asyncio.to_thread(self.chat, messages, facts, **options)

    def stream(
        self, messages: Messages, facts: Mapping[str, Any] | None = None, *, enforce: bool = True, **options: Any
    ) -> Iterator[str]:
        """The reply in pieces of text. Where rules are enforced it comes in one piece, after it was checked.
        Leaving the loop early cancels the request."""
        if enforce and self.rules is not None:
            yield self.chat(messages, facts, enforce=True, **options).raw
            return
        turn = Turned(self, messages, facts or {}, Settings(**options))
        pieces: queue.SimpleQueue[str] = queue.SimpleQueue()
        request = turn.submit(pieces.put)
        try:
            while piece := pieces.get():
                yield piece
            request.wait()
        finally:
            request.cancel()

    async def astream(
        self, messages: Messages, facts: Mapping[str, Any] | None = None, *, enforce: bool = True, **options: Any
    ) -> AsyncIterator[str]:
        """`stream` for an event loop."""
        if enforce and self.rules is not None:
            yield (await self.achat(messages, facts, enforce=True, **options)).raw
            return
        turn = Turned(self, messages, facts or {}, Settings(**options))
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[str]()
        request = turn.submit(lambda piece: loop.call_soon_threadsafe(pieces.put_nowait, piece) and None)
        try:
            while piece := await pieces.get():
                yield piece
            request.wait()
        finally:
            request.cancel()

    # ---- life ----

    def close(self) -> None:
        """Stop decoding and free the model."""
        self.scheduler.close()
        self.engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Turned:
    """One turn of a conversation: the prompt with the rules' system message, generation, enforcement."""

    def __init__(self, session: Session, messages: Messages, facts: Mapping[str, Any], how: Settings) -> None:
        self._session = session
        self._how = how
        self._facts = dict(facts)
        self._given = list(messages)
        self._requests: list[Request] = []
        self._prompt = self._given
        if session.rules is not None and not any(m.get("role") == "system" for m in self._given):
            system = {"role": "system", "content": session.rules.system_prompt(self._facts)}
            self._prompt = [system, *self._given]

    def submit(self, sink: Any = None, how: Settings | None = None) -> Request:
        """Queue one generation."""
        request = self._session._request(self._prompt, how or self._how, sink=sink)
        self._session.scheduler.submit([request])
        self._requests.append(request)
        return request

    def reply(self, *, enforce: bool) -> Reply:
        """Generate, enforce, and tell how it went."""
        text = self._generate(self._how)
        book = self._session.rules
        if book is None:
            return self._reply(text, text, None)
        if not enforce:
            parsed = book.parse(text)
            return self._reply(
                text, parsed.text, parsed.fields, report=tuple(book.check(self._turn(), text, self._cut))
            )
        from .guard import enforce as keep

        kept = keep(book, self._turn(), text, self._retry, truncated=self._cut)
        words = (kept.fields or {}).get("reply", kept.text)
        return self._reply(kept.text, str(words), kept.fields, report=kept.report, interventions=kept.interventions)

    def _turn(self) -> Turn:
        from .rules import Turn

        return Turn(messages=tuple(self._given), facts=self._facts)

    @property
    def _cut(self) -> bool:
        return self._requests[-1].finish_reason == "length"

    def _generate(self, how: Settings) -> str:
        request = self.submit(how=how)
        try:
            request.wait(how.timeout + 1 if how.timeout is not None else None)
        except BaseException:
            request.cancel()
            raise
        return request.text

    def _retry(self) -> str:
        """A second try: the contract's grammar where the backend has grammars, and some variety."""
        how, book = self._how, self._session.rules
        grammar = how.grammar or (book.grammar() if book is not None and self._session.engine.grammars else None)
        again = Settings(how.max_tokens, max(how.temperature, 0.7), 0.95, how.seed or 1, how.stop, grammar, how.timeout)
        return self._generate(again)

    def _reply(self, raw: str, text: str, fields: Mapping[str, Any] | None, **more: Any) -> Reply:
        first, last = self._requests[0], self._requests[-1]
        tokens = sum(len(r.tokens) for r in self._requests)
        decoding = sum(r.finished_at - (r.first_token_at or r.finished_at) for r in self._requests)
        return Reply(
            text=text,
            raw=raw,
            fields=fields,
            finish_reason=last.finish_reason,
            usage=Usage(len(first.prompt), tokens, first.reused),
            timings=Timings(
                ttft_ms=1e3 * ((first.first_token_at or first.finished_at) - first.submitted_at),
                tokens_per_s=(tokens - len(self._requests)) / decoding if decoding > 0 else 0.0,
                total_ms=1e3 * (last.finished_at - first.submitted_at),
            ),
            **more,
        )


def find_model(path: Path) -> tuple[str, Path]:
    """``(kind, path)`` of a .gguf file, a folder with one, or an onnxruntime-genai folder."""
    if path.is_file() and path.suffix == ".gguf":
        return "gguf", path
    if (path / "genai_config.json").is_file():
        return "onnx", path
    found = sorted(path.glob("*.gguf")) if path.is_dir() else []
    if len(found) == 1:
        return "gguf", found[0]
    if not path.exists():
        raise ArtifactError(f"{path} does not exist", next="check the path")
    what = "several .gguf files" if found else "no model that this runtime knows"
    raise ArtifactError(f"{path} holds {what}", next="give a bundle, one .gguf file or an onnxruntime-genai folder")


def load(
    path: Path | str,
    *,
    threads: int | None = None,
    slots: int = 16,
    context: int | None = None,
    rules: Path | str | RuleBook | None = None,
    queue: int = 1024,
    trust: bool = False,
) -> Session:
    """Load a bundle, a .gguf file, a folder with one, or an onnxruntime-genai folder.

    ``threads``: decode threads (by default what suits the model's size); ``slots``: replies decoded together;
    ``context``: tokens per conversation; ``rules``: a rule file for a model without one; ``queue``: requests that
    may wait before Overloaded. A bundle is verified and self-tested first (``trust`` skips both).
    Raises ArtifactError naming the culprit, MissingExtra naming the pip command.
    """
    path = Path(path)
    if (path / "manifest.json").is_file():
        from .manifest import open_bundle

        return open_bundle(path, threads=threads, slots=slots, context=context, queue=queue, trust=trust)
    kind, model = find_model(path)
    backend = open_backend(kind, model, threads=threads, slots=slots, context=context)
    return Session(backend, rules=_rule_book(rules), name=path.stem, queue=queue)


def _rule_book(rules: Path | str | RuleBook | None) -> RuleBook | None:
    if isinstance(rules, Path | str):
        from .rules import load_rules

        return load_rules(rules)
    return rules
