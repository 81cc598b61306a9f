"""Grammars by llguidance: which tokens may come next, and which must.

A grammar is a text in llguidance's dialect of Lark (its first line is ``%llguidance {}``); `of_schema` makes one of a
JSON schema. One matcher serves every backend: it needs the bytes of the tokens only. docs/runtime.md has why this
library, and what it was measured to get right.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from .backends.base import Backend, Rows

log = logging.getLogger(__name__)
MARK = "%llguidance"
"""How a text in this dialect begins."""
COMPACT = {"whitespace_flexible": False}
"""No white space between the parts of a JSON value: the way in which contracts write replies."""


def of_schema(schema: Mapping[str, Any]) -> str:
    """The grammar of a JSON schema that was checked before; values are written without spaces between their parts."""
    return f"{MARK} {{}}\nstart: %json {json.dumps({**schema, 'x-guidance': COMPACT})}"


@lru_cache(maxsize=64)
def complaint(grammar: str) -> str | None:
    """Why a grammar cannot be compiled, in one line; None where it can."""
    try:
        from llguidance import LLMatcher
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "llguidance", "gguf") from None
    lines = str(LLMatcher.validate_grammar(grammar, None)).strip().splitlines()
    if not lines:
        return None
    said = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    return said.rpartition("failed to compile JSON schema: ")[2][:300]


class Grammars:
    """Compiles grammars over the tokens of one backend, which are read when the first grammar comes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._made: Any = None

    def matcher(self, grammar: str) -> Matcher:
        """Compile a grammar; UsageError when it is none, or too large. Any thread may call it."""
        from llguidance import LLMatcher

        with self._lock:
            if self._made is None:
                self._made = self._make()
        return Matcher(LLMatcher(self._made, grammar, log_level=0), self._backend.n_vocab, self._backend.stops)

    def _make(self) -> Any:
        try:
            from llguidance import LLTokenizer, TokenizerWrapper
        except ModuleNotFoundError as error:
            raise MissingExtra(error.name or "llguidance", "gguf") from None
        stops = sorted(self._backend.stops)
        wrapper = TokenizerWrapper(_Tokens(self._backend, stops))
        return LLTokenizer(wrapper, n_vocab=self._backend.n_vocab, eos_token=stops)


class _Tokens:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, backend: Backend, stops: Sequence[int]) -> None:
        self._backend = backend
        self.eos_token_id = stops[0]
        self.tokens = [backend.piece(token) or _nothing(token) for token in range(backend.n_vocab)]
        self.special_token_ids = [token for token, text in enumerate(self.tokens) if text[:1] == b"\xff"]

    def __call__(self, text: str) -> list[int]:
        return self._backend.encode(text)  # bytes raise, which tells the library to hand over texts


def _nothing(token: int) -> bytes:
    """A control token stands for no text; the library marks such by a byte that no text has."""
    return b"\xff<|%d|>" % token


class Matcher:
    """One reply's way through a grammar (`Constraint`)."""

    def __init__(self, matcher: Any, n_vocab: int, stops: frozenset[int]) -> None:
        if matcher.is_error():
            first = str(matcher.get_error()).strip().splitlines()[0]
            raise UsageError(f"the grammar cannot be used ({first[:300]})", next="check it, or the JSON schema")
        self._matcher = matcher
        self._n_vocab, self._stops = n_vocab, stops
        self._mask = np.zeros((1, (n_vocab + 31) // 32), np.int32)

    def allow(self, row: Rows) -> Rows:
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._mask)  # the end tokens alone once it is complete
        self._check()
        allowed = np.unpackbits(self._mask.view(np.uint8)[0], count=self._n_vocab, bitorder="little")
        return np.where(allowed, row, np.float32(-np.inf))

    def permits(self, token: int) -> bool:
        if self.complete:
            return token in self._stops
        permitted: int = self._matcher.validate_tokens([token])
        self._check()
        return permitted == 1

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def forced(self) -> list[int]:
        """Tokens that spell what must come next, as the tokenizer would write it; empty where there is a choice."""
        found: list[int] = self._matcher.compute_ff_tokens()
        return found

    @property
    def complete(self) -> bool:
        """Whether nothing may follow but the end."""
        stopped: bool = self._matcher.is_stopped()
        return stopped

    def close(self) -> None:
        self._matcher = None

    def _check(self) -> None:
        if self._matcher.is_error():
            first = str(self._matcher.get_error()).strip().splitlines()[0]
            raise UsageError(f"the grammar came to an end it cannot leave ({first[:200]})", next="simplify it")
