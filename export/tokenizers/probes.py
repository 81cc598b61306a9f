"""The same token ids in llama.cpp and Hugging Face, shown on probe strings."""

from __future__ import annotations

import ctypes
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError
from compress.extras import need
from export.tokenizers.chats import PROBES, chat_probes
from export.tokenizers.vocabulary import BYTE, BYTE_OF, NORMAL, SPACE, USER_DEFINED, Vocabulary

log = logging.getLogger(__name__)


@cache
def quiet_llama() -> Any:
    """llama_cpp with its native log sent to Python's logging (debug)."""
    llama_cpp = need("llama_cpp")

    def forward(level: int, text: bytes, data: Any) -> None:
        del level, data
        log.debug("llama.cpp: %s", text.decode(errors="replace").rstrip())

    callback = llama_cpp.llama_log_callback(forward)
    _CALLBACKS.append(callback)
    llama_cpp.llama_log_set(callback, None)
    return llama_cpp


_CALLBACKS: list[Any] = []
"""ctypes keeps no reference to a callback that native code holds."""


class LlamaVocabulary:
    """The vocabulary of a .gguf file as llama.cpp reads it."""

    def __init__(self, llama_cpp: Any, vocab: Any) -> None:
        self._lib, self._vocab = llama_cpp, vocab

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """Token ids of ``text``; special tokens written in it are parsed."""
        raw = text.encode()
        room = len(raw) + 8
        ids = (ctypes.c_int32 * room)()
        count = self._lib.llama_tokenize(self._vocab, raw, len(raw), ids, room, add_special, True)
        assert count >= 0, "at most one token per byte, plus BOS and EOS"
        return list(ids[:count])

    def ends(self, token: int) -> bool:
        """Whether llama.cpp stops at ``token``."""
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def attributes(self, token: int) -> int:
        """``enum llama_token_attr`` of ``token``, as llama.cpp's own corrections leave it."""
        return int(self._lib.llama_vocab_get_attr(self._vocab, token))

    def special(self, name: str) -> int | None:
        """The ``bos``, ``eos``, ``eot``, ``fim_pad``, ... token, llama.cpp's defaults included."""
        token = int(getattr(self._lib, f"llama_vocab_{name}")(self._vocab))
        return token if token >= 0 else None

    def adds(self, name: str) -> bool:
        """Whether encoding adds the ``bos`` or ``eos`` token."""
        return bool(getattr(self._lib, f"llama_vocab_get_add_{name}")(self._vocab))


@contextmanager
def llama_vocabulary(path: Path) -> Iterator[LlamaVocabulary]:
    """Load only the vocabulary of a .gguf file. Raises ArtifactError when llama.cpp refuses it."""
    llama_cpp = quiet_llama()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise ArtifactError(f"llama.cpp cannot read the vocabulary of {path.name}", next="run again with --debug")
    try:
        yield LlamaVocabulary(llama_cpp, llama_cpp.llama_model_get_vocab(model))
    finally:
        llama_cpp.llama_model_free(model)


