"""Rows of a data file with the line each stands on: JSONL, JSON, CSV/TSV, Parquet, plain or gzipped; folders of such
files, of ``datasets`` or of text.

JSONL, CSV and Parquet are read row by row: a file may be larger than the memory. A row that cannot be read is a
``DataError`` with file and line in place of the row, so that the reader may go on after it.
"""

from __future__ import annotations

import csv
import gzip
import html.parser
import importlib
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, overload

from compress.errors import DataError
from compress.extras import need
from compress.rows import parse

NumberedRow = tuple[int, Any]
"""Line and row, or line and the DataError that stands for it."""
PARQUET_ROWS, PARQUET_BYTES = 1024, 1 << 20
"""Rows that are decoded together; what is read of a column at a time (else all of it in a group of rows)."""
ABOUT = re.compile(r"(schema|state|dataset_dict|dataset_infos?|metadata)\.json(\.gz)?")
"""Files beside rows that tell of them."""
DOCUMENTS = (".htm", ".html", ".markdown", ".md", ".rst", ".txt")


PARTS = {
    "train": ("train", "training"),
    "calibration": ("calibration", "train", "training"),
    "eval": ("eval", "evaluation", "test", "validation", "val", "dev"),
}
"""Split -> the keys under which one JSON file holds its rows, the first that is there."""


def read_rows(path: Path, split: str = "train") -> Iterator[NumberedRow]:
    """``(line, row)`` of every row; the line counts from 1 (in Parquet the row's number; in a folder of files with rows
    that over all of them, ``place_of``; in one of documents the file's).

    Raises DataError where the rest of the file cannot be read either.
    """
    if path.is_dir():
        shards = shards_of(path, split)
        numbered = (row for shard in shards for _, row in _of_file(shard, split))
        yield from enumerate(numbered, 1) if shards else _folder(path)
        return
    if not path.is_file():
        raise DataError(path, None, "there is no such file", next="check the path under data: in the pipeline file")
    inner, packed = _kind(path), path.suffix.lower()
    if inner not in READERS or (packed == ".gz" and inner in (".parquet", ".arrow")):
        hint = "unpack it first, or pack it with gzip" if packed in PACKED else "use " + ", ".join(READERS)
        raise DataError(path, None, f"files ending in {packed or 'nothing'} are not read here", next=hint)
    yield from _of_file(path, split)


def _of_file(path: Path, split: str) -> Iterator[NumberedRow]:
    return _json(path, split) if _kind(path) == ".json" else READERS[_kind(path)](path)


