"""What a model reads and where it stops, as transformers and as the runtimes see it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from compress.errors import UsageError
from compress.json_files import read_json
from compress.model.config import read_config, read_generation_config
from export.tokenizers.read import load_tokenizer
from runtime.engine.chat import DEFAULT, of_tokenizer
from runtime.engine.gguf_file import read_gguf
from runtime.engine.template import STILL, render
from runtime.session import Session

log = logging.getLogger(__name__)

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Words:
    """One side: the Hugging Face folder, or a candidate as its runtime reads it."""

    render: Callable[[Messages, bool, str | None], str | None]
    """The prompt text (with or without the start of the reply) by the template of that name, None the one in use; None
    where the template refuses the messages. The clock stands still, on every side."""
    encode: Callable[[str], list[int] | None]
    """Token ids; special tokens written in the text are recognised, none is added. None where it has no ids."""
    templates: Mapping[str, str]
    """Chat templates by name."""
    tokens: Mapping[int, str]
    """Id -> text as the vocabulary spells it."""
    merges: Sequence[str] | None
    """Byte-level BPE only."""
    control: frozenset[int]
    """Ids of the tokens that are no text."""
    special: Mapping[str, int]
    """``bos``, ``eos``, ``unk``, ``pad`` -> id, those that exist."""
    adds: tuple[bool, bool]
    """Whether plain encoding puts BOS in front, EOS behind."""
    ends: frozenset[int]
    """Tokens that are named as the end of a reply."""
    stops: frozenset[int]
    """Tokens at which generation really ends."""

    @property
    def template(self) -> str | None:
        """The template in use; None where there is none, or several and no default."""
        return self.templates.get(DEFAULT)


def hugging_face(folder: Path) -> Words:
    """A Hugging Face or GPTQ folder as transformers reads it."""
    ends = ends_of(folder, load_tokenizer(folder))
    return replace(tokenizer_files(folder), ends=ends, stops=ends)


def tokenizer_files(folder: Path) -> Words:
    """The tokenizer of a folder, which need not have a config.json; its end tokens are not known."""
    tokenizer = load_tokenizer(folder)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    return Words(
        render=lambda talk, start, name: _render(tokenizer, talk, start, name),
        encode=lambda text: _encode(tokenizer, text),
        templates=of_tokenizer(tokenizer).templates,
        tokens={i: text for text, i in tokenizer.get_vocab().items()},
        merges=merges_of(backend),
        control=frozenset(token["id"] for token in backend["added_tokens"] if token["special"]),
        special={name: token for name, token in special.items() if isinstance(token, int)},
        adds=_adds(tokenizer),
        ends=frozenset(),
        stops=frozenset(),
    )


def merges_of(backend: Mapping[str, Any]) -> list[str] | None:
    """Merges of a byte-level BPE, as ``left right``."""
    model = backend["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        return None
    return [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]


def ends_of(folder: Path, tokenizer: Any) -> frozenset[int]:
    """Tokens at which ``transformers.generate`` stops: generation_config.json's, else config.json's."""
    given = read_generation_config(folder).get("eos_token_id")
    if given is None:
        given = read_config(folder).get("eos_token_id")
    if given is None:
        given = tokenizer.eos_token_id
    return frozenset([given] if isinstance(given, int) else given or [])


def _render(tokenizer: Any, talk: Messages, start: bool, name: str | None) -> str | None:
    """transformers' own rendering. ``strftime_now`` reads the clock through the name ``datetime`` of its module."""
    from transformers.utils import chat_template_utils

    options = {"chat_template": name if isinstance(tokenizer.chat_template, dict) else None}
    clock, chat_template_utils.datetime = chat_template_utils.datetime, _Still
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in talk], tokenize=False, add_generation_prompt=start, **options
        )
    except Exception:  # a template may raise anything
        return None
    finally:
        chat_template_utils.datetime = clock
    return text


class _Still:
    """A ``datetime`` whose clock stands still."""

    @staticmethod
    def now() -> datetime:
        return STILL


def _encode(tokenizer: Any, text: str, *, special: bool = False) -> list[int] | None:
    try:
        return list(tokenizer.encode(text, add_special_tokens=special))
    except Exception:  # what the tokenizers library raises where a word has no id
        return None


def _adds(tokenizer: Any) -> tuple[bool, bool]:
    full = _encode(tokenizer, "a", special=True) or _encode(tokenizer, "", special=True) or []
    return full[:1] == [tokenizer.bos_token_id], full[-1:] == [tokenizer.eos_token_id]


def _rendered(session: Session) -> Callable[[Messages, bool, str | None], str | None]:
    """The runtime's own sandboxed rendering."""
    chat = session.chat_files

    def rendered(talk: Messages, start: bool, name: str | None) -> str | None:
        try:
            template = chat.template(name)
            if template is None:
                return None
            return render(template, talk, special=chat.special, add_generation_prompt=start, now=STILL)
        except UsageError:
            return None

    return rendered


def gguf(path: Path, session: Session) -> Words:
    """A .gguf file: its header, and llama.cpp's view of it."""
    metadata = read_gguf(path).metadata

    def value(key: str) -> Any:
        return metadata.get(f"tokenizer.ggml.{key}")

    types = value("token_type") or []
    named = {name: value(f"{key}_token_id") for name, key in _KEYS.items()}
    if value("model") == "t5":
        named["unk"] = None  # llama.cpp's unigram joins neighbours that are its unknown token; the ids tell
    return Words(
        render=_rendered(session),
        encode=session.engine.encode,
        templates=session.chat_files.templates,
        tokens=dict(enumerate(value("tokens") or [])),
        merges=value("merges"),
        control=frozenset(i for i, kind in enumerate(types) if kind in (2, 3)),  # UNKNOWN, CONTROL
        special={name: token for name, token in named.items() if token is not None and name in ("bos", "unk", "pad")},
        adds=llama_adds(path),
        ends=frozenset(token for name in ("eos", "eot", "eom") if (token := named[name]) is not None),
        stops=session.engine.stops,
    )


_KEYS = {"bos": "bos", "unk": "unknown", "pad": "padding", "eos": "eos", "eot": "eot", "eom": "eom"}


def llama_adds(path: Path) -> tuple[bool, bool]:
    """Whether llama.cpp puts BOS in front and EOS behind what it tokenizes for others."""
    from export.tokenizers.probes import llama_vocabulary

    with llama_vocabulary(path) as vocabulary:
        bare, full = (vocabulary.encode("a", add_special=add) for add in (False, True))
    at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    return at > 0, len(full) > at + len(bare)


def onnx(folder: Path, session: Session) -> Words:
    """An onnxruntime-genai folder: its tokenizer files, and the runtime's view of them."""
    own = tokenizer_files(folder)
    model = read_json(folder / "genai_config.json")["model"]
    ends = model["eos_token_id"]
    named = {name: model.get(f"{name}_token_id") for name in ("bos", "pad")}
    return replace(
        own,
        render=_rendered(session),
        encode=session.engine.encode,
        templates=session.chat_files.templates,
        special={**own.special, **{name: token for name, token in named.items() if token is not None}},
        ends=frozenset(ends if isinstance(ends, list) else [ends]),
        stops=session.engine.stops,
    )
