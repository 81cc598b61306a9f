"""Grammars in llama.cpp's own notation (GBNF)."""

from __future__ import annotations

import ctypes
import re
import weakref
from typing import TYPE_CHECKING, Any

import llama_cpp.llama_cpp as lib
import numpy as np

from ...errors import UsageError
from ..text import half_character

if TYPE_CHECKING:
    from .base import Rows

CAP, NESTED = 1 << 16, 1024
"""Characters of a grammar, and its brackets in brackets: the library's parser is recursive and overflows the stack."""


def _check(grammar: str) -> None:
    if len(grammar) > CAP:
        raise UsageError(f"the grammar has more than {CAP} characters", next="simplify it or the JSON schema")
    depth = deepest = 0
    for sign in re.findall("[()]", grammar):
        depth += 1 if sign == "(" else -1
        deepest = max(deepest, depth)
    if deepest > NESTED:
        raise UsageError(f"the grammar nests brackets {deepest} deep, at most {NESTED} work", next="simplify it")
    if "\0" in grammar or half_character(grammar) is not None:
        raise UsageError("the grammar holds a zero byte or half a character", next="take it out")


class Grammar:
    """A GBNF grammar over the vocabulary (`Constraint`)."""

    _DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

    def __init__(self, vocab: Any, n_vocab: int, grammar: str) -> None:
        _check(grammar)
        self._sampler = lib.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
        if not self._sampler:
            raise UsageError("the grammar does not parse", next="check the GBNF text; its first rule is 'root'")
        self._free = weakref.finalize(self, lib.llama_sampler_free, self._sampler)
        self._data = np.zeros(n_vocab, self._DATA)
        self._ids = np.arange(n_vocab, dtype=np.int32)

    def _apply(self, count: int) -> None:
        array = lib.llama_token_data_array(
            data=self._data.ctypes.data_as(lib.llama_token_data_p), size=count, selected=-1, sorted=False
        )
        lib.llama_sampler_apply(self._sampler, ctypes.byref(array))

    def allow(self, row: Rows) -> Rows:
        self._data["id"], self._data["logit"] = self._ids, row
        self._apply(len(self._data))
        return np.ascontiguousarray(self._data["logit"])

    def permits(self, token: int) -> bool:
        self._data["id"][0], self._data["logit"][0] = token, 0.0
        self._apply(1)
        return bool(np.isfinite(self._data["logit"][0]))

    def accept(self, token: int) -> None:
        lib.llama_sampler_accept(self._sampler, token)

    def forced(self) -> list[int]:
        return []

    @property
    def complete(self) -> bool:
        return False

    def close(self) -> None:
        self._free()