def _kind(path: Path) -> str:
    """The end of a file's name that says what its rows are."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def place_of(path: Path, split: str, number: int) -> tuple[Path, int]:
    """File and line of the row that ``read_rows`` gives the ``number``."""
    count = 0
    for shard in shards_of(path, split) if path.is_dir() else ():
        for line, _ in _of_file(shard, split):
            count += 1
            if count == number:
                return shard, line
    return path, number


def shards_of(path: Path, split: str) -> list[Path]:
    """The files of a split in a folder of Hugging Face's ``datasets``, in their order: as ``save_to_disk`` writes it
    (one split or several); or files of one kind with the split in their names, or all of them where none names one.
    None where it is another folder, or for calibration one of documents."""
    for part in ("", *PARTS[split]):
        state = path / part / "state.json"
        if state.is_file():
            try:
                return [state.with_name(Path(one["filename"]).name) for one in parse(state.read_text())["_data_files"]]
            except (ValueError, KeyError, TypeError, OSError):
                what = "does not name the files of a data set"
                raise DataError(state, None, what, next="write the folder again with save_to_disk") from None
    files = _files_of_rows(path, split)
    named = {file: set(re.split(r"[^a-z]+", file.relative_to(path).as_posix().lower())) for file in files}
    for part in PARTS[split]:
        found = [file for file in files if part in named[file]]
        if found:
            return found
    every = {part for parts in PARTS.values() for part in parts}
    return [] if any(words & every for words in named.values()) else files


def _files_of_rows(path: Path, split: str) -> list[Path]:
    """The files below a folder that hold rows, sorted: Parquet ones if there are any, else those of the one kind that
    there is. Raises DataError where there are several."""
    shown = [file for file in _shown(path) if _kind(file) in READERS and not ABOUT.fullmatch(file.name.lower())]
    documents = split == "calibration" and any(file.suffix.lower() in DOCUMENTS for file in _shown(path))
    kinds = sorted({_kind(file) for file in shown} - {".arrow"})
    if ".parquet" in kinds or documents:
        kinds = [".parquet"]
    if len(kinds) > 1:
        what = f"holds files of several kinds: {', '.join(kinds)}"
        raise DataError(path, None, what, next="name one file, or a folder with those of one kind")
    return [file for file in shown if _kind(file) in kinds]


def _shown(path: Path) -> list[Path]:
    """The files below a folder whose names do not begin with a dot, sorted."""
    files = (file for file in path.rglob("*") if not any(p.startswith(".") for p in file.relative_to(path).parts))
    return sorted(file for file in files if file.is_file())


@overload
def _lines(path: Path) -> Iterator[tuple[int, str]]: ...
@overload
def _lines(path: Path, *, go_on: Literal[True]) -> Iterator[tuple[int, str | DataError]]: ...
def _lines(path: Path, *, go_on: bool = False) -> Iterator[tuple[int, Any]]:
    """Lines with their ends, decoded. One that is no text ends it, or with ``go_on`` is the error in its place."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as handle:
            for number, raw in enumerate(handle, 1):
                try:
                    text: Any = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    text = _no_text(path, number, raw)
                    if not go_on or (number == 1 and raw.startswith(tuple(start for start, _, _ in MAGIC))):
                        raise text from None
                yield number, text
    except (OSError, EOFError) as error:
        raise DataError(path, None, f"cannot be read: {error}", next="check or fetch the file again") from None


def _no_text(path: Path, number: int, raw: bytes) -> DataError:
    """What a line is that is no UTF-8, and what to do."""
    for start, name, hint in MAGIC:
        if number == 1 and raw.startswith(start):
            return DataError(path, None, f"is a {name} file", next=hint)
    return DataError(path, number, "is not UTF-8 text", next="save the file as UTF-8")


def _jsonl(path: Path) -> Iterator[NumberedRow]:
    for line, text in _lines(path, go_on=True):
        if isinstance(text, DataError):
            yield line, text
        elif text.strip():
            try:
                row = parse(text)
            except (ValueError, RecursionError) as error:
                spread = text.strip() in ("{", "[", "[{")
                hint = "name it .json: one value goes over several lines" if spread else "mend or remove that line"
                yield line, DataError(path, line, f"is not JSON ({_why(error)})", next=hint)
            else:
                if isinstance(row, list) and row and isinstance(row[0], dict):
                    row = DataError(path, line, "holds a list of rows, not one row", next="name the file .json")
                yield line, row


def _why(error: Exception) -> str:
    return "brackets in brackets without end" if isinstance(error, RecursionError) else str(error)


def _json(path: Path, split: str = "train") -> Iterator[NumberedRow]:
    """A list of rows, each with the line that it begins on; or an object that holds one under the split's name."""
    text = "".join(line for _, line in _lines(path))
    try:
        value = parse(text)
    except (ValueError, RecursionError) as error:
        raise _not_json(path, text, error) from None
    if isinstance(value, list):
        yield from zip(_starts(text), value, strict=True)
        return
    keys = [key for key in PARTS[split] if isinstance(value, dict) and isinstance(value.get(key), list)]
    if not keys:
        hint = (
            f"write [row, row, …], or an object with the rows under {PARTS[split][0]!r}, or one row per line as .jsonl"
        )
        raise DataError(path, 1, "must hold a list of rows", next=hint)
    yield from enumerate(value[keys[0]], 1)


