"""Words between spaces, each one token."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from export.tokenizers.vocabulary import Limit, unsupported

_SPACES = re.compile(r"[^\S\x1c-\x1f]+")
"""Unicode's White_Space; Python counts four control characters among it."""
_NO_MERGE = "\ue000 \ue000"
"""llama.cpp wants at least one merge: one of private characters, which no text holds."""


def words(backend: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a Vocabulary for a WordLevel model of single characters without an unknown token.

    llama.cpp has no table of whole words: it cuts at spaces, then into characters, and drops what is no token.
    """
    model = backend["model"]
    if backend["normalizer"] is not None or (backend["pre_tokenizer"] or {}).get("type") != "WhitespaceSplit":
        raise unsupported("its model is WordLevel and its words are not split at spaces alone", "convert it to BPE")
    longest = max(model["vocab"], key=len, default="")
    if len(longest) > 1 or model.get("unk_token") in model["vocab"]:
        raise unsupported(
            f"its model is WordLevel with words of several characters ({longest!r}) or an unknown token",
            "convert it to BPE",
        )
    strange = Limit(
        "a word outside the vocabulary is an error in Hugging Face, and dropped or cut into characters here",
        lambda text: any(word not in model["vocab"] for word in _SPACES.split(text) if word),
    )
    return {"model": "whitespace", "pre": "whitespace", "merges": [_NO_MERGE], "limits": (strange,)}
