"""SentencePiece-like tokenizers with byte fallback: a space is ``▁``, an unknown character its bytes.

llama.cpp has two ways for them. ``llama`` joins the neighbours whose union has the best score, and can put a
space before every stretch of text. ``gpt2`` with the pre-tokenizer ``sarvam-moe`` joins by Hugging Face's own
merges, and never puts a space in front. The first is the common one; it is exact where the merges list every
way of making a token, as those derived from a SentencePiece model do, and nearly so for any trained BPE.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from export.tokenizers.chats import Repairs
from export.tokenizers.vocabulary import BYTE, SPACE, UNKNOWN, Limit, unsupported


@dataclass(frozen=True)
class Spacing:
    """What a normalizer and a pre-tokenizer do to characters and spaces."""

    replaced: Mapping[str, str]
    """Single characters and what stands for them."""
    prefix: str
    """Where a space is put in front: ``always`` (every stretch of text between special tokens), ``first`` (only
    at the very start) or ``never``."""
    doubles: bool
    """Whether it is put before a space, too."""
    splits: bool
    """Whether words are apart, so that no token crosses a space."""


def read_spacing(backend: Mapping[str, Any]) -> Spacing:
    """Raises ArtifactError for a normalizer or pre-tokenizer of any other kind."""
    replaced: dict[str, str] = {}
    prefix, doubles, splits = "never", False, False
    for step in flat(backend["normalizer"], "normalizers"):
        if step["type"] == "Replace" and len(step["pattern"].get("String", "")) == 1:
            _replace(replaced, step["pattern"]["String"], step["content"])
        elif step["type"] == "Prepend" and step["prepend"] in (SPACE, " "):
            prefix, doubles = "always", True
        else:
            raise _odd(backend)
    for step in flat(backend["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "Metaspace" and step["replacement"] == SPACE and not doubles:
            _replace(replaced, " ", SPACE)
            prefix, splits = str(step["prepend_scheme"]), bool(step.get("split", True))
        elif not (step["type"] == "Split" and step["pattern"] == {"String": " "} and replaced.get(" ") == SPACE):
            raise _odd(backend)
    return Spacing(replaced, prefix, doubles, splits)


def _replace(replaced: dict[str, str], char: str, content: str) -> None:
    for key, value in replaced.items():
        replaced[key] = value.replace(char, content)
    replaced.setdefault(char, content)


def flat(step: Mapping[str, Any] | None, inner: str) -> list[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, nested sequences opened."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [leaf for part in step[inner] for leaf in flat(part, inner)]


def _odd(backend: Mapping[str, Any]) -> Exception:
    return unsupported(
        f"normalizer {json.dumps(backend['normalizer'])} with pre-tokenizer {json.dumps(backend['pre_tokenizer'])}",
        "use a tokenizer whose normalizer does no more than prepend and replace spaces",
    )


def sentencepiece(
    backend: Mapping[str, Any], tokenizer: Any, tokens: Sequence[str], types: list[int]
) -> dict[str, Any]:
    """Fields of a Vocabulary for BPE with byte fallback; marks bytes and the unknown token in ``types``."""
    model, spacing = backend["model"], read_spacing(backend)
    if dict(spacing.replaced) != {" ": SPACE}:
        raise _odd(backend)
    _mark(model["vocab"], model.get("unk_token"), backend["added_tokens"], types)
    merges = pairs(model)
    added = [token["content"] for token in backend["added_tokens"]]
    prefix = prefix_of(spacing, tokenizer, added)
    scored = lists_every_split(model["vocab"], merges, added) and not model.get("ignore_merges")
    if prefix["space_prefix"] or scored:
        return {"model": "llama", "pre": "default", "scores": _scores(merges, tokens)} | prefix
    return _by_merges(model, merges, added) | prefix | {"space_prefix": None}


def pairs(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The merges of a BPE model in either of their spellings."""
    split = (pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"])
    return [(left, right) for left, right in split]


def _mark(vocab: Mapping[str, int], unknown: str | None, added: Sequence[Mapping[str, Any]], types: list[int]) -> None:
    for value in range(256):
        if (text := f"<0x{value:02X}>") not in vocab:
            raise unsupported(f"it has no byte token {text}", "train it with byte fallback")
        types[vocab[text]] = BYTE
    name = unknown or "<unk>"
    if any(token["content"] == name for token in added):
        types[vocab[name]] = UNKNOWN


def prefix_of(spacing: Spacing, tokenizer: Any, added: Sequence[str]) -> dict[str, Any]:
    """Fields of a Vocabulary: whether llama.cpp shall put a space before every stretch of text, where that is not
    what is wanted, and how rendered chats are mended.

    llama.cpp does it before all stretches or none, whatever they begin with.
    """
    special = "|".join(re.escape(text) for text in sorted(added, key=len, reverse=True)) or r"(?!)"
    if spacing.prefix == "never" or spacing.doubles:
        return {"space_prefix": spacing.doubles}
    if spacing.prefix == "always":
        return {
            "space_prefix": True,
            "limits": (_limit("a space at the start of a text is doubled", rf"(?:^|{special})[ {SPACE}]"),),
            "repairs": Repairs(spaced=("", *added)),
        }
    if tokenizer.chat_template:
        wrong = rf"^(?!{special}|[ {SPACE}]|\Z)"
        limit = _limit("text outside chats gets no space at its very start", wrong)
        return {"space_prefix": False, "limits": (limit,), "repairs": Repairs(opening=True)}
    wrong = rf"^[ {SPACE}]|(?:{special})(?!{special}|\Z)"
    return {"space_prefix": True, "limits": (_limit("text behind a special token gets a space in front", wrong),)}


def _limit(what: str, pattern: str) -> Limit:
    find = re.compile(pattern).search
    return Limit(what, lambda text: find(text) is not None)


def lists_every_split(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], added: Sequence[str]) -> bool:
    """Whether every two symbols whose union is a token have a merge, and the merges of a token stand together.

    llama.cpp's scores know tokens only: otherwise it may join what Hugging Face leaves apart.
    """
    listed = set(merges)
    made = {"".join(pair) for pair in merges}
    for token in vocab.keys() - set(added):
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if (at == 1 or left in made) and (len(right) == 1 or right in made) and (left, right) not in listed:
                return False
    return sum(1 for _ in itertools.groupby(map("".join, merges))) == len(made)


