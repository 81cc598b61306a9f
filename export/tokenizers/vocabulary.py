"""A tokenizer in GGUF's terms, and what llama.cpp cannot follow of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.errors import ArtifactError
from runtime.engine.chat import DEFAULT, GGUF_SPECIAL, GGUF_TEMPLATE, Chat, special_by_ids

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""``enum llama_token_type``."""
SPACE = "▁"
"""SentencePiece's mark for a space."""
_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_OF = {chr(byte): byte for byte in _PRINTED} | {
    chr(256 + at): byte for at, byte in enumerate(byte for byte in range(256) if byte not in _PRINTED)
}
"""Byte-level BPE's character -> the byte (GPT-2's ``bytes_to_unicode``)."""
_STRIPPING = re.compile("phi-?3", re.IGNORECASE)


@dataclass(frozen=True)
class Limit:
    """Texts that llama.cpp splits otherwise than Hugging Face whatever the file says."""

    what: str
    hits: Callable[[str], bool]


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer in GGUF's terms."""

    model: str
    """``gpt2`` (BPE by merges), ``llama`` (SentencePiece BPE by scores), ``t5`` (SentencePiece unigram) or
    ``whitespace`` (whole words)."""
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    special: Mapping[str, int]
    """``bos``, ``eos``, ``eot``, ``eom``, ``unk``, ``pad`` -> id, those that exist."""
    eos_ids: Sequence[int]
    """Every token that ends a generation in Hugging Face; empty: only the length does."""
    add_bos: bool
    add_eos: bool
    chat: Chat
    """Templates as the file has them: the tokenizer's own, mended (export/tokenizers/chats.py); special tokens."""
    scores: Sequence[float] | None = None
    merges: Sequence[str] | None = None
    space_prefix: bool | None = None
    """Whether llama.cpp puts a space before every stretch of text; None: its model has no such setting."""
    merge_spaces: bool | None = None
    """``t5`` only: runs of spaces become one."""
    charsmap: bytes | None = None
    """``t5`` only: replacements of character sequences (export/tokenizers/charsmap.py)."""
    limits: tuple[Limit, ...] = ()
    strips: bool = False
    """Whether special tokens strip the spaces behind them, which llama.cpp knows by the model's name alone."""

    def follows(self, text: str) -> bool:
        """Whether llama.cpp can split ``text`` as Hugging Face does."""
        return not any(limit.hits(text) for limit in self.limits)

    def model_name(self, wanted: str) -> str:
        """``general.name``: llama.cpp strips spaces behind special tokens if it contains phi-3 or phi3, and only
        then (src/llama-vocab.cpp)."""
        if not self.strips:
            return _STRIPPING.sub("phi 3", wanted)
        return wanted if _STRIPPING.search(wanted) else f"{wanted} (phi-3 tokenizer)"

    def write(self, writer: Any) -> None:
        """The tokenizer's keys of the header (``gguf.GGUFWriter``)."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(list(self.tokens))
        if self.scores is not None:
            writer.add_token_scores(list(self.scores))
        writer.add_token_types(list(self.types))
        if self.merges is not None:
            writer.add_token_merges(list(self.merges))
        for name, token in self.special.items():
            getattr(writer, f"add_{name}_token_id")(token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.space_prefix is not None:
            writer.add_add_space_prefix(self.space_prefix)
        if self.merge_spaces is not None:
            writer.add_remove_extra_whitespaces(self.merge_spaces)
        if self.charsmap is not None:
            writer.add_precompiled_charsmap(self.charsmap)
        self._write_chat(writer)

    @property
    def chat_template(self) -> str | None:
        """The template without a name."""
        return self.chat.templates.get(DEFAULT)

    def _write_chat(self, writer: Any) -> None:
        """Templates by name; special tokens only where the ids above would tell the runtime something else."""
        for name, text in sorted(self.chat.templates.items()):
            writer.add_string(GGUF_TEMPLATE if name == DEFAULT else f"{GGUF_TEMPLATE}.{name}", text)
        if names := sorted(self.chat.templates.keys() - {DEFAULT}):
            writer.add_array("tokenizer.chat_templates", names)
        keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
        ids = {f"tokenizer.ggml.{key}_token_id": self.special[n] for n, key in keys.items() if n in self.special}
        told = special_by_ids({"tokenizer.ggml.tokens": self.tokens, "tokenizer.ggml.model": self.model} | ids)
        if told != self.chat.special:
            writer.add_string(GGUF_SPECIAL, json.dumps(dict(self.chat.special), ensure_ascii=False, sort_keys=True))


def unsupported(what: str, next_step: str) -> ArtifactError:
    """The error of a tokenizer that llama.cpp has no way to reproduce."""
    return ArtifactError(f"llama.cpp cannot reproduce this tokenizer: {what}", next=next_step)
