"""Training rows -> token ids with the positions to learn -> batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from compress.errors import DataError
from compress.windows import Encode, load_encoder, read_rows, render_row

if TYPE_CHECKING:
    import torch


class Example(NamedTuple):
    """Token ids of a conversation or a text; the positions from ``start`` on are to be predicted."""

    ids: list[int]
    start: int


def load_examples(folder: Path, path: Path, max_length: int) -> list[Example]:
    """Rows through the tokenizer of ``folder``: of a chat its last reply is learnt, of a text every token.

    Longer chats are left out, longer texts are cut into pieces. DataError names a row that has no reply to learn.
    """
    encode = load_encoder(folder)
    rows = list(read_rows(path))
    texts = [row["text"] for _, row in rows if "text" in row]
    chats = [(number, row) for number, row in rows if "text" not in row]
    examples = [*_texts(encode, texts, max_length), *_chats(encode, folder, path, chats, max_length)]
    if not examples:
        raise DataError(path, None, f"no row fits into {max_length} tokens", next="raise recover.max_length")
    return examples


def _texts(encode: Encode, texts: list[str], max_length: int) -> Iterator[Example]:
    for ids in encode(texts, True):
        pieces = [ids[start : start + max_length] for start in range(0, len(ids), max_length)]
        yield from (Example(piece, 1) for piece in pieces if len(piece) > 1)


def _chats(
    encode: Encode, folder: Path, path: Path, rows: list[tuple[int, dict[str, Any]]], max_length: int
) -> Iterator[Example]:
    """The reply starts where the chat without its last message, prompted to reply, ends."""
    whole, heads = [], []
    for number, row in rows:
        messages = row.get("messages")
        if not messages or messages[-1].get("role") != "assistant":
            raise DataError(path, number, "the row does not end with an assistant message", next="fix that row")
        whole.append(render_row(folder, path, number, row))
        heads.append(render_row(folder, path, number, {"messages": messages[:-1]}, generation_prompt=True))
    for ids, head in zip(encode(whole, False), encode(heads, False), strict=True):
        if len(head) < len(ids) <= max_length:
            yield Example(ids, len(head))


def split_held_out(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Evenly spaced rows, a tenth but at most 64, and the rest; a single row serves as both."""
    every = max(10, len(examples) // 64)
    held_out = list(examples[::every])
    rest = [example for i, example in enumerate(examples) if i % every]
    return held_out, rest or held_out


def plan_batches(lengths: Sequence[int], batch: int, steps: int, seed: int) -> list[list[int]]:
    """Row indices of each step: rows of like length together, buckets in random order, epoch after epoch."""
    import random

    rng = random.Random(seed)
    plan: list[list[int]] = []
    while len(plan) < steps:
        rows = list(range(len(lengths)))
        rng.shuffle(rows)
        rows.sort(key=lambda row: lengths[row])  # stable: equal lengths stay shuffled
        buckets = [rows[i : i + batch] for i in range(0, len(rows), batch)]
        rng.shuffle(buckets)
        plan += buckets
    return plan[:steps]


class Batch(NamedTuple):
    """``ids`` int64 ``[rows, positions]`` (right-padded; causal attention needs no mask), ``targets`` int64: the flat
    positions whose next token is to be predicted."""

    ids: torch.Tensor
    targets: torch.Tensor

    def labels(self) -> torch.Tensor:
        """The next tokens of the targets, int64 ``[targets]``."""
        return self.ids.flatten()[self.targets + 1]

    def parts(self, tokens: int) -> list[Batch]:
        """The batch in pieces of whole rows with about so many tokens (padding counts); one row at least in each."""
        rows, width = self.ids.shape
        step = -(-rows // max(1, -(-rows * width // tokens)))
        found = []
        for low in range(0, rows, step):
            inside = (self.targets >= low * width) & (self.targets < (low + step) * width)
            found.append(Batch(self.ids[low : low + step], self.targets[inside] - low * width))
        return found


def collate(examples: Sequence[Example]) -> Batch:
    """Pad on the right: what follows a position cannot influence it."""
    import torch

    width = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.int64)
    targets: list[int] = []
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        targets += range(row * width + max(example.start - 1, 0), row * width + len(example.ids) - 1)
    return Batch(ids, torch.tensor(targets))
