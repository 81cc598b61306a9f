"""Hugging Face tokenizers as GGUF vocabularies.

What ``AutoTokenizer`` really does is read from its backend (one JSON of vocabulary, merges, normalizer,
pre-tokenizer and post-processor), so every way of saving a tokenizer ends in the same place. The kinds are
translated in bpe.py (byte-level), spm.py (SentencePiece BPE with byte fallback), ugm.py (unigrams, single characters)
and words.py; probes.py then shows that both give the same ids.
"""

from __future__ import annotations

import json
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError
from compress.model.config import read_config, read_generation_config
from compress.model.tokenizer import load_tokenizer
from export.tokenizers.bpe import byte_level
from export.tokenizers.chats import Repairs
from export.tokenizers.spm import sentencepiece
from export.tokenizers.ugm import characters, unigram
from export.tokenizers.vocabulary import CONTROL, NORMAL, UNUSED, USER_DEFINED, Limit, Vocabulary, unsupported
from export.tokenizers.words import words
from runtime.engine.chat import Chat, of_tokenizer

__all__ = ["end_ids", "load_tokenizer", "read_vocabulary"]
log = logging.getLogger(__name__)


def read_vocabulary(folder: Path, tokenizer: Any, size: int) -> Vocabulary:
    """The vocabulary of ``tokenizer`` padded to ``size`` rows of the embedding.

    Raises ArtifactError for a tokenizer that llama.cpp cannot reproduce.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens, types = _pad(_ids(backend["model"]), backend["added_tokens"], size)
    fields = _kind(backend, tokenizer, tokens, types)
    fields["limits"] = (*fields.get("limits", ()), *_overlaps([token["content"] for token in backend["added_tokens"]]))
    eos_ids = end_ids(folder, tokenizer, size, required=False)
    strips = _strips(backend["added_tokens"], fields)
    chat, repairs = of_tokenizer(tokenizer), fields.pop("repairs", Repairs())
    templates = {name: repairs.template(text, tokenizer) for name, text in chat.templates.items() if text}
    if not templates:
        log.warning("%s has no chat template: the model will not answer messages, only go on with text", folder)
    for limit in fields.get("limits", ()):
        log.warning("llama.cpp does not follow Hugging Face everywhere: %s", limit.what)
    special = _special(folder, tokenizer, eos_ids, size) | fields.pop("special", {})
    add_bos, add_eos = _adds(tokenizer, tokens[0] if fields["model"] == "whitespace" else "a", special)
    return Vocabulary(
        tokens=tokens,
        types=types,
        special=special,
        eos_ids=eos_ids,
        add_bos=add_bos,
        add_eos=add_eos,
        chat=Chat(templates, chat.special),
        strips=strips,
        **fields,
    )


def _kind(backend: Mapping[str, Any], tokenizer: Any, tokens: list[str], types: list[int]) -> dict[str, Any]:
    model = backend["model"]
    if model["type"] == "Unigram":
        return unigram(backend, tokenizer, tokens, types)
    if model["type"] == "WordLevel":
        return words(backend)
    if model["type"] != "BPE":
        raise unsupported(f"its model is {model['type']}", "convert it to BPE")
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(name):
            raise unsupported(f"{name} is {model[name]!r}", f"convert it to a BPE without {name}")
    if model.get("byte_fallback"):
        return sentencepiece(backend, tokenizer, tokens, types)
    if not model["merges"] and "ByteLevel" not in json.dumps(backend["pre_tokenizer"]):
        return characters(backend, tokenizer, tokens, types)
    return byte_level(backend)


def _ids(model: Mapping[str, Any]) -> dict[str, int]:
    if model["type"] == "Unigram":
        return {text: i for i, (text, _) in enumerate(model["vocab"])}
    return dict(model.get("vocab", {}))


def _pad(vocab: Mapping[str, int], added: Sequence[Mapping[str, Any]], size: int) -> tuple[list[str], list[int]]:
    """Token texts and types by id. Ids without a token become unused ones, as in llama.cpp's converter."""
    most = max([*vocab.values(), *(token["id"] for token in added)], default=-1)
    if most >= size:
        raise ArtifactError(
            f"the tokenizer has token {most} but the embedding only {size} rows",
            next="resize the embedding to the tokenizer (model.resize_token_embeddings) and save again",
        )
    texts = {i: text for text, i in vocab.items()} | {token["id"]: token["content"] for token in added}
    taken = set(texts.values())
    assert len(taken) == len(texts), "Hugging Face gives one id to a text; llama.cpp aborts otherwise"
    types = [NORMAL if i in texts else UNUSED for i in range(size)]
    for token in added:
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    return [texts.get(i) or _unused(i, taken) for i in range(size)], types


