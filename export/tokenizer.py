"""Hugging Face tokenizers as GGUF vocabularies, and the check that both give the same token ids.

What ``AutoTokenizer`` really does is read from its backend (one JSON of vocabulary, merges, normalizer,
pre-tokenizer and post-processor), so every way of saving a tokenizer ends in the same place. Two families
exist in llama.cpp's terms: byte-level BPE (``gpt2``, with the name of a pre-tokenizer) and SentencePiece
BPE with byte fallback (``llama``, with scores).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError
from compress.extras import need
from export.checkpoint import read_config, read_json

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""``enum llama_token_type``."""

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def _split(pattern: str) -> dict[str, Any]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [cut, _BYTES | {"use_regex": False}]}


_DIGITS = {"type": "Digits", "individual_digits": True}
PRE_TOKENIZERS: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("gpt-2", _BYTES, False),
    ("smollm", {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTES]}, False),
    ("llama-bpe", _split(_LLAMA3), True),
    ("smaug-bpe", _split(_LLAMA3), False),
    ("qwen2", _split(_QWEN2), False),
)
"""(name in llama.cpp, Hugging Face pre-tokenizer, ``ignore_merges``); the first that matches is taken."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer in GGUF's terms."""

    model: str
    """``gpt2`` (byte-level BPE) or ``llama`` (SentencePiece)."""
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] | None
    merges: Sequence[str] | None
    special: Mapping[str, int]
    """``bos``, ``eos``, ``eot``, ``eom``, ``unk``, ``pad`` -> id, those that exist."""
    eos_ids: Sequence[int]
    """Every token that ends a generation in Hugging Face."""
    add_bos: bool
    add_eos: bool
    prefix_scheme: str | None
    """SentencePiece only: where Hugging Face puts a space in front: ``always`` (every stretch of text between
    special tokens), ``first`` (only at the very start) or ``never``."""
    space_prefix: bool | None
    """SentencePiece only: whether llama.cpp puts a space before every stretch of text."""
    chat_template: str | None

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
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def load_tokenizer(folder: Path) -> Any:
    """The folder's ``AutoTokenizer``, from local files only."""
    transformers = need("transformers")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        tokenizer.backend_tokenizer.to_str()
    except Exception as error:  # any of a dozen libraries' own errors: all mean an unreadable tokenizer
        raise ArtifactError(
            f"the tokenizer of {folder} cannot be loaded ({error})",
            next="the folder needs tokenizer.json, or tokenizer.model and tokenizer_config.json",
        ) from error
    return tokenizer


def read_vocabulary(folder: Path, tokenizer: Any, size: int) -> Vocabulary:
    """The vocabulary of ``tokenizer`` padded to ``size`` rows of the embedding."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    model = backend["model"]
    if model["type"] != "BPE":
        raise _unsupported(f"its model is {model['type']}", "convert it to BPE")
    tokens, types = _pad(model["vocab"], backend["added_tokens"], size)
    if model.get("byte_fallback"):
        kind = _sentencepiece(backend, tokens, types) | _prefix(backend, tokenizer)
    else:
        kind = _byte_level(backend)
    eos_ids = end_ids(folder, tokenizer, size)
    add_bos, add_eos = _adds(tokenizer)
    return Vocabulary(
        tokens=tokens,
        types=types,
        special=_special(folder, tokenizer, eos_ids),
        eos_ids=eos_ids,
        add_bos=add_bos,
        add_eos=add_eos,
        chat_template=_template(tokenizer),
        **kind,
    )


def _unsupported(what: str, next_step: str) -> ArtifactError:
    return ArtifactError(f"llama.cpp cannot reproduce this tokenizer: {what}", next=next_step)


def _pad(vocab: Mapping[str, int], added: Sequence[Mapping[str, Any]], size: int) -> tuple[list[str], list[int]]:
    """Token texts and types by id. Ids without a token become unused ones, as in llama.cpp's converter."""
    most = max([*vocab.values(), *(token["id"] for token in added)], default=-1)
    if most >= size:
        raise ArtifactError(
            f"the tokenizer has token {most} but the embedding only {size} rows",
            next="resize the embedding to the tokenizer (model.resize_token_embeddings) and save again",
        )
    tokens, types = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    for text, i in vocab.items():
        tokens[i], types[i] = text, NORMAL
    for token in added:
        if token["lstrip"] or token["rstrip"] or token["single_word"]:
            raise _unsupported(
                f"added token {token['content']!r} strips the space around it or matches whole words only",
                "set lstrip, rstrip and single_word to false",
            )
        tokens[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    return tokens, types


_NO_PREFIX = {"prefix_scheme": None, "space_prefix": None}


def _byte_level(backend: Mapping[str, Any]) -> dict[str, Any]:
    model, normalizer = backend["model"], backend["normalizer"]
    if normalizer is not None and normalizer != {"type": "NFC"}:
        raise _unsupported(f"it normalizes text with {json.dumps(normalizer)}", "remove the normalizer")
    given = _plain(backend["pre_tokenizer"])
    for name, pre, ignore_merges in PRE_TOKENIZERS:
        if given == _plain(pre) and bool(model.get("ignore_merges")) == ignore_merges:
            merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
            return {"model": "gpt2", "pre": name, "scores": None, "merges": merges} | _NO_PREFIX
    raise _unsupported(
        f"no row for its pre-tokenizer {json.dumps(given)} (ignore_merges {bool(model.get('ignore_merges'))})",
        "add a row to PRE_TOKENIZERS in export/tokenizer.py if llama.cpp has that pre-tokenizer",
    )


def _plain(pre: Any) -> Any:
    """A pre-tokenizer without what does not change ids."""
    if isinstance(pre, dict):
        return {key: _plain(value) for key, value in pre.items() if key != "trim_offsets"}
    return [_plain(item) for item in pre] if isinstance(pre, list) else pre


_PREPEND = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}


