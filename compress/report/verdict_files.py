"""A verdict's document in a file, in the format that the file's suffix names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compress.json_files import write_text
from compress.report.verdict_junit import junit
from compress.report.verdict_markdown import markdown
from compress.report.verdict_page import page

Json = Mapping[str, Any]


def _json(document: Json) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: Mapping[str, Callable[[Json], str]] = {".html": page, ".json": _json, ".md": markdown, ".xml": junit}
"""Suffix -> writer."""


def write(document: Json, path: Path) -> None:
    """Write the document (``compress.report.verdict``) to ``path`` atomically."""
    text = FORMATS[path.suffix.lower()](document)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
