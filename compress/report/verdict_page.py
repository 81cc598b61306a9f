"""The verdict page: one self-contained HTML file, without a script or a request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.report import verdict as documents
from compress.report import words

Json = Mapping[str, Any]
SAID = {"broken": "newly broken", "mended": "mended", "both": "broken by both"}
CSS = {"PASS": "pass", "FAIL": "fail", "INCONCLUSIVE": "open"}


def environment() -> Any:
    """The templates of this folder. Every value is escaped: replies, ids and names of rules are untrusted."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = FileSystemLoader(Path(__file__).parent)
    found = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.globals |= {"w": words, "v": documents, "said": SAID, "css": lambda verdict: CSS.get(verdict, "")}
    return found


def page(document: Json) -> str:
    """The document as HTML text."""
    return words.clean(environment().get_template("verdict.html").render(document=document))