def _sentencepiece(backend: Mapping[str, Any], tokens: list[str], types: list[int]) -> dict[str, Any]:
    for value in range(256):
        if (text := f"<0x{value:02X}>") not in backend["model"]["vocab"]:
            raise _unsupported(f"it has no byte token {text}", "train it with byte fallback")
        types[backend["model"]["vocab"][text]] = BYTE
    unknown = backend["model"].get("unk_token") or "<unk>"
    if unknown in tokens:
        types[tokens.index(unknown)] = UNKNOWN
    return {"model": "llama", "pre": "default", "scores": _scores(backend, tokens), "merges": None}


def _prefix(backend: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """llama.cpp puts a space before every stretch of text or before none. For ``first`` none is exact when the
    chat template begins with a special token (the prompts that matter have no text at their start)."""
    normalizer, pre = backend["normalizer"], backend["pre_tokenizer"]
    if pre is None and normalizer == _PREPEND:
        return {"prefix_scheme": "always", "space_prefix": True}
    if normalizer is None and pre is not None and pre["type"] == "Metaspace" and not pre.get("split", True):
        scheme = str(pre["prepend_scheme"])
        everywhere = scheme == "always" or (scheme == "first" and not _opens_special(tokenizer))
        return {"prefix_scheme": scheme, "space_prefix": everywhere}
    raise _unsupported(
        f"normalizer {json.dumps(normalizer)} with pre-tokenizer {json.dumps(pre)}", "use a Llama tokenizer"
    )


def _opens_special(tokenizer: Any) -> bool:
    if not tokenizer.chat_template:
        return False
    turn = [{"role": "user", "content": "a"}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
    return bool(ids) and ids[0] in tokenizer.all_special_ids


def _scores(backend: Mapping[str, Any], tokens: Sequence[str]) -> list[float]:
    """Minus the rank of the first merge that makes a token; tokens that no merge makes come last.

    llama.cpp joins the neighbours whose union has the best score; Hugging Face those whose merge comes first.
    The scores in a tokenizer.model are not used: where transformers reads them otherwise than SentencePiece does
    (pieces of spaces only, in 5.23), the model was trained on what transformers does.
    """
    scores = dict.fromkeys(tokens, -1e9)
    for rank, pair in reversed(list(enumerate(backend["model"]["merges"]))):
        scores["".join(pair if isinstance(pair, list) else pair.split(" "))] = -float(rank + 1)
    return [scores[token] for token in tokens]


def end_ids(folder: Path, tokenizer: Any, size: int) -> list[int]:
    """Tokens that end a generation: the tokenizer's EOS first when the model uses it."""
    path = folder / "generation_config.json"
    given = read_json(path).get("eos_token_id") if path.is_file() else None
    if given is None:
        given = read_config(folder).get("eos_token_id")
    ids = [given] if isinstance(given, int) else list(given or [])
    own = tokenizer.eos_token_id
    if own is not None and (own in ids or not ids):
        ids = [own, *(i for i in ids if i != own)]
    if not ids or not all(isinstance(i, int) and 0 <= i < size for i in ids):
        raise ArtifactError(
            f"{folder} names no valid end-of-sequence token (found {ids})",
            next="set eos_token_id in generation_config.json",
        )
    return ids


def _special(folder: Path, tokenizer: Any, eos_ids: Sequence[int]) -> dict[str, int]:
    config = read_config(folder)
    found = {"bos": tokenizer.bos_token_id, "eos": eos_ids[0], "unk": tokenizer.unk_token_id}
    if found["bos"] is None:
        found["bos"] = config.get("bos_token_id")
    found |= {"pad": tokenizer.pad_token_id} | dict(zip(("eot", "eom"), eos_ids[1:3], strict=False))
    return {name: token for name, token in found.items() if isinstance(token, int)}


def _adds(tokenizer: Any) -> tuple[bool, bool]:
    """Whether encoding puts BOS in front and EOS behind."""
    bare, full = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a", add_special_tokens=True)
    if full == bare:
        return False, False
    add_bos, add_eos = full[0] == tokenizer.bos_token_id, full[-1] == tokenizer.eos_token_id
    if full != [*full[:add_bos], *bare, *full[len(full) - add_eos :]]:
        raise _unsupported(f"it encodes 'a' as {full}", "use a post-processor that adds BOS and EOS only")
    return add_bos, add_eos


def _template(tokenizer: Any) -> str | None:
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template
