"""tokenizer.json of a GGUF vocabulary: export/tokenizers the other way round.

``gpt2`` is BPE by merges behind one of llama.cpp's pre-tokenizers; ``llama`` is SentencePiece BPE, which joins the
neighbours whose union has the best score, and has no list of merges: every way to cut a token in two is one.
``whitespace`` is taken for words of single characters, as export/tokenizers/words.py writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compress.errors import ArtifactError
from export.tokenizers.bpe import definition, row_named
from export.tokenizers.vocabulary import SPACE
from finetune.source.gguf.parts import GgufParts
from finetune.source.gguf.vocabulary import BYTE, CONTROL, LSTRIP, RSTRIP, UNKNOWN, GgufVocabulary

SPACED = "sarvam-moe"
"""llama.cpp's pre-tokenizer of BPE by merges over text whose spaces are written ``▁``."""
_LISTS = {"gpt2": "merges", "llama": "scores", "whitespace": "merges"}
"""Kind of tokenizer -> the list that it cannot do without."""
_KNOWN = "gpt2 (byte-level BPE), llama (SentencePiece BPE), whitespace (single characters)"


def check(parts: GgufParts, rows: int) -> None:
    """Raise ArtifactError unless the file holds a tokenizer of a known kind, of ``rows`` tokens at most."""
    data, next_step = parts.metadata, "take a file with its tokenizer inside, as converters write it"
    model, tokens = data.get("tokenizer.ggml.model"), data.get("tokenizer.ggml.tokens")
    if model in (None, "none", "no_vocab") or not tokens:
        raise ArtifactError(f"{parts.path} holds no tokenizer", next=next_step)
    if len(tokens) > rows:
        raise ArtifactError(f"{parts.path} has {len(tokens)} tokens and {rows} rows in its embedding", next=next_step)
    if model not in _LISTS:
        raise ArtifactError(f"{parts.path} has a tokenizer of the kind {model!r}; known: {_KNOWN}", next=next_step)
    if not data.get(f"tokenizer.ggml.{_LISTS[model]}"):
        raise ArtifactError(f"{parts.path} lacks tokenizer.ggml.{_LISTS[model]}", next=next_step)
    if model == "whitespace" and max(map(len, tokens)) > 1:
        raise ArtifactError(f"{parts.path} has a tokenizer of words; known: {_KNOWN}", next=next_step)
    if model == "gpt2" and _pre(parts) != SPACED and row_named(_pre(parts)) is None:
        raise ArtifactError(
            f"{parts.path} has the pre-tokenizer {_pre(parts)!r}, of which no Hugging Face definition is known here",
            next="add a row to PRE_TOKENIZERS in export/tokenizers/bpe.py",
        )


def _pre(parts: GgufParts) -> str:
    """A file without a name for it is read by the regular expressions of ``default``."""
    return str(parts.metadata.get("tokenizer.ggml.pre") or "default")


def backend(parts: GgufParts, vocabulary: GgufVocabulary) -> dict[str, Any]:
    """The content of tokenizer.json. Raises ArtifactError for merges of what are no tokens."""
    if vocabulary.model == "llama":
        prefix = bool(parts.metadata.get("tokenizer.ggml.add_space_prefix", True))
        kind = _spaced(vocabulary, _scored(parts, vocabulary), prefix=prefix)
    elif vocabulary.model == "whitespace":
        kind = _words(vocabulary)
    elif _pre(parts) == SPACED:
        kind = _spaced(vocabulary, _merges(parts, vocabulary), prefix=False)
    else:
        kind = _byte_level(parts, vocabulary)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(parts, vocabulary),
        "post_processor": _post_processor(vocabulary),
        **kind,
    }


def _added(parts: GgufParts, vocabulary: GgufVocabulary) -> list[dict[str, Any]]:
    found = []
    for token in filter(vocabulary.parsed, range(len(vocabulary.tokens))):
        bits = vocabulary.attributes[token]
        if bits & LSTRIP:
            raise ArtifactError(f"{parts.path}: {vocabulary.tokens[token]!r} strips what is in front of it", next=_HELP)
        flags = {"single_word": False, "lstrip": False, "rstrip": bool(bits & RSTRIP), "normalized": False}
        special = bool(bits & (CONTROL | UNKNOWN))
        found.append({"id": token, "content": vocabulary.tokens[token], **flags, "special": special})
    return found


