"""What is known of an artifact before it exists: enough to tell what the stages that read it will take.

An artifact that exists gives its outline from its headers; a stage that has not run gives that of its result from the
outlines of its inputs and its parameters. So ``compress plan`` hands outlines along the graph as a run does artifacts.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

CHARACTERS_PER_TOKEN = 3.5
"""Where no tokenizer exists yet: English support messages in vocabularies of 1,280 to 49,152 have 3.2 to 3.8."""
TEMPLATE_TOKENS = 4
"""What a chat template adds to a message: its role and its end (ChatML: 5, source.tiny's: 3)."""
SAMPLE = 64
"""Rows of a split that stand for all of them."""
PACKED = 4
"""How many times smaller gzip makes such rows."""
SIDE_BYTES = 75
"""Bytes of a folder's tokenizer and settings per entry of the vocabulary (source.tiny 61, SmolLM2 72)."""
REPLY_TOKENS = 64
"""Length of a reply where neither training rows nor the evaluation show one."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, whatever its config calls them."""

    blocks: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int


def by_characters(text: str) -> float:
    """Tokens of a text by its length."""
    return len(text) / CHARACTERS_PER_TOKEN


class Pieces:
    """Counts tokens by the longest pieces of a vocabulary: within a tenth of its own merges, and without a library."""

    def __init__(self, pieces: Collection[str]) -> None:
        self.pieces = frozenset(pieces)
        self.space = "▁" if "▁" in self.pieces and "Ġ" not in self.pieces else "Ġ"
        self.longest = min(24, max(map(len, self.pieces), default=1))

    def __call__(self, text: str) -> float:
        text, at, count = text.replace(" ", self.space).replace("\n", "Ċ"), 0, 0
        while at < len(text):
            step = next((n for n in range(self.longest, 1, -1) if text[at : at + n] in self.pieces), 1)
            at, count = at + step, count + 1
        return float(count)


@dataclass(frozen=True, eq=False)
class ModelOutline:
    """A decoder-only model. Weights are counted, norms and biases are not."""

    shape: Shape
    tied: bool
    """The head is the token embedding."""
    weight_bytes: float
    """Bytes per weight of the block linears as stored."""
    gated: bool = True
    tokens: Callable[[str], float] = by_characters
    """Tokens of a text."""

    @cached_property
    def attention(self) -> int:
        """Weights of the attention's linears in one block."""
        s = self.shape
        return 2 * s.hidden * s.head_dim * (s.heads + s.kv_heads)

    @cached_property
    def block(self) -> int:
        """Weights of one block's linears."""
        return self.attention + (3 if self.gated else 2) * self.shape.hidden * self.shape.ffn

    @property
    def linears(self) -> int:
        """Weights of all blocks' linears."""
        return self.shape.blocks * self.block

    @property
    def head(self) -> int:
        """Weights of the output head, or of the embedding."""
        return self.shape.vocab * self.shape.hidden

    @property
    def parameters(self) -> int:
        """All weights, a tied head once."""
        return self.linears + self.head * (1 if self.tied else 2)

    @cached_property
    def inputs(self) -> tuple[tuple[int, int], ...]:
        """``(in, out)`` of the linears of a block that read one tensor, their outputs together."""
        s = self.shape
        qkv = (s.heads + 2 * s.kv_heads) * s.head_dim
        up = (2 if self.gated else 1) * s.ffn
        return (s.hidden, qkv), (s.heads * s.head_dim, s.hidden), (s.hidden, up), (s.ffn, s.hidden)


@dataclass(frozen=True)
class Lengths:
    """Tokens of a split's rows under one model's tokenizer, template included."""

    prompt: float
    """Mean of what comes before the reply."""
    reply: float
    """Mean of the last assistant message; of a plain text all of it."""
    longest: float
    """Of a whole row."""

    @property
    def whole(self) -> float:
        """Mean of prompt and reply."""
        return self.prompt + self.reply


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of data: how many, how large on disk, and some of them."""

    rows: int
    disk_bytes: int
    sample: Sequence[Mapping[str, Any]]
    """Rows with ``messages`` or ``text``."""

    def lengths(self, model: ModelOutline) -> Lengths:
        """Tokens of the rows for ``model``."""
        return _lengths(self, model.tokens)


@lru_cache(maxsize=64)
def _lengths(split: Split, tokens: Callable[[str], float]) -> Lengths:
    pairs = [_row_tokens(row, tokens) for row in split.sample] or [(0.0, float(REPLY_TOKENS))]
    count = len(pairs)
    return Lengths(sum(p for p, _ in pairs) / count, sum(r for _, r in pairs) / count, max(p + r for p, r in pairs))


def _row_tokens(row: Mapping[str, Any], tokens: Callable[[str], float]) -> tuple[float, float]:
    if "messages" not in row:
        return 0.0, tokens(str(row.get("text", "")))
    counts = [TEMPLATE_TOKENS + tokens(str(message.get("content") or "")) for message in row["messages"]]
    replied = row["messages"][-1].get("role") == "assistant"
    return (sum(counts[:-1]), counts[-1]) if replied else (sum(counts), 0.0)


def read_split(path: Path) -> Split:
    """The first rows of a JSONL file (``.gz`` too) stand for all; their number follows from the file's size, that of
    packed text times PACKED. A broken row is left out: the stage that reads it will name it."""
    packed = path.suffix == ".gz"
    opener: Any = gzip.open if packed else open
    with opener(path, "rb") as handle:
        lines = [line for line in islice(handle, SAMPLE) if line.strip()]
        ended = not handle.read(1)
    size = path.stat().st_size * (PACKED if packed else 1)
    rows = len(lines) if ended else round(size * len(lines) / max(1, sum(map(len, lines))))
    sample = []
    for line in lines:
        with suppress(ValueError):
            sample.append(json.loads(line))
    return Split(rows, path.stat().st_size, sample)


@dataclass(frozen=True)
class Outline:
    """An artifact that may not exist yet."""

    kind: str
    disk_bytes: int
    model: ModelOutline | None = None
    """None where there is none in it, or its sizes cannot be told."""
    ships_bytes: int = 0
    """Of a proof: size of its smallest candidate."""
    splits: Mapping[str, Split] = field(default_factory=dict)
    """``train``, ``calibration`` and ``eval``, those that there are."""

    @property
    def sizes(self) -> ModelOutline:
        """``model``, where a stage needs one. Raises LookupError for an artifact whose sizes cannot be told."""
        if self.model is None:
            raise LookupError(self.kind)
        return self.model


def folder_outline(model: ModelOutline, kind: str = "hf") -> Outline:
    """A Hugging Face folder of that model: weights, tokenizer and settings."""
    return Outline(kind, int(model.parameters * model.weight_bytes + SIDE_BYTES * model.shape.vocab), model)
