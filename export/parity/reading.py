"""Differences between what two sides read: chat template, token ids, special tokens, end tokens.

Each function yields differences in words; the first is what a message shows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError
from export.checkpoint import Checkpoint
from export.parity.weights import embedding_of
from export.parity.words import Messages, Words
from export.tokenizers.read import load_tokenizer
from runtime.engine.chat import DEFAULT

log = logging.getLogger(__name__)


def templates(ours: Words, theirs: Words, talks: Sequence[Messages]) -> Iterator[str]:
    """``ours`` is the candidate. Every talk is rendered as it is and as a prompt; a template that was mended so that
    its runtime gives the same token ids may render other spaces."""
    if sorted(ours.templates) != sorted(theirs.templates):
        yield f"there is {_has(ours)}, the reference has {_has(theirs)}"
        return
    for name, text in theirs.templates.items():
        for talk in talks:
            for start in (True, False):
                expected, got = theirs.render(talk, start, name), ours.render(talk, start, name)
                if expected != got and not _same_ids(ours, theirs, got, expected):
                    yield f"{[m['role'] for m in talk]} renders otherwise{_by(name)}: {part(expected, got)}"
        if text.removesuffix("\n") not in ours.templates[name]:
            yield f"the template's text differs{_by(name)}: {part(text, ours.templates[name])}"


def _by(name: str) -> str:
    return "" if name == DEFAULT else f" by the template {name!r}"


def _same_ids(ours: Words, theirs: Words, got: str | None, expected: str | None) -> bool:
    return None not in (got, expected) and ours.encode(str(got)) == theirs.encode(str(expected))


def _has(words: Words) -> str:
    names = sorted(words.templates)
    return "a chat template" if names == [DEFAULT] else f"chat templates {names}" if names else "no chat template"


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


def probe(path: Path, reference: Checkpoint) -> int:
    """The exporter's own probe strings, split by llama.cpp and transformers; their number.

    0 where the exporter does not know this tokenizer. Raises ArtifactError that shows the first difference.
    """
    from export.tokenizers.probes import check_vocabulary
    from export.tokenizers.read import read_vocabulary

    tokenizer = load_tokenizer(reference.folder)
    rows = reference.shape(embedding_of(reference))[0]
    try:
        vocabulary = read_vocabulary(reference.folder, tokenizer, rows)
    except ArtifactError as error:
        log.warning("no probe strings beside the prompts: %s", error.what)
        return 0
    return check_vocabulary(path, replace(vocabulary, eos_ids=()), tokenizer)  # end tokens are a check of their own
