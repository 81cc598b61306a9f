"""Rows of a data file with the line each stands on: JSONL, JSON, CSV/TSV and Parquet, plain or gzipped."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.errors import DataError
from compress.extras import need
from compress.rows import parse

NumberedRow = tuple[int, Any]


def read_rows(path: Path) -> Iterator[NumberedRow]:
    """``(line, row)`` of every row; the line counts from 1 (for Parquet it is the row's number)."""
    if not path.is_file():
        raise DataError(path, None, "there is no such file", next="check the path under data: in the pipeline file")
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in READERS:
        raise DataError(
            path, None, f"files ending in {suffix or 'nothing'} are not read here", next="use " + ", ".join(READERS)
        )
    yield from READERS[suffix](path)


def _text(path: Path) -> str:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(path, None, f"cannot be read: {error}", next="check or fetch the file again") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(path, line, "is not UTF-8 text", next="save the file as UTF-8") from None


def _jsonl(path: Path) -> Iterator[NumberedRow]:
    for line, text in enumerate(_text(path).split("\n"), 1):
        if text.strip():
            try:
                yield line, parse(text)
            except ValueError as error:
                raise DataError(path, line, f"is not JSON ({error})", next="mend or remove that line") from None


def _json(path: Path) -> Iterator[NumberedRow]:
    text = _text(path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(path, error.lineno, f"is not JSON ({error.msg})", next="mend the file") from None
    if not isinstance(value, list):
        raise DataError(
            path, 1, "must hold a list of rows", next="write [row, row, ...], or one row per line as .jsonl"
        )
    yield from enumerate(value, 1)


def _csv(path: Path, delimiter: str = ",") -> Iterator[NumberedRow]:
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) != len(header) or not header:
            raise DataError(path, 1, "the first line must name every column once", next="add a header line")
        before = reader.line_num
        for cells in reader:
            line, before = before + 1, reader.line_num
            if len(cells) != len(header):
                raise DataError(
                    path, line, f"has {len(cells)} cells, the header {len(header)}", next="quote cells with commas"
                )
            yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(
            path, reader.line_num, f"is not valid CSV ({error})", next="mend the quotes of that line"
        ) from None


def _tsv(path: Path) -> Iterator[NumberedRow]:
    return _csv(path, "\t")


def _parquet(path: Path) -> Iterator[NumberedRow]:
    need("datasets")  # brings pyarrow
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(path, None, f"is not a Parquet file ({error})", next="check the file") from None
    yield from enumerate(table.to_pylist(), 1)


READERS = {".csv": _csv, ".json": _json, ".jsonl": _jsonl, ".parquet": _parquet, ".tsv": _tsv}
