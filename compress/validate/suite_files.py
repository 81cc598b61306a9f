"""The rows of a public set's file as it is published: JSON Lines (whatever it is called), one JSON document, a table,
or a text of one sentence a line; also as ``.gz``."""

from __future__ import annotations

import csv
import gzip
import io
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compress.errors import DataError
from compress.rows import MARK, kind, parse, read_row

Numbered = Iterator[tuple[int, Mapping[str, Any]]]
READ = (".csv", ".json", ".jsonl", ".ndjson", ".tsv", ".txt")


def published(path: Path, shape: str) -> Numbered:
    """``(line, row)`` of a set; of a JSON document, its rows counted from 1. Columns of tables have small names with
    ``_`` for spaces. Raises DataError (file and line) for what cannot be read."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    data = _bytes(path)
    if suffix not in READ:
        hint = f"use {', '.join(READ)}, also as .gz"
        raise DataError(path, None, f"files ending in {suffix or 'nothing'} are not read as a suite", next=hint)
    if suffix in (".csv", ".tsv"):
        yield from _table(path, _text(path, data), "\t" if suffix == ".tsv" else None)
    elif suffix == ".txt":
        lines = enumerate(_text(path, data).split("\n"), start=1)
        yield from ((number, {"text": line.strip()}) for number, line in lines if line.strip())
    elif suffix == ".json" and (found := _document(path, data, shape)) is not None:
        yield from found
    else:
        for number, raw in enumerate(data.split(b"\n"), start=1):
            if raw.strip():
                yield number, read_row(path, number, raw, f"a row is {shape}")


def _bytes(path: Path) -> bytes:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    except (OSError, EOFError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(path, None, f"cannot be read: {why}", next="check the path and the file") from None
    return data.removeprefix(MARK)


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except ValueError as error:
        raise DataError(path, None, f"not UTF-8 ({error})", next="save it as UTF-8") from None


def _document(path: Path, data: bytes, shape: str) -> Numbered | None:
    """The rows of one JSON document, a list or a single one; None where a line ends the first one and more follow."""
    try:
        found = parse(_text(path, data))
    except (ValueError, RecursionError) as error:
        if str(error).startswith("Extra data"):
            return None
        raise DataError(path, None, f"not JSON ({error})", next=f"a row is {shape}") from None
    rows = found if isinstance(found, list) else [found]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise DataError(path, number, f"{kind(row)}, not an object", next=f"a row is {shape}")
    return enumerate(rows, start=1)


def _table(path: Path, text: str, delimiter: str | None) -> Numbered:
    csv.field_size_limit(sys.maxsize)
    head = text.lstrip("\r\n").split("\n", 1)[0]
    mark = delimiter or ("," if "," in head else max(";\t|", key=head.count))
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark)
    before = 0
    try:
        reader.fieldnames = [name.strip().lower().replace(" ", "_") for name in reader.fieldnames or ()]
        before = reader.line_num
        for row in reader:
            line, before = before + 1, reader.line_num
            if None in row:
                more = f"has more cells than the header's {len(reader.fieldnames)}"
                raise DataError(path, line, more, next="quote cells that hold the delimiter")
            if any((cell or "").strip() for cell in row.values()):
                yield line, row
    except csv.Error as error:
        raise DataError(path, before + 1, f"is not valid CSV ({error})", next="mend the quotes of that row") from None
