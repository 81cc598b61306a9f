"""What a Hugging Face tokenizer folder tells besides the ids: bytes of tokens, added tokens, chat templates."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from ..chat import Chat, of_folder


@cache
def byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes, reversed."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    extra = iter(range(256, 512))
    return {chr(byte) if byte in printable else chr(next(extra)): byte for byte in range(256)}


_FOLDING = re.compile('"(NFK[CD]|Nmt|Precompiled|Lowercase|StripAccents|BertNormalizer)"')
"""Normalizers after which two spellings may be one."""


@dataclass(frozen=True)
class Vocabulary:
    """Token texts of ``tokenizer.json``, and what the files beside it say about conversations."""

    texts: dict[int, str]
    special: dict[str, int]
    """Control tokens: text -> id."""
    plain: tuple[str, ...]
    """Texts of the added tokens that are no control tokens."""
    bytewise: bool
    """Byte-level BPE (else SentencePiece-style texts)."""
    folds: bool
    """Whether texts are normalized before they are split, so that characters are taken for one another."""
    chat: Chat

    @classmethod
    def read(cls, folder: Path) -> Vocabulary:
        """Read the folder. Raises OSError, ValueError or KeyError when it is not a tokenizer's."""
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        added = {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens", ())}
        special = {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens", ()) if entry["special"]}
        texts = {number: text for text, number in tokenizer["model"]["vocab"].items()}
        texts |= {number: text for text, number in added.items()}
        bytewise = '"ByteLevel"' in json.dumps(tokenizer.get("decoder"))
        plain = tuple(sorted(added.keys() - special.keys()))
        folds = _FOLDING.search(json.dumps(tokenizer.get("normalizer"))) is not None
        return cls(texts, special, plain, bytewise, folds, of_folder(folder))

    @property
    def controls(self) -> tuple[str, ...]:
        """Texts of the control tokens."""
        return tuple(sorted(self.special))

    @cached_property
    def _words(self) -> frozenset[str]:
        return frozenset(self.plain)

    @cached_property
    def _marks(self) -> re.Pattern[str] | None:
        longest_first = sorted(self.special, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None

    def encode(self, text: str, ordinary: Callable[[str], list[int]]) -> list[int]:
        """Ids of ``text``: control tokens by name, what is between them by ``ordinary`` (which may put the
        beginning-of-text token in front of each part; it is taken off)."""
        ids: list[int] = []
        bos = self.special.get(self.chat.special.get("bos_token", ""))
        for part in self._marks.split(text) if self._marks else [text]:
            if part in self.special:
                ids.append(self.special[part])
            elif part:
                found = ordinary(part)
                ids += found[1:] if found and found[0] == bos else found
        return ids

    def piece(self, token: int) -> bytes:
        """The bytes of a token; none for a control token."""
        text = self.texts.get(token, "")
        if text in self.special:
            return b""
        if self.bytewise and text in self._words:
            return text.encode()
        if self.bytewise:
            return bytes(byte_of_character()[c] for c in text if c in byte_of_character())
        if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", text):
            return bytes([int(text[3:5], 16)])
        return text.replace("▁", " ").encode()