_HELP = "start from the Hugging Face folder of this model (source.hf, source.path)"


def _byte_level(parts: GgufParts, vocabulary: GgufVocabulary) -> dict[str, Any]:
    row = row_named(_pre(parts))
    assert row is not None, "checked before"
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    model = _bpe(vocabulary, _merges(parts, vocabulary)) | {"ignore_merges": row.ignore_merges}
    return {"normalizer": None, "pre_tokenizer": definition(row), "decoder": decoder, "model": model}


def _bpe(vocabulary: GgufVocabulary, merges: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary.ids(),
        "merges": [list(pair) for pair in merges],
    }


def _merges(parts: GgufParts, vocabulary: GgufVocabulary) -> list[tuple[str, str]]:
    """The file's list, each pair where it stands first."""
    ids, found = vocabulary.ids(), {}
    for text in parts.metadata["tokenizer.ggml.merges"]:
        at = text.find(" ", 1)
        pair = text[:at], text[at + 1 :]
        if at < 0 or not (pair[0] in ids and pair[1] in ids and pair[0] + pair[1] in ids):
            raise ArtifactError(f"{parts.path}: the merge {text!r} joins or makes what is no token", next=_HELP)
        found[pair] = True
    return list(found)


def _scored(parts: GgufParts, vocabulary: GgufVocabulary) -> list[tuple[str, str]]:
    """Every cut of every token into two others, the best score first.

    Of equal scores llama.cpp joins the leftmost pair: the longer its left side, the sooner.
    """
    ids, scores = vocabulary.ids(), parts.metadata["tokenizer.ggml.scores"]
    found = []
    for text, token in ids.items():
        if vocabulary.attributes[token] & (CONTROL | UNKNOWN | BYTE):
            continue  # found in the text before, or no text at all
        for at in range(1, len(text)):
            if text[:at] in ids and text[at:] in ids:
                found.append((-scores[token], -at, text[:at], text[at:]))
    return [(left, right) for _, _, left, right in sorted(found, key=lambda cut: cut[:2])]


def _spaced(vocabulary: GgufVocabulary, merges: Sequence[tuple[str, str]], *, prefix: bool) -> dict[str, Any]:
    """BPE over text whose spaces are ``▁``, characters without a token as their bytes; with ``prefix`` a space is put
    before every stretch of text between special tokens."""
    escaped = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    steps = [{"type": "Prepend", "prepend": SPACE}, escaped] if prefix else [escaped]
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    unknown = vocabulary.special.get("unk")
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": _bpe(vocabulary, merges)
        | {
            "byte_fallback": True,
            "fuse_unk": True,
            "unk_token": None if unknown is None else vocabulary.tokens[unknown],
        },
    }


def _words(vocabulary: GgufVocabulary) -> dict[str, Any]:
    model = {"type": "WordLevel", "vocab": vocabulary.ids(), "unk_token": "<unk>"}
    return {"normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": None, "model": model}


def _post_processor(vocabulary: GgufVocabulary) -> dict[str, Any] | None:
    """BOS in front and EOS behind, where llama.cpp adds them."""
    adds = {"bos": vocabulary.adds_bos, "eos": vocabulary.adds_eos}
    used = {name: vocabulary.special[name] for name, added in adds.items() if added}
    if not used:
        return None
    texts = {name: vocabulary.tokens[token] for name, token in used.items()}

    def around(letter: str, kind: int) -> list[Mapping[str, Any]]:
        ends = {n: [{"SpecialToken": {"id": texts[n], "type_id": kind}}] if n in texts else [] for n in adds}
        return [*ends["bos"], {"Sequence": {"id": letter, "type_id": kind}}, *ends["eos"]]

    special = {texts[n]: {"id": texts[n], "ids": [used[n]], "tokens": [texts[n]]} for n in used}
    single = around("A", 0)
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *around("B", 1)],
        "special_tokens": special,
    }