def probes_for(vocabulary: Vocabulary, tokenizer: Any) -> list[str]:
    """Texts that llama.cpp must split as Hugging Face does: PROBES, alone and between special tokens, and every
    token's own text in other company; less what ``Vocabulary.limits`` names."""
    texts = [*PROBES, *token_lines(vocabulary)]
    added = [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    starts = ["", " ", *added[:1], *(token + " " for token in added[:1])]
    forms = ([start + text.lstrip() * bool(start) or text for start in starts] for text in texts)
    found = [next(filter(vocabulary.follows, form), None) for form in forms]
    for token in added[:: max(1, len(added) // MOST_SPECIAL)]:
        found += [f"{token}{PROBES[0]}{token}\n{PROBES[3]}", f"{PROBES[0]} {token} {PROBES[13]}{token}{token}"]
    return [text for text in found if text is not None and vocabulary.follows(text)]


MOST_SPECIAL, MOST_TOKENS, LEAST_TOKENS, PER_LINE = 64, 65536, 16384, 12


def token_lines(vocabulary: Vocabulary) -> list[str]:
    """Texts of a dozen random tokens each, from a fixed seed: every token, of a small vocabulary several times,
    of a large one MOST_TOKENS."""
    texts = [_text(vocabulary, i) for i, kind in enumerate(vocabulary.types) if kind == NORMAL]
    texts = [text for text in texts if text]
    draw, pieces = random.Random(0), list[str]()
    while texts and len(pieces) < LEAST_TOKENS:
        draw.shuffle(texts)
        pieces += texts[:MOST_TOKENS]
    space = " " if vocabulary.model == "whitespace" else ""
    return [space.join(pieces[at : at + PER_LINE]) for at in range(0, len(pieces), PER_LINE)]


def _text(vocabulary: Vocabulary, token: int) -> str:
    """What a token stands for; empty for part of a character."""
    text = vocabulary.tokens[token]
    if vocabulary.model != "gpt2" or vocabulary.pre == "sarvam-moe":
        return text.replace(SPACE, " ")
    try:
        return bytes(BYTE_OF[char] for char in text).decode()
    except (KeyError, UnicodeDecodeError):
        return ""


@dataclass(frozen=True)
class Probe:
    """A text, and what Hugging Face makes of it."""

    text: str
    add_special: bool
    """Whether BOS and EOS are added."""
    ids: Sequence[int]


def make_probes(vocabulary: Vocabulary, tokenizer: Any) -> list[Probe]:
    """Every text without and with special tokens. Chats are never left out: each as the file's own template renders
    it, with the ids that Hugging Face gives to its own rendering."""
    asked = probes_for(vocabulary, tokenizer)
    chats = chat_probes(tokenizer, vocabulary.chat_template)
    texts, rendered = [*asked, *chat_probes(tokenizer)], [*asked, *chats]
    found = []
    for add in (False, True):
        wanted = tokenizer(texts, add_special_tokens=add)["input_ids"]
        found += [Probe(text, add, ids) for text, ids in zip(rendered, wanted, strict=True)]
    return found


def check_vocabulary(path: Path, vocabulary: Vocabulary, tokenizer: Any) -> int:
    """``check_probes`` with those of the tokenizer."""
    return check_probes(path, vocabulary, make_probes(vocabulary, tokenizer))


def check_probes(path: Path, vocabulary: Vocabulary, probes: Sequence[Probe]) -> int:
    """Compare token ids and end tokens of a written file with Hugging Face's; return the number of texts.

    Raises ArtifactError that shows the first difference.
    """
    with llama_vocabulary(path) as llama:
        for probe in probes:
            if probe.ids != (got := llama.encode(probe.text, add_special=probe.add_special)):
                raise ArtifactError(_difference(probe.text, probe.ids, got), next=_NEXT)
        _check_ends(llama, vocabulary)
    return len(probes) // 2


def _check_ends(llama: LlamaVocabulary, vocabulary: Vocabulary) -> None:
    deaf = [token for token in vocabulary.eos_ids if not llama.ends(token)]
    if deaf:
        raise ArtifactError(
            f"llama.cpp would not stop at end token(s) {deaf}", next="name at most three in eos_token_id"
        )
    marks = [vocabulary.tokens[i] for i, kind in enumerate(vocabulary.types) if kind == USER_DEFINED and llama.ends(i)]
    if marks:
        log.warning("llama.cpp ends a reply at %s by the name alone, and does not write it", ", ".join(marks))
    words = [i for i, kind in enumerate(vocabulary.types) if kind in (NORMAL, BYTE) and i not in vocabulary.eos_ids]
    if (stop := next(filter(llama.ends, words), None)) is not None:
        raise ArtifactError(
            f"llama.cpp would stop at token {stop} ({vocabulary.tokens[stop]!r}), an ordinary one",
            next="name the end-of-sequence token in generation_config.json",
        )


_NEXT = "see docs/formats.md, tokenizers: which ones llama.cpp reproduces"


def _difference(text: str, expected: Sequence[int], got: Sequence[int]) -> str:
    at = next((i for i, pair in enumerate(zip(expected, got, strict=False)) if pair[0] != pair[1]), len(expected))
    return (
        f"llama.cpp splits {text[:60]!r} otherwise than Hugging Face: at token {at} "
        f"{list(got[at : at + 4])} instead of {list(expected[at : at + 4])}"
    )
