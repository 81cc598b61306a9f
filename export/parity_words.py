"""What a model reads and where it stops: chat template, token ids, special tokens, end tokens, on both sides."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError, UsageError
from compress.model_config import read_generation_config
from export.checkpoint import Checkpoint, read_config, read_json
from export.tokenizer import load_tokenizer
from runtime.gguf_file import read_gguf
from runtime.session import Session
from runtime.template import render

log = logging.getLogger(__name__)

Messages = Sequence[Mapping[str, Any]]

TALKS: tuple[Messages, ...] = tuple(
    tuple({"role": role, "content": content} for role, content in talk)
    for talk in (
        [("user", "Hello")],
        [("system", "You help customers."), ("user", "Where is order 48213?")],
        [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
        [
            ("system", " padded \n"),
            ("user", "\n two  spaces "),
            ("assistant", " é 你好 🙂\n"),
            ("user", "{{ x }} <b>'\""),
        ],
        [("user", "Thanks."), ("assistant", "You are welcome.")],
    )
)
"""Conversations that every template is tried on, besides the prompts."""


@dataclass(frozen=True)
class Words:
    """One side: the Hugging Face folder, or a candidate as its runtime reads it."""

    render: Callable[[Messages, bool], str | None]
    """The prompt text (with or without the start of the reply); None where the template refuses the messages."""
    encode: Callable[[str], list[int] | None]
    """Token ids; special tokens written in the text are recognised, none is added. None where it has no ids."""
    template: str | None
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


def hugging_face(folder: Path) -> Words:
    """A Hugging Face or GPTQ folder as transformers reads it."""
    tokenizer = load_tokenizer(folder)
    ends = ends_of(folder, tokenizer)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    template = tokenizer.chat_template
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    return Words(
        render=lambda talk, start: _render(tokenizer, talk, start),
        encode=lambda text: _encode(tokenizer, text),
        template=template.get("default") if isinstance(template, dict) else template,
        tokens={i: text for text, i in tokenizer.get_vocab().items()},
        merges=merges_of(backend),
        control=frozenset(token["id"] for token in backend["added_tokens"] if token["special"]),
        special={name: token for name, token in special.items() if isinstance(token, int)},
        adds=_adds(tokenizer),
        ends=ends,
        stops=ends,
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


def _render(tokenizer: Any, talk: Messages, start: bool) -> str | None:
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in talk], tokenize=False, add_generation_prompt=start
        )
    except TemplateError:
        return None
    return text


def _encode(tokenizer: Any, text: str, *, special: bool = False) -> list[int] | None:
    try:
        return list(tokenizer.encode(text, add_special_tokens=special))
    except Exception:  # what the tokenizers library raises where a word has no id
        return None


def _adds(tokenizer: Any) -> tuple[bool, bool]:
    full = _encode(tokenizer, "a", special=True) or _encode(tokenizer, "", special=True) or []
    return full[:1] == [tokenizer.bos_token_id], full[-1:] == [tokenizer.eos_token_id]


def _rendered(session: Session) -> Callable[[Messages, bool], str | None]:
    """The runtime's own sandboxed rendering."""
    engine, template = session.engine, session.template

    def rendered(talk: Messages, start: bool) -> str | None:
        if template is None:
            return None
        try:
            return render(template, talk, bos=engine.bos, eos=engine.eos, add_generation_prompt=start)
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
        template=session.template,
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
    from export.probes import llama_vocabulary

    with llama_vocabulary(path) as vocabulary:
        bare, full = (vocabulary.encode("a", add_special=add) for add in (False, True))
    at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    return at > 0, len(full) > at + len(bare)


def onnx(folder: Path, session: Session) -> Words:
    """An onnxruntime-genai folder: its tokenizer files, and the runtime's view of them."""
    own = hugging_face_files(folder)
    model = read_json(folder / "genai_config.json")["model"]
    ends = model["eos_token_id"]
    named = {name: model.get(f"{name}_token_id") for name in ("bos", "pad")}
    return Words(
        **{
            **vars(own),
            "render": _rendered(session),
            "encode": session.engine.encode,
            "template": session.template,
            "special": {**own.special, **{name: token for name, token in named.items() if token is not None}},
            "ends": frozenset(ends if isinstance(ends, list) else [ends]),
            "stops": session.engine.stops,
        }
    )


