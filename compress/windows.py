"""Calibration text: rows of JSONL -> documents joined and cut into windows of token ids."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import DataError, HoldfastError
from compress.model.config import read_config
from compress.model.families import LAYOUTS
from compress.model.tokenizer import load_tokenizer
from compress.rows import numbered_rows
from runtime.engine.chat import Chat, of_tokenizer
from runtime.engine.template import STILL, render

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
Encode = Callable[[list[str], bool], list[list[int]]]
CHUNK = 64
ROW = 'a row is {"messages": [{"role", "content"}…]} or {"text"}'


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """``(line number, row)`` of a JSONL file (``.gz`` too); DataError names the file and line of a bad row."""
    for number, row in numbered_rows(path, ROW):
        if problem := _problem(row):
            raise DataError(path, number, problem, next="repair that row; docs/data.md shows what rows hold")
        yield number, row


def _problem(row: Mapping[str, Any]) -> str | None:
    """What a tokenizer or a chat template could not take."""
    if not ("messages" in row or "text" in row):
        return "the row has neither 'messages' nor 'text'"
    if "text" in row and not isinstance(row["text"], str):
        return f"'text' is {row['text']!r:.40}, not a text"
    if "text" not in row and (problem := _message_problem(row["messages"])):
        return problem
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return f"it holds half of a character (\\u{ord(error.object[error.start]):04x})"
    return None


def _message_problem(messages: Any) -> str | None:
    if not isinstance(messages, list) or not messages:
        return f"'messages' is {messages!r:.40}, not a list of messages"
    for place, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return f"message {place} is {message!r:.40}, not an object with a 'role'"
        content = message.get("content")
        if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
            return f"the content of message {place} is {content!r:.40}, not a text"
    return None


def read_chat(folder: Path) -> Chat:
    """The folder's chat templates and special tokens, as ``AutoTokenizer`` has them. Raises ArtifactError."""
    return of_tokenizer(load_tokenizer(folder))


def render_row(folder: Path, path: Path, number: int, row: dict[str, Any], *, generation_prompt: bool = False) -> str:
    """A chat row through the model's own template, whose clock stands still.

    DataError names file and line of a row that the template cannot render.
    """
    chat = read_chat(folder)
    template = chat.template()
    if template is None:
        raise DataError(path, number, f"'messages' need a chat template and {folder} has none", next="use 'text' rows")
    messages = row["messages"]
    try:
        return render(template, messages, special=chat.special, add_generation_prompt=generation_prompt, now=STILL)
    except Exception as error:  # a template may raise anything
        what = error.what if isinstance(error, HoldfastError) else f"the chat template fails: {error}"
        raise DataError(path, number, what, next="repair that row, or chat_template.jinja") from None


def load_encoder(folder: Path) -> Encode:
    """``encode(texts, add_special_tokens) -> token ids`` of the folder's ``AutoTokenizer``."""
    tokenizer = load_tokenizer(folder)

    def encode(texts: list[str], special: bool) -> list[list[int]]:
        if not texts:
            return []
        ids = tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]
        return [list(found) for found in ids]

    return encode


def document_ids(folder: Path, path: Path) -> Iterator[list[int]]:
    """Token ids of each row. ``text`` gets the tokenizer's special tokens; a rendered chat brings its own."""
    encode = load_encoder(folder)
    rows = read_rows(path)
    while chunk := list(islice(rows, CHUNK)):
        texts = [
            (row["text"], True) if "text" in row else (render_row(folder, path, number, row), False)
            for number, row in chunk
        ]
        for special, run in groupby(texts, key=lambda pair: pair[1]):
            yield from encode([text for text, _ in run], special)


def _context(folder: Path) -> int:
    """Positions that the model was made for."""
    config = read_config(folder)
    row = LAYOUTS.get(str(config.get("model_type")))
    found = row.settings(config).get("max_position_embeddings") if row else None
    return found or sys.maxsize


def calibration_windows(folder: Path, path: Path, tokens: int, length: int) -> torch.Tensor:
    """int64 ``[tokens // length, length]``, fewer windows (and a warning) when the text is shorter, and shorter ones
    where the model's context is.

    Raises DataError if the text does not fill one window.
    """
    import torch

    context = _context(folder)
    if length > context:
        log.warning("calibration windows of %d tokens: %s has a context of %d, which is used", length, folder, context)
        length = context
    wanted = tokens // length
    ids: list[int] = []
    for document in document_ids(folder, path):
        ids += document
        if len(ids) >= wanted * length:
            break
    found = min(wanted, len(ids) // length)
    if not found:
        raise DataError(
            path,
            None,
            f"{len(ids)} tokens of text do not fill one calibration window of {length} (wanted {wanted} windows)",
            next="add rows, or lower calibration_length and calibration_tokens",
        )
    if found < wanted:
        log.warning("%s: %d tokens give %d of %d calibration windows; all are used", path, len(ids), found, wanted)
    return torch.tensor(ids[: found * length]).view(found, length)
