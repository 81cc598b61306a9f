"""Tokenizers that llama.cpp runs as a SentencePiece unigram model (``t5``): unigrams, and single characters.

That model alone knows an unknown token and a character map (charsmap.py), which also serves tokenizers
of single characters: the map does what their normalizer does and puts the unknown token where a character is
outside the vocabulary.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from export.tokenizers import charsmap
from export.tokenizers.spm import Spacing, flat, prefix_of, read_spacing
from export.tokenizers.vocabulary import CONTROL, SPACE, UNKNOWN, USER_DEFINED, unsupported

NEVER = -1e6
"""Score of tokens that no text may give: far below any sum of single characters."""


def characters(backend: Mapping[str, Any], tokenizer: Any, tokens: Sequence[str], types: list[int]) -> dict[str, Any]:
    """Fields of a Vocabulary for a BPE without merges and bytes; marks the unknown token in ``types``.

    The unknown token becomes a piece that the map writes. llama.cpp joins neighbours that are its own unknown
    token: it is that one only where ``fuse_unk`` asks for it.
    """
    model, spacing = backend["model"], read_spacing(backend)
    vocab, unknown = model["vocab"], model.get("unk_token")
    added = [token["content"] for token in backend["added_tokens"]]
    chars = {text for text in vocab if len(text) == 1 and text not in added}
    if spacing.replaced.get(" ") != SPACE or SPACE not in chars:
        raise unsupported(f"it does not write a space as the token {SPACE}", f"let the normalizer put {SPACE}")
    if unknown is not None and unknown not in added:
        raise unsupported(f"its unknown token {unknown!r} is no special token", "add it as a special token")
    fields: dict[str, Any] = {
        "model": "t5",
        "pre": "default",
        "scores": [-1.0 if text in chars else NEVER for text in tokens],
        "merge_spaces": False,
        "charsmap": charsmap.build(_replacements(chars, spacing, unknown)),
    } | prefix_of(spacing, tokenizer, added)
    if unknown is None:
        return fields
    types[vocab[unknown]] = USER_DEFINED
    return fields if model.get("fuse_unk") else fields | {"special": {"unk": types.index(CONTROL)}}


def _replacements(chars: set[str], spacing: Spacing, unknown: str | None) -> dict[bytes, bytes]:
    """Characters to characters of the vocabulary or the unknown token; any other one by its first byte."""
    stranger = (unknown or "").encode()
    found = {bytes([lead]): stranger for lead in range(0xC2, 0xF5)}
    found |= {bytes([follow]): b"" for follow in range(0x80, 0xC0)}
    for char in sorted({*chars, *spacing.replaced, *map(chr, range(1, 128))}):
        text = spacing.replaced.get(char, char)
        found[char.encode()] = b"".join(x.encode() if x in chars else stranger for x in text)
    return found


def unigram(backend: Mapping[str, Any], tokenizer: Any, tokens: Sequence[str], types: list[int]) -> dict[str, Any]:
    """Fields of a Vocabulary for a unigram model; marks the unknown token in ``types``."""
    model = backend["model"]
    pieces = dict(model["vocab"])
    if model.get("byte_fallback"):
        raise unsupported("its model is Unigram with byte fallback", "use BPE, or a unigram model without bytes")
    if model.get("unk_id") is None or SPACE not in pieces:
        raise unsupported(f"its model is Unigram without an unknown token or without {SPACE}", "train it with both")
    types[model["unk_id"]] = UNKNOWN
    mapped, merges, steps = _normalizer(backend)
    pre = flat(backend["pre_tokenizer"], "pretokenizers")
    if [step["type"] for step in pre] == ["WhitespaceSplit", "Metaspace"]:
        pre, merges, mapped = pre[1:], True, mapped or charsmap.build({c.encode(): b" " for c in _WHITE_SPACE})
    spacing = read_spacing({"normalizer": steps, "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre}})
    if spacing.splits and any(SPACE in piece[1:] for piece in pieces):
        raise unsupported("it splits words although some of its tokens cross spaces", "remove such tokens")
    added = [token["content"] for token in backend["added_tokens"]]
    prefix = prefix_of(spacing, tokenizer, added)
    return {
        "model": "t5",
        "pre": "default",
        "scores": [pieces.get(text, NEVER) for text in tokens],
        "merge_spaces": merges,
        "charsmap": mapped,
    } | ({"space_prefix": prefix["space_prefix"]} if merges and spacing.prefix != "first" else prefix)


_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_RUNS = {"Regex": " {2,}"}


def _normalizer(backend: Mapping[str, Any]) -> tuple[bytes | None, bool, dict[str, Any]]:
    """(character map, whether runs of spaces become one, what is left of the normalizer)."""
    mapped, merges, strips, left = None, False, False, []
    for step in flat(backend["normalizer"], "normalizers"):
        if step["type"] == "Precompiled":
            mapped = base64.b64decode(step["precompiled_charsmap"]) or None
        elif step["type"] == "Replace" and step["pattern"] == _RUNS and step["content"] in (" ", SPACE):
            merges = True
        elif step["type"] == "Strip":
            strips = True
        else:
            left.append(step)
    known = all(step["type"] == "Prepend" or step.get("pattern") == {"String": " "} for step in left)
    if (strips and not merges) or not known:
        raise unsupported(f"it normalizes text with {json.dumps(backend['normalizer'])[:300]}", "use SentencePiece's")
    return mapped, merges, {"type": "Sequence", "normalizers": left}