def hugging_face_files(folder: Path) -> Words:
    """The tokenizer files of an ONNX folder, which has no config.json."""
    tokenizer = load_tokenizer(folder)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    return Words(
        render=lambda talk, start: _render(tokenizer, talk, start),
        encode=lambda text: _encode(tokenizer, text),
        template=None,
        tokens={i: text for text, i in tokenizer.get_vocab().items()},
        merges=merges_of(backend),
        control=frozenset(token["id"] for token in backend["added_tokens"] if token["special"]),
        special={name: token for name, token in special.items() if isinstance(token, int)},
        adds=_adds(tokenizer),
        ends=frozenset(),
        stops=frozenset(),
    )


# ---- comparisons: each yields differences in words, the worst first ----


def templates(ours: Words, theirs: Words, talks: Sequence[Messages]) -> Iterator[str]:
    """``ours`` is the candidate. Every talk is rendered as it is and as a prompt; a template that was mended so that
    its runtime gives the same token ids may render other spaces."""
    if (ours.template is None) != (theirs.template is None):
        yield f"there is {'no' if ours.template is None else 'a'} chat template, the reference has {_has(theirs)}"
        return
    if theirs.template is None:
        return
    for talk in talks:
        for start in (True, False):
            expected, got = theirs.render(talk, start), ours.render(talk, start)
            if expected != got and not _same_ids(ours, theirs, got, expected):
                yield f"{[m['role'] for m in talk]} renders otherwise: {part(expected, got)}"
    assert ours.template is not None
    if theirs.template.removesuffix("\n") not in ours.template:
        yield f"the template's text differs: {part(theirs.template, ours.template)}"


def _same_ids(ours: Words, theirs: Words, got: str | None, expected: str | None) -> bool:
    return None not in (got, expected) and ours.encode(str(got)) == theirs.encode(str(expected))


def _has(words: Words) -> str:
    return "none" if words.template is None else "one"


def part(expected: str | None, got: str | None) -> str:
    """The place where two texts part, in words."""
    if expected is None or got is None:
        return f"{'refused' if got is None else repr(got[:60])} instead of {_shown(expected)}"
    at = next((i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), min(len(expected), len(got)))
    start = max(0, at - 12)
    return f"at character {at} {got[start : at + 24]!r} instead of {expected[start : at + 24]!r}"


def _shown(text: str | None) -> str:
    return "a refusal" if text is None else repr(text[:60])


