"""The vocabulary of a GGUF file as llama.cpp uses it: asked of llama.cpp itself, which corrects what files say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from export.tokenizers.probes import LlamaVocabulary
from finetune.source.gguf.parts import GgufParts

UNKNOWN, UNUSED, CONTROL, USER_DEFINED, BYTE, LSTRIP, RSTRIP = 1, 2, 8, 16, 32, 128, 256
"""Bits of ``enum llama_token_attr``."""
PARSED = UNKNOWN | CONTROL | USER_DEFINED
"""Tokens that are found in a text before anything else is."""
_FILLER = re.compile(r"\[+PAD\d+\]+")
"""How converters call rows of the embedding that no token has."""


@dataclass(frozen=True)
class GgufVocabulary:
    """Tokens by id, and what encoding adds."""

    model: str
    tokens: Sequence[str]
    attributes: Sequence[int]
    special: Mapping[str, int]
    """``bos``, ``eos``, ``pad``, ``unk`` -> id, those that the file names or its model has by default."""
    ends: Sequence[int]
    """Every token at which llama.cpp stops, the file's own end token first; less those of filling gaps in code."""
    adds_bos: bool
    adds_eos: bool

    def parsed(self, token: int) -> bool:
        """Whether its text is this token wherever it stands."""
        return bool(self.attributes[token] & PARSED)

    def ids(self) -> dict[str, int]:
        """Text -> id, without rows that are there to fill the embedding up."""
        found = {}
        for token, (text, bits) in enumerate(zip(self.tokens, self.attributes, strict=True)):
            if not (bits & UNUSED and _FILLER.fullmatch(text)):
                found[text] = token
        return found


def read_vocabulary(parts: GgufParts, llama: LlamaVocabulary) -> GgufVocabulary:
    """The vocabulary of ``parts``, which ``llama`` has loaded."""
    data = parts.metadata
    tokens = [text or f"[EMPTY_{token}]" for token, text in enumerate(data["tokenizer.ggml.tokens"])]
    model = str(data["tokenizer.ggml.model"])
    special = _special(data, llama, model)
    ends = [token for token in range(len(tokens)) if llama.ends(token)]
    first = [token for token in (special.get("eos"), llama.special("eot")) if token in ends]
    code = {llama.special(f"fim_{name}") for name in ("pad", "rep", "sep")}
    return GgufVocabulary(
        model=model,
        tokens=tokens,
        attributes=[llama.attributes(token) for token in range(len(tokens))],
        special=special,
        ends=list(dict.fromkeys([*first, *(token for token in ends if token not in code)])),
        adds_bos=llama.adds("bos"),
        adds_eos=llama.adds("eos"),
    )


_KEYS = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}


def _special(data: Mapping[str, Any], llama: LlamaVocabulary, model: str) -> dict[str, int]:
    """llama.cpp's defaults count where they are the model's (SentencePiece) or where encoding adds them."""
    found = {name: data.get(f"tokenizer.ggml.{key}_token_id") for name, key in _KEYS.items()}
    for name in ("bos", "eos"):
        if found[name] is None and (model == "llama" or llama.adds(name)):
            found[name] = llama.special(name)
    if found["unk"] is None and model == "llama":
        found["unk"] = 0
    return {name: token for name, token in found.items() if token is not None}
