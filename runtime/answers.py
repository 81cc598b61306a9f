"""A loaded model that answers: `chat`, `stream`, `complete_many`, `logits`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from .engine.chat import DEFAULT, Chat
from .engine.forgery import Forgery
from .engine.lookup import WIDEST
from .engine.prefixes import common
from .engine.requests import GREEDY, Request
from .engine.sampling import Chances, Sampling
from .engine.scheduler import Scheduler
from .engine.template import STILL, Message, render
from .errors import UsageError
from .exchange import Exchange
from .formats import grammar_of
from .info import Info, describe
from .reply import Completion, Options, Reply, Settings
from .talking import Messages, Talking

if TYPE_CHECKING:
    from .bundle.manifest import Manifest
    from .engine.backends.base import Backend, Rows
    from .engine.prefixes import Prefixes
    from .rules import RuleBook

MOST_CHOICES = 128
"""Replies to one question."""
HEADS = 64
"""System prompts whose tokens are remembered."""
WORDS = "Good morning, how may I help you with your order today? " * 8
"""What is read before anybody asks."""
Progress = Callable[[int, int], None]


class Session(Talking):
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
        lookup: bool = True,
        prefixes: Prefixes | None = None,
    ) -> None:
        """``template``: the default chat template instead of the model's own; ``lookup``: decode drafts where it pays
        (see `engine.lookup`); ``prefixes``: where system prompts are kept over restarts."""
        self.engine = backend
        given = {DEFAULT: template} if template else {}
        self.chat_files = Chat({**backend.chat.templates, **given}, backend.chat.special)
        self._chosen: str | None = None
        self.rules = rules
        self.manifest = manifest
        self.name = name
        self.lookup = lookup
        self.clock: datetime | None = None
        """What templates that write the date are told; None is the present."""
        self._one_list = threading.Lock()
        self._heads: dict[str, list[int]] = {}
        self.scheduler = Scheduler(backend, queue=queue, prefixes=prefixes)
        self.threads = ThreadPoolExecutor(backend.slots + min(queue, 256), "holdfast-wait")
        """For async callers: a thread per reply that waits or runs (asyncio's own pool has a handful)."""
        if rules is not None and (grammar := rules.grammar()) is not None and backend.grammars:
            self.threads.submit(backend.constraint, grammar)  # the first customer need not wait for the vocabulary

    @property
    def backend(self) -> str:
        """``llama.cpp`` or ``onnxruntime-genai``."""
        return self.engine.name

    # ---- prompts ----

    @cached_property
    def template(self) -> str | None:
        """The chat template in use; None where the model has none. UsageError when none of several was chosen."""
        return self.chat_files.template(self._chosen)

    def choose_template(self, name: str | None) -> None:
        """Use the model's template of that name from now on; None changes nothing. Raises UsageError (and closes the
        session) when there is no such template."""
        if name is None:
            return
        try:
            self.chat_files.template(name)
        except UsageError:
            self.close()
            raise
        self._chosen = name
        for made in ("template", "_forgery"):
            self.__dict__.pop(made, None)

    @cached_property
    def _forgery(self) -> Forgery:
        engine, template = self.engine, self.template
        if template is None:
            raise UsageError(
                "the model has no chat template",
                next="save the model with one (chat_template.jinja) and export it again, or use `logits`",
            )
        return Forgery(
            template, self.chat_files.special, controls=engine.controls, added=engine.added, folds=engine.folds
        )

    def encode_chat(self, messages: Messages, *, now: datetime | None = None) -> list[int]:
        """Token ids of the conversation, ready for the assistant's turn.

        Role markers written inside a message are removed: a user cannot forge a turn. ``now``: instead of `clock`.
        """
        clean = [self._forgery.clean(message) for message in messages]
        assert self.template is not None
        return self.engine.encode(render(self.template, clean, special=self.chat_files.special, now=now or self.clock))

    def warm_up(self) -> None:
        """Have the weights read and drafts measured before anybody asks. Returns at once; whoever comes goes first."""
        if self.lookup:
            self.scheduler.prepare(self.engine.encode(WORDS)[: 2 * WIDEST])

    def request(self, messages: Messages, how: Settings, *, said: str = "", sink: Any = None, **more: Any) -> Request:
        """A generation that has not been submitted yet. ``said``: the reply's beginning, from which it goes on."""
        begun = self._begun(said) if said else []
        constraint = None if how.grammar is None else self.engine.constraint(how.grammar)
        if constraint is not None:
            for token in begun:
                constraint.accept(token)
        ids = self.encode_chat(messages)
        return Request(
            ids + begun,
            max_tokens=how.max_tokens,
            sampling=how.sampling,
            stops=how.stops,
            constraint=constraint,
            deadline=None if how.timeout is None else time.monotonic() + how.timeout,
            chances=None if how.logprobs is None else Chances(how.logprobs),
            read=sink is not None,
            drafts=self.lookup,
            head=self._head(messages, ids),
            sink=sink,
            **more,
        )

    def _head(self, messages: Messages, ids: Sequence[int]) -> int:
        """How many tokens of a prompt are the system message's and what the template puts before it."""
        if not messages or messages[0].get("role") != "system":
            return 0
        text = str(messages[0]["content"])
        length = common(self._heads.get(text, ()), ids)
        if length == 0 or length < len(self._heads[text]):  # not seen yet, or the template tells another day
            beginnings = [self.encode_chat([messages[0], {"role": "user", "content": word}]) for word in ("a", "7 b")]
            if len(self._heads) >= HEADS:
                self._heads.clear()
            self._heads[text] = beginnings[0][: common(*beginnings)]
            length = common(self._heads[text], ids)
        return length

    def _begun(self, said: str) -> list[int]:
        """Tokens that spell ``said`` in the middle of a text: some tokenizers put a space in front of every text."""
        ids, piece = self.engine.encode(said), self.engine.piece
        if ids and piece(ids[0])[:1] == b" " and not said.startswith(" "):
            rest = piece(ids[0])[1:]
            first = [token for token in range(self.engine.n_vocab) if rest and piece(token) == rest][:1]
            ids[:1] = first if first or not rest else ids[:1]
        return ids

    # ---- many prompts, for measuring ----

    def complete_many(
        self, prompts: Sequence[Messages], *, max_tokens: int = 256, progress: Progress | None = None
    ) -> list[Completion]:
        """Greedy replies to many conversations, batched. The same list gives the same tokens every time.

        Lists run one after another, each from an empty cache. The clock of the templates stands still.
        ``progress(done, total)`` is called as replies are finished.
        """
        encoded = [self.encode_chat(messages, now=STILL) for messages in prompts]
        return self.continue_many(encoded, max_tokens=max_tokens, progress=progress)

    def continue_many(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int = 256,
        sampling: Sequence[Sampling] | None = None,
        progress: Progress | None = None,
    ) -> list[Completion]:
        """`complete_many` for prompts that are token ids already; ``sampling``: how each reply is drawn (with seeds the
        same list still gives the same tokens)."""
        how = sampling or [GREEDY] * len(prompts)
        requests = [
            Request(list(ids), max_tokens=max_tokens, sampling=drawn, fresh=i == 0)
            for i, (ids, drawn) in enumerate(zip(prompts, how, strict=True))
        ]
        self._run(requests, progress)
        return [
            Completion(r.text, r.tokens, r.finish_reason, (r.first_token_at or r.finished_at) - r.submitted_at)
            for r in requests
        ]

    def _run(self, requests: Sequence[Request], progress: Progress | None = None) -> None:
        with self._one_list:
            self.scheduler.submit(requests, bounded=False)
            for done, request in enumerate(requests, 1):
                request.wait()
                if progress is not None:
                    progress(done, len(requests))

    def logits(self, ids: Sequence[int]) -> Rows:
        """float32 [len(ids), n_vocab]: row i scores the token after ``ids[: i + 1]``."""
        request = Request(list(ids), score=len(ids))
        self.scheduler.submit([request], bounded=False)
        request.wait()
        return np.concatenate(request.logits)

    def score_many(self, prompts: Sequence[Sequence[int]], last: Sequence[int], *, fresh: bool = True) -> list[Rows]:
        """float32 [last, n_vocab] of each prompt: the logits behind its ``last`` (1 at least) last tokens.

        Prompts are decoded together, and what they begin with alike once. ``fresh``: from an empty cache.
        """
        pairs = enumerate(zip(prompts, last, strict=True))
        requests = [Request(list(ids), score=rows, fresh=fresh and i == 0) for i, (ids, rows) in pairs]
        self._run(requests)
        return [np.concatenate(request.logits) for request in requests]

    def speak_many(
        self, prompts: Sequence[Sequence[int]], *, last: int, max_tokens: int, fresh: bool = True
    ) -> list[tuple[list[int], Rows]]:
        """Greedy replies of at most ``max_tokens`` tokens to prompts of token ids, each with float32 [p + n - 1,
        n_vocab]: the logits behind the prompt's last p (``last``, or all of a shorter prompt) tokens and behind the
        reply's n tokens but the last, which no engine decodes; one row more where an end token ended the reply.

        Prompts are decoded together, and what they begin with alike once. ``fresh``: from an empty cache.
        """
        requests = [
            Request(list(ids), max_tokens=max_tokens, score=min(last, len(ids)), reply=True, fresh=fresh and i == 0)
            for i, ids in enumerate(prompts)
        ]
        self._run(requests)
        return [(request.tokens, np.concatenate(request.logits)) for request in requests]

    # ---- chat ----

    def choices(
        self,
        messages: Messages,
        facts: Mapping[str, Any] | None = None,
        *,
        n: int,
        enforce: bool = True,
        **options: Unpack[Options],
    ) -> list[Reply]:
        """``n`` replies to one question, decoded together; the prompt is read once. With a ``seed`` the i-th reply
        (from 0) is the one that ``seed + i`` gives."""
        turns = self.turns(messages, facts, n=n, **options)
        requests = [(turn.structured() if enforce else turn).prepare() for turn in turns]
        self.scheduler.submit(requests)
        try:
            return [turn.reply(enforce=enforce) for turn in turns]
        finally:
            for turn in turns:
                turn.cancel()

    def turns(
        self, messages: Messages, facts: Mapping[str, Any] | None = None, *, n: int, **options: Unpack[Options]
    ) -> list[Exchange]:
        """``n`` turns with the same question that have not been started, each with its own seed where one is given."""
        how = self._settings(options)
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST_CHOICES:
            raise UsageError(f"n is {n!r:.80}", next=f"ask for 1 to {MOST_CHOICES} replies")
        return [Exchange(self, messages, facts or {}, how.choice(i)) for i in range(n)]

    def turn(self, messages: Messages, facts: Mapping[str, Any] | None = None, **options: Unpack[Options]) -> Exchange:
        """One turn that has not been started, for callers that need to cancel it or to see its parts."""
        return Exchange(self, messages, facts or {}, self._settings(options))

    def _settings(self, options: Options) -> Settings:
        """The options checked, with the grammar of a ``response_format``."""
        wanted: dict[str, Any] = dict(options)
        if (form := wanted.pop("response_format", None)) is not None:
            if wanted.get("grammar") is not None:
                raise UsageError("both grammar and response_format are given", next="give one of them")
            wanted["grammar"] = grammar_of(form, self.info)
        return Settings(**wanted)

    def judge(self, messages: Messages, facts: Mapping[str, Any] | None, text: str) -> Reply:
        """What the rules make of a reply that somebody else wrote: fields that they decide are set, and what breaks a
        hard rule is replaced by the safe reply."""
        return self.turn(messages, facts).judge(text)

    def prompt(self, messages: Messages, facts: Mapping[str, Any] | None = None) -> list[Message]:
        """The conversation as the model is shown it: with the rules' system message in front."""
        return list(self.turn(messages, facts).prompt)

    # ---- what it is, and how it does ----

    @cached_property
    def info(self) -> Info:
        """What was loaded: name, backend, context, rules, contract, the bundle's manifest."""
        return describe(self)

    @property
    def state(self) -> str:
        """``ready``, or ``failed`` when the engine can decode no more."""
        return "ready" if self.scheduler.alive else "failed"

    def refuse_if_full(self) -> None:
        """Raise Overloaded at once when the queue is full, before any work is done for a request."""
        self.scheduler.refuse_if_full()

    def figures(self) -> dict[str, Any]:
        """What runs and waits now, and totals since the start (see `Counters`)."""
        engine = self.scheduler
        now = {"running": engine.running, "waiting": engine.depth, "kv_tokens": engine.held_tokens}
        return {**now, **asdict(engine.counters)}

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