def token_ids(ours: Words, theirs: Words, texts: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Token ids of whole texts (as the reference and as the candidate renders them), then the vocabularies entry by
    entry."""
    for expected_text, text in texts:
        expected, got = theirs.encode(expected_text), ours.encode(text) or []
        if expected is not None and expected != got:
            at = first_difference(expected, got)
            start = max(0, at - 1)
            yield (
                f"{text[:60]!r} has other token ids from position {at}: {got[start : at + 4]} instead of "
                f"{expected[start : at + 4]}"
            )
    for number in sorted(theirs.tokens):
        if _spelling(ours.tokens.get(number)) != _spelling(theirs.tokens[number]):
            yield f"token {number} is {ours.tokens.get(number)!r} instead of {theirs.tokens[number]!r}"
    if theirs.merges is not None and ours.merges is not None and list(ours.merges) != list(theirs.merges):
        at = first_difference(theirs.merges, ours.merges)
        yield f"merge {at} is {ours.merges[at : at + 1]} instead of {theirs.merges[at : at + 1]}"


def _spelling(text: str | None) -> str | None:
    """SentencePiece's sign for a space and a space are one."""
    return None if text is None else text.replace(" ", "▁")


def first_difference(expected: Sequence[Any], got: Sequence[Any]) -> int:
    """Index of the first entry that differs, or the length of the shorter."""
    short = min(len(expected), len(got))
    return next((i for i in range(short) if expected[i] != got[i]), short)


def special_tokens(ours: Words, theirs: Words) -> Iterator[str]:
    """Ids of the special tokens, what is added to a text, and which tokens are no text."""
    for name, token in theirs.special.items():
        if name in ours.special and ours.special[name] != token:
            yield f"{name} is token {ours.special[name]} instead of {token} ({theirs.tokens.get(token)!r})"
        elif name == "bos" and name not in ours.special:
            yield f"there is no bos token; the reference has {token} ({theirs.tokens.get(token)!r})"
    for which, mine, wanted in zip(("BOS in front", "EOS behind"), ours.adds, theirs.adds, strict=True):
        if mine != wanted:
            yield f"encoding {'puts' if mine else 'does not put'} {which}; the reference {_does(wanted)}"
    for token in sorted(theirs.control - ours.control - {theirs.special.get("unk")}):
        yield f"token {token} ({theirs.tokens.get(token)!r}) is not marked as a special token"
    for token in sorted(ours.control - theirs.control):
        if token in theirs.tokens and token != theirs.special.get("unk"):
            yield f"token {token} ({theirs.tokens[token]!r}) is marked as special; in the reference it is text"


def _does(wanted: bool) -> str:
    return "does" if wanted else "does not"


def end_tokens(ours: Words, theirs: Words) -> Iterator[str]:
    """Every end token of the reference stops the runtime, and the file names no other."""
    for token in sorted(theirs.ends - ours.stops):
        yield f"end token {token} ({theirs.tokens.get(token)!r}) does not stop the runtime"
    for token in sorted(ours.ends - theirs.ends):
        why = "the reference has none" if not theirs.ends else f"the reference ends at {sorted(theirs.ends)}"
        yield f"token {token} ({theirs.tokens.get(token)!r}) is named as an end token; {why}"


def asked(talk: Messages) -> Messages:
    """A conversation without the replies at its end."""
    kept = list(talk)
    while kept and kept[-1]["role"] == "assistant":
        kept.pop()
    return kept or talk


def plain(talk: Messages) -> str:
    """What is said in a conversation, for models without a chat template."""
    return "\n".join(str(message["content"]) for message in talk)


def probe(path: Path, reference: Checkpoint) -> int:
    """The exporter's own probe strings, split by llama.cpp and transformers; their number.

    0 where the exporter does not know this tokenizer. Raises ArtifactError that shows the first difference.
    """
    from export.probes import check_vocabulary
    from export.tokenizer import read_vocabulary

    tokenizer = load_tokenizer(reference.folder)
    rows = next(reference.shape(n)[0] for n in reference.names() if n.endswith(("embed_tokens.weight", "wte.weight")))
    try:
        vocabulary = read_vocabulary(reference.folder, tokenizer, rows)
    except ArtifactError as error:
        log.warning("no probe strings beside the prompts: %s", error.what)
        return 0
    return check_vocabulary(path, replace(vocabulary, eos_ids=()), tokenizer)  # end tokens are a check of their own


def read_talks(path: Path, count: int) -> tuple[list[Messages], list[str]]:
    """Conversations and plain texts of the first ``count`` usable rows of a JSONL file."""
    talks: list[Messages] = []
    texts: list[str] = []
    with open(path, encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            if len(talks) + len(texts) >= count:
                break
            if not line.strip():
                continue
            messages, text = _row(path, number, line)
            if messages:
                talks.append(messages)
            elif text:
                texts.append(text)
    if not talks and not texts:
        raise ArtifactError(f"{path} holds no prompts", next='give rows of {"messages": […]} or {"text": "…"}')
    return talks, texts


def _row(path: Path, number: int, line: str) -> tuple[Messages, str]:
    from compress.errors import DataError

    try:
        row = json.loads(line)
        messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in row.get("messages") or []]
        text = str(row.get("text") or "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(path, number, f"not a prompt ({error})", next='a row is {"messages"} or {"text"}') from None
    return messages, text