def _not_json(path: Path, text: str, error: Exception) -> DataError:
    if isinstance(error, json.JSONDecodeError):
        lines = error.msg == "Extra data"
        hint = "name it .jsonl if every line is a row of its own" if lines else "mend the file"
        return DataError(path, error.lineno, f"is not JSON ({error.msg})", next=hint)
    line = None
    if isinstance(error, ValueError) and text.lstrip().startswith("["):
        line = next((line for line, element in _elements(text) if not _parses(element)), None)
    return DataError(path, line, f"is not JSON ({_why(error)})", next="mend the file")


def _parses(text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _starts(text: str) -> Iterator[int]:
    return (line for line, _ in _elements(text))


def _elements(text: str) -> Iterator[tuple[int, str]]:
    """The elements of the list in ``text`` (valid JSON), each with the line on which it begins."""
    decoder, place, line, read = json.JSONDecoder(), text.index("[") + 1, 1, 0
    while True:
        while text[place] in " \t\r\n,":
            place += 1
        if text[place] == "]":
            return
        line, read = line + text.count("\n", read, place), place
        _, place = decoder.raw_decode(text, place)
        yield line, text[read:place]


def _csv(path: Path, delimiter: str | None = None) -> Iterator[NumberedRow]:
    """Rows by the names in the first line that is not blank; it also tells the delimiter, unless that is given."""
    csv.field_size_limit(sys.maxsize)
    lines = _lines(path)
    skipped, first = next(((n, text) for n, text in lines if text.strip() and not _names_delimiter(text)), (1, ""))
    reader = csv.reader(
        itertools.chain([first], (text for _, text in lines)), delimiter=delimiter or _delimiter(first), strict=True
    )
    before = 0
    try:
        header = [name.strip() for name in next(reader, [])]
        doubled = [name for name in header if name and header.count(name) > 1]
        if doubled or not header:
            twice = f": {doubled[0]!r} stands twice" if doubled else ""
            raise DataError(
                path, skipped, f"the first line must name every column once{twice}", next="add a header line"
            )
        before = reader.line_num
        for cells in reader:
            line, before = before + skipped, reader.line_num
            if not cells:
                continue
            if len(cells) != len(header):
                what = f"has {len(cells)} cells, the header {len(header)}"
                yield line, DataError(path, line, what, next="quote cells that hold the delimiter")
            else:
                yield line, {name: cell for name, cell in zip(header, cells, strict=True) if name}
    except csv.Error as error:
        carriage, line = "new-line character" in str(error), reader.line_num
        what = "has lines that end with a carriage return alone" if carriage else f"is not valid CSV ({error})"
        if "unexpected end" in str(error):
            what, line = "has a quotation mark that nothing closes", before + 1
        hint = "save it with line feeds" if carriage else "mend the quotes of that line"
        raise DataError(path, line + skipped - 1, what, next=hint) from None


def _names_delimiter(line: str) -> bool:
    """Excel's first line: ``sep=;``."""
    return line.strip().casefold().startswith("sep=") and len(line.strip()) <= len("sep=;")


def _delimiter(header: str) -> str:
    """What parts the names of the columns: a comma, or else what some countries' spreadsheets write."""
    counts = {mark: header.count(mark) for mark in ",;\t|"}
    return "," if counts[","] else max(counts, key=lambda mark: counts[mark])


def _tsv(path: Path) -> Iterator[NumberedRow]:
    return _csv(path, "\t")


def _parquet(path: Path) -> Iterator[NumberedRow]:
    need("datasets")  # brings pyarrow
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path, buffer_size=PARQUET_BYTES, pre_buffer=False) as file:
            names = file.schema_arrow.names
            doubled = next((name for name in names if names.count(name) > 1), None)
            if doubled is not None:
                raise DataError(path, None, f"has the column {doubled!r} twice", next="give every column its own name")
            yield from _numbered(file.iter_batches(PARQUET_ROWS), _classes(file.schema_arrow))
    except (arrow.ArrowException, OSError) as error:
        what = f"is not a Parquet file ({' '.join(str(error).split())})"
        raise DataError(path, None, what, next="check or fetch the file again") from None