def _scores(merges: Sequence[tuple[str, str]], tokens: Sequence[str]) -> list[float]:
    """Minus the rank of the first merge that makes a token; tokens that no merge makes come last.

    The scores in a tokenizer.model are not used: where transformers reads them otherwise than SentencePiece does
    (pieces of spaces only, in 5.23), the model was trained on what transformers does.
    """
    scores = dict.fromkeys(tokens, -1e9)
    for rank, pair in reversed(list(enumerate(merges))):
        scores["".join(pair)] = -float(rank + 1)
    return [scores[token] for token in tokens]


def _by_merges(model: Mapping[str, Any], merges: Sequence[tuple[str, str]], added: Sequence[str]) -> dict[str, Any]:
    """By Hugging Face's merges; llama.cpp cuts the text at newlines first."""
    crossing = next((m for m in map("".join, merges) if "\n" in m and m.strip("\n")), None)
    if crossing or any(" " in part for pair in merges for part in pair):
        raise unsupported(f"its merges cross newlines or hold spaces ({crossing!r})", "train it with split newlines")
    if model.get("ignore_merges"):
        require_reachable(model, added)
    joined = [" ".join(pair) for pair in merges]
    return {"model": "gpt2", "pre": "sarvam-moe", "merges": joined}


def require_reachable(model: Mapping[str, Any], added: Sequence[str]) -> None:
    """Raises ArtifactError unless the merges make every token, so that ``ignore_merges`` changes nothing."""
    from tokenizers import models

    bpe = models.BPE(vocab=dict(model["vocab"]), merges=pairs(model))
    for token in model["vocab"].keys() - set(added):
        if not re.fullmatch("<0x[0-9A-F]{2}>", token) and [piece.value for piece in bpe.tokenize(token)] != [token]:
            raise unsupported(
                f"its merges do not make {token!r} and ignore_merges is {bool(model.get('ignore_merges'))}, which "
                "llama.cpp cannot follow with this pre-tokenizer",
                "remove such tokens from the vocabulary",
            )