def _unused(number: int, taken: set[str]) -> str:
    name = f"[PAD{number}]"
    while name in taken:
        name = f"[{name}]"
    return name


def _overlaps(added: Sequence[str]) -> tuple[Limit, ...]:
    """Where one added token begins inside another and ends behind it, Hugging Face takes the first, llama.cpp the
    longer one."""
    known, lengths = {*added}, sorted({len(text) for text in added}, reverse=True)

    def hits(text: str) -> bool:
        first, end = "", 0
        for at in range(len(text)):
            token = next((text[at : at + size] for size in lengths if text[at : at + size] in known), "")
            if at >= end:
                first, end = token, at + len(token)
            elif at + len(token) > end and len(token) >= len(first) and token != first:
                return True
        return False

    begins = defaultdict(list)
    for text in added:
        for at in range(1, len(text)):
            begins[text[:at]].append(text[at:])
    joined = (text + rest for text in added for at in range(1, len(text)) for rest in begins.get(text[at:], ()))
    return (Limit("of two added tokens that overlap it takes the longer one", hits),) if any(map(hits, joined)) else ()


_PLAIN = {"<unk>", "<s>", "<|endoftext|>"}


def _strips(added: Sequence[Mapping[str, Any]], fields: dict[str, Any]) -> bool:
    """Whether special tokens strip the spaces behind them in the one way that llama.cpp knows: all but three of
    them, and these three and ``</s>`` exist. Others that do become a limit and a repair of the chat template."""
    odd = [token["content"] for token in added if token["lstrip"] or token["single_word"]]
    if odd:
        raise unsupported(
            f"added token {odd[0]!r} strips the space in front of it or matches whole words only",
            "set lstrip and single_word to false",
        )
    names, right = {t["content"] for t in added}, sorted(t["content"] for t in added if t["rstrip"])
    if not right:
        return False
    known = {*right} == names - _PLAIN and {*_PLAIN, "</s>"} <= names
    spaces = r"[\t-\r ]*[^\S\t-\r \x1c-\x1f]" if known else r"[^\S\x1c-\x1f]"
    behind = re.compile(rf"(?:{'|'.join(map(re.escape, right))}){spaces}").search
    what = f"{'spaces outside ASCII' if known else 'spaces'} behind some special tokens stay"
    fields["limits"] = (*fields.get("limits", ()), Limit(what, lambda text: behind(text) is not None))
    fields["repairs"] = replace(fields.get("repairs", Repairs()), stripped=tuple(right))
    return known


def end_ids(folder: Path, tokenizer: Any, size: int, *, required: bool = True) -> list[int]:
    """Tokens that end a generation: the tokenizer's EOS first when the model uses it.

    Raises ArtifactError for an id outside the vocabulary, and where none is named although one is ``required``.
    """
    given = read_generation_config(folder).get("eos_token_id")
    if given is None:
        given = read_config(folder).get("eos_token_id")
    ids = [given] if isinstance(given, int) else list(given or [])
    own = tokenizer.eos_token_id
    if own is not None and (own in ids or not ids):
        ids = [own, *(i for i in ids if i != own)]
    if (required and not ids) or not all(isinstance(i, int) and 0 <= i < size for i in ids):
        raise ArtifactError(
            f"{folder} names no valid end-of-sequence token (found {ids})",
            next="set eos_token_id in generation_config.json",
        )
    if not ids:
        log.warning("%s names no end-of-sequence token: only the number of tokens ends an answer", folder)
    return ids


def _special(folder: Path, tokenizer: Any, eos_ids: Sequence[int], size: int) -> dict[str, int]:
    config = read_config(folder)
    found = {"bos": tokenizer.bos_token_id, "eos": eos_ids[0] if eos_ids else None, "unk": tokenizer.unk_token_id}
    if found["bos"] is None:
        found["bos"] = config.get("bos_token_id")
    found |= {"pad": tokenizer.pad_token_id} | dict(zip(("eot", "eom"), eos_ids[1:3], strict=False))
    return {name: token for name, token in found.items() if isinstance(token, int) and 0 <= token < size}


def _adds(tokenizer: Any, text: str, special: dict[str, int]) -> tuple[bool, bool]:
    """Whether encoding puts BOS in front and EOS behind; ``special`` gets the one that it really puts in front."""
    bare, full = (tokenizer.encode(text, add_special_tokens=add) for add in (False, True))
    front = full != bare and full[: len(bare)] != bare
    back = len(full) - len(bare) - front
    if full[front : front + len(bare)] != bare or back not in (0, 1) or (back and full[-1] != special.get("eos")):
        raise unsupported(f"it encodes {text!r} as {full}", "use a post-processor that adds BOS and EOS only")
    if front:
        special["bos"] = full[0]
    return front, bool(back)