def _arrow(path: Path) -> Iterator[NumberedRow]:
    """A file that ``datasets`` keeps its rows in."""
    need("datasets")  # brings pyarrow
    arrow = importlib.import_module("pyarrow")
    try:
        with arrow.memory_map(str(path)) as file, arrow.ipc.open_stream(file) as batches:
            yield from _numbered(batches, _classes(batches.schema))
    except (arrow.ArrowException, OSError) as error:
        what = f"is not an Arrow file of datasets ({' '.join(str(error).split())})"
        raise DataError(path, None, what, next="write the folder again with save_to_disk") from None


def _classes(schema: Any) -> dict[str, list[str]]:
    """Columns of ``datasets``' ClassLabel, which are stored as numbers -> the names that the numbers stand for."""
    told = parse((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = (told.get("info") or {}).get("features") or {}
    kinds = {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    return {name: kind["names"] for name, kind in kinds.items() if kind.get("_type") == "ClassLabel"}


def _numbered(batches: Iterable[Any], classes: Mapping[str, list[str]]) -> Iterator[NumberedRow]:
    """The rows of Arrow's record batches, counted from 1, with classes by their names."""
    rows = itertools.chain.from_iterable(batch.to_pylist(maps_as_pydicts="lossy") for batch in batches)
    for number, row in enumerate(rows, 1):
        for name in classes.keys() & row.keys():
            row[name] = dict(enumerate(classes[name])).get(row[name])  # -1 stands for none
        yield number, {name: _given(value) for name, value in row.items()}


def _given(value: Any) -> Any:
    """A value without the nulls with which Parquet fills up objects that lack a key others have."""
    if isinstance(value, dict):
        return {name: _given(inner) for name, inner in value.items() if inner is not None}
    return [_given(inner) for inner in value] if isinstance(value, list) else value


READERS = {
    ".arrow": _arrow, ".csv": _csv, ".json": _json, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet,
    ".tsv": _tsv,
}  # fmt: skip
PACKED = (".7z", ".bz2", ".gz", ".lz4", ".tar", ".tgz", ".xz", ".zip", ".zst")
MAGIC = (
    (b"\x1f\x8b", "gzip", "let its name end in .gz"),
    (b"PK\x03\x04", "ZIP or Excel", "unpack it, or save the table as CSV"),
    (b"PAR1", "Parquet", "let its name end in .parquet"),
    (b"BZh", "bzip2", "unpack it first"),
    (b"\xfd7zXZ", "xz", "unpack it first"),
    (b"(\xb5/\xfd", "Zstandard", "unpack it first"),
    (b"\xff\xfe", "UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16", "save it as UTF-8"),
)
"""First bytes of a file, what it is, and what to do with it."""


def _folder(path: Path) -> Iterator[NumberedRow]:
    """``{"text"}`` of every document in a folder, in the order of their paths."""
    files = [file for file in _shown(path) if file.suffix.lower() in DOCUMENTS]
    if not files:
        raise DataError(path, None, "holds no documents", next=f"put files in it that end in {', '.join(DOCUMENTS)}")
    for number, file in enumerate(files, 1):
        text = "".join(line for _, line in _lines(file))
        if file.suffix.lower().startswith(".htm"):
            page = _Words()
            page.feed(text)
            text = "".join(page.pieces)
        if text.strip():
            yield number, {"id": file.relative_to(path).as_posix(), "text": text.strip()}


class _Words(html.parser.HTMLParser):
    """What a page shows: no tags, no scripts, a line for each block, spaces between cells."""

    HIDDEN = frozenset({"head", "noscript", "script", "style", "template"})
    BLOCKS = frozenset({
        "address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "footer", "form",
        "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "table",
        "tr", "ul",
    })  # fmt: skip

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.hidden += tag in self.HIDDEN
        self._part(tag)

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in self.HIDDEN and self.hidden > 0
        self._part(tag)

    def _part(self, tag: str) -> None:
        """Where a block begins or ends, one new line; a cell, one space."""
        mark = "\n" if tag in self.BLOCKS else " " if tag in ("td", "th") else ""
        if mark and self.pieces and not self.pieces[-1].endswith(("\n", mark)):
            self.pieces.append(mark)

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.pieces.append(data)
