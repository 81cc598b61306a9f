"""The same token ids in llama.cpp and Hugging Face, shown on probe strings."""

from __future__ import annotations

import ctypes
import logging
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError
from compress.extras import need
from export.tokenizer import Vocabulary

log = logging.getLogger(__name__)

PROBES = (
    "Hello, world! How are you today?",
    "  two  spaces   three    four\ttab\t\ttabs \n newline\n\n\nnewlines \r\n end  ",
    "I've, you're, WE'LL, he'd, it's, o'clock, rock'n'roll, 'quoted' ''double''",
    "0 1 12 123 1234 12345 1,234.56 3.14e-10 2026-01-31 +49 170 1234567 #42 50% $9.99 €7,50 ½ ² Ⅳ",
    "ÄÖÜ äöü ß é è ñ ç å ø œ Ł ž İ ı ﬁ",
    "Быстрая коричневая лиса; γρήγορη αλεπού; שלום עולם; مرحبا بالعالم ١٢٣; नमस्ते दुनिया ४५; สวัสดี; កាន់តែ",
    "你好，世界！今天天气很好。日本語のテスト、カタカナ。한국어 문장입니다.",
    "🙂 👍🏽 👩‍👩‍👧 🇩🇪 ❤️ 🚀🚀🚀 (normal) 😶\u200d🌫️",
    "def f(x):\n    return x**2  # comment\n\nfor (int i=0;i<10;++i){a[i]&=~0x1F;}\n<html>&amp;</html>",
    "!!??..,,;;::--__==++//\\\\||@@##$$%%^^&&**(())[[]]{{}}<<>>``~~\"\"''",
    "a\u00a0b\u2003c\u3000d\u200be\u2028f\ufeffg",
    "https://example.com/a?b=c&d=%20#e user.name+tag@example.co.uk C:\\Path\\file.txt",
    '{"action": "answer", "priority": "P1", "citations": [], "reply": "Order 48213 ships on 3 May."}',
    "x",
    "1",
    "The   quick\u0001brown\u007ffox",
)
"""Text of many kinds; llama.cpp must split each exactly as Hugging Face does."""


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


def chat_probes(tokenizer: Any) -> list[str]:
    """Rendered conversations (none without a template): what the model is really asked."""
    if not tokenizer.chat_template:
        return []
    turns = [{"role": "user", "content": PROBES[0]}, {"role": "assistant", "content": PROBES[12]}]
    talks = [turns[:1], [*turns, {"role": "user", "content": PROBES[3]}]]
    return [tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) for talk in talks]


def probes_for(vocabulary: Vocabulary, tokenizer: Any) -> list[str]:
    """Probe strings, each also between special tokens, as far as llama.cpp can follow this tokenizer at all.

    It has no NFC step, doubles a leading space where Hugging Face's Metaspace does not, and puts its space
    before every stretch of text or before none (``Vocabulary.prefix_scheme``).
    """
    backend = tokenizer.backend_tokenizer
    texts = [t for t in PROBES if backend.normalizer is None or unicodedata.is_normalized("NFC", t)]
    if backend.pre_tokenizer is not None and vocabulary.model == "llama":
        texts = [t.lstrip(" ") for t in texts]
    control = [tokenizer.convert_ids_to_tokens(i) for i in sorted(set(vocabulary.special.values()))]
    between = [f"{token}{texts[0]}{token}\n{texts[3]}" for token in control]
    if vocabulary.prefix_scheme == "first" and vocabulary.space_prefix:
        log.warning("llama.cpp puts a space after every special token, Hugging Face only at the start of a text")
        return texts
    if vocabulary.prefix_scheme == "first":
        texts = [control[0] + t for t in texts]
    return [*texts, *between, *chat_probes(tokenizer)]


def check_vocabulary(path: Path, vocabulary: Vocabulary, tokenizer: Any) -> int:
    """Compare token ids and end tokens of a written file with Hugging Face's; return the number of probes.

    Raises ArtifactError that shows the first difference.
    """
    texts = probes_for(vocabulary, tokenizer)
    with llama_vocabulary(path) as llama:
        for text in texts:
            for add in (False, True):
                expected = tokenizer.encode(text, add_special_tokens=add)
                got = llama.encode(text, add_special=add)
                if expected != got:
                    raise ArtifactError(_difference(text, expected, got), next=_NEXT)
        deaf = [token for token in vocabulary.eos_ids if not llama.ends(token)]
    if deaf:
        raise ArtifactError(
            f"llama.cpp would not stop at end token(s) {deaf}", next="name at most three in eos_token_id"
        )
    return len(texts)


_NEXT = "see docs/formats.md, tokenizers: which ones llama.cpp reproduces"


def _difference(text: str, expected: Sequence[int], got: Sequence[int]) -> str:
    at = next((i for i, pair in enumerate(zip(expected, got, strict=False)) if pair[0] != pair[1]), len(expected))
    return (
        f"llama.cpp splits {text[:60]!r} otherwise than Hugging Face: at token {at} "
        f"{list(got[at : at + 4])} instead of {list(expected[at : at + 4])}"
    )
