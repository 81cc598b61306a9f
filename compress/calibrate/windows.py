"""Calibration text: rows of JSONL -> documents joined and cut into windows of token ids."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import ArtifactError, DataError, UsageError
from compress.extras import need
from runtime.engine.chat import TEMPLATE_FILE, TEMPLATE_FOLDER, Chat, of_tokenizer
from runtime.engine.template import STILL, render

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
Encode = Callable[[list[str], bool], list[list[int]]]
CHUNK = 64


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """``(line number, row)`` of a JSONL file (``.gz`` too); DataError names the file and line of a bad row."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as handle:
            for number, line in enumerate(handle, 1):
                if line.strip():
                    yield number, _parse(path, number, line)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(path, None, f"cannot be read ({error})", next="check path and encoding (UTF-8)") from None


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(path, number, f"not JSON ({error})", next="one JSON object per line") from None
    if not isinstance(row, dict) or not ("messages" in row or "text" in row):
        raise DataError(path, number, "the row has neither 'messages' nor 'text'", next="give one of the two")
    return row


def read_chat(folder: Path) -> Chat:
    """The folder's chat templates and special tokens, as ``AutoTokenizer`` has them. Raises ArtifactError."""
    files = (folder / name for name in ("tokenizer_config.json", "tokenizer.json", TEMPLATE_FILE, TEMPLATE_FOLDER))
    return _read_chat(folder, tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files))


@lru_cache(maxsize=4)
def _read_chat(folder: Path, _changed: tuple[int, ...]) -> Chat:
    try:
        tokenizer = need("transformers").AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # any of several libraries' own
        raise _unreadable(folder, error) from None
    return of_tokenizer(tokenizer)


def render_row(folder: Path, path: Path, number: int, row: dict[str, Any], *, generation_prompt: bool = False) -> str:
    """A chat row through the model's own template, whose clock stands still."""
    chat = read_chat(folder)
    template = chat.template()
    if template is None:
        raise DataError(path, number, f"'messages' need a chat template and {folder} has none", next="use 'text' rows")
    messages = row["messages"]
    try:
        return render(template, messages, special=chat.special, add_generation_prompt=generation_prompt, now=STILL)
    except UsageError as error:
        raise DataError(path, number, error.what, next=error.next) from None


def load_encoder(folder: Path) -> Encode:
    """``encode(texts, add_special_tokens) -> token ids`` of the folder's tokenizer."""
    if (folder / "tokenizer.json").is_file():
        try:
            tokenizer = need("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing narrower
            raise _unreadable(folder, error) from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return lambda texts, special: [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=special)]
    if not (folder / "tokenizer.model").is_file():
        raise ArtifactError(f"{folder} has no tokenizer.json", next="save the tokenizer into the model folder")
    try:
        slow = need("transformers").AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # any of several libraries' own
        raise _unreadable(folder, error) from None
    return lambda texts, special: slow(texts, add_special_tokens=special)["input_ids"]


def _unreadable(folder: Path, error: Exception) -> ArtifactError:
    what = str(error).partition("\n")[0]
    return ArtifactError(f"the tokenizer of {folder} cannot be loaded ({what})", next="save the tokenizer again")


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


def calibration_windows(folder: Path, path: Path, tokens: int, length: int) -> torch.Tensor:
    """int64 ``[tokens // length, length]``, fewer windows (and a warning) when the text is shorter.

    Raises DataError if the text does not fill one window.
    """
    import torch

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
