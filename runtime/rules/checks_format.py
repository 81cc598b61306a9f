"""Rule kinds on the form of a reply: what IFEval calls verifiable instructions (Zhou et al. 2023, arXiv:2311.07911)."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, model_validator

from . import text as texts
from .json_schema import check_schema, schema_problem
from .kinds import MUST, Args, Bounds, Finding, Phrase, kind
from .turn import Reply

_MARKER = re.compile(r"^[ \t]*(?!(?:[*\-][ \t]*){3,}$)[*\-+•][ \t]+\S", re.M)
"""``* * *`` is a rule across the page."""
_HIGHLIGHT = re.compile(r"(?<!\\)\*\*[^\s*](?:[^\n*]*[^\s*\\])?\*\*|(?<![*\\])\*[^\s*](?:[^\n*]*[^\s*\\])?\*(?!\*)")
_PLACEHOLDER = re.compile(r"\[[^\S\n]*[^\[\]\s][^\[\]\n]*\]")
_TITLE = re.compile(r"<<[^\S\n]*[^\s<>][^\n<>]*>>")
_FENCE = re.compile(r"^(`{3,}|~{3,})[ \t]*(?:json)?[ \t]*\r?\n(.*?)(?:\r?\n)?[ \t]*\1$", re.S | re.I)


class ParagraphArgs(Bounds):
    """How many paragraphs; ``separator`` in place of a blank line."""

    separator: Phrase | None = None
    """What parts paragraphs in place of a blank line."""


@kind("paragraphs", MUST)
def paragraphs(reply: Reply, spec: ParagraphArgs) -> Finding:
    """The number of non-empty paragraphs lies within the bounds."""
    return spec.admit(len(texts.paragraphs(reply.plain, spec.separator)), "paragraphs")


class FirstWordArgs(Args):
    """Paragraph ``paragraph`` (from 1) begins with ``word``; ``of`` is how many paragraphs there must be."""

    paragraph: Annotated[int, Field(ge=1)]
    """Which paragraph, from 1."""
    word: Phrase
    """What it begins with."""
    of: Annotated[int, Field(ge=1)] | None = None
    """How many paragraphs there must be."""


@kind("paragraph_first_word", MUST)
def paragraph_first_word(reply: Reply, spec: FirstWordArgs) -> Finding:
    """The first word of one paragraph is the given one."""
    parts = texts.paragraphs(reply.plain)
    if len(parts) < spec.paragraph or (spec.of is not None and len(parts) != spec.of):
        return False, f"{len(parts)} paragraphs"
    first = (texts.words(texts.squeeze(parts[spec.paragraph - 1])) or [""])[0]
    return first == texts.squeeze(spec.word), f"paragraph {spec.paragraph} begins with {first!r}"


@kind("bullets", MUST)
def bullets(reply: Reply, spec: Bounds) -> Finding:
    """Lines that begin with ``*``, ``-`` or ``+`` and a space."""
    return spec.admit(len(_MARKER.findall(reply.plain)), "bullet points")


@kind("highlights", MUST)
def highlights(reply: Reply, spec: Bounds) -> Finding:
    """Markdown spans ``*like this*`` or ``**like this**``."""
    return spec.admit(len(_HIGHLIGHT.findall(reply.plain)) if "*" in reply.plain else 0, "highlighted spans")


@kind("placeholders", MUST)
def placeholders(reply: Reply, spec: Bounds) -> Finding:
    """Spans ``[like this]``."""
    return spec.admit(len(_PLACEHOLDER.findall(reply.plain)), "placeholders")


class SectionArgs(Bounds):
    """Sections that begin with ``marker`` and a number: ``SECTION 1``."""

    short: ClassVar[Any] = None
    marker: Phrase
    """What stands in front of the number."""


@kind("sections", MUST)
def sections(reply: Reply, spec: SectionArgs) -> Finding:
    """The number of lines that open a section lies within the bounds."""
    pattern = re.compile(rf"^[\s#*]*{re.escape(texts.plain(spec.marker))}[ \t]+(?:[0-9]+|[ivxlc]+)\b", re.M | re.I)
    return spec.admit(len(pattern.findall(reply.plain)), f"sections marked {spec.marker!r}")


class ResponsesArgs(Args):
    """``count`` different answers parted by ``separator``."""

    short: ClassVar[Any] = Annotated[int, Field(ge=2)]
    count: Annotated[int, Field(ge=2)]
    """How many answers."""
    separator: Phrase = "******"
    """What parts them."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"count": value} if isinstance(value, int) and not isinstance(value, bool) else value


@kind("responses", MUST)
def responses(reply: Reply, spec: ResponsesArgs) -> Finding:
    """Exactly so many answers, none empty, all different."""
    parts = [part.strip() for part in reply.plain.split(spec.separator)]
    inner = [part for place, part in enumerate(parts) if part or 0 < place < len(parts) - 1]
    good = len(inner) == spec.count and all(inner) and len(set(inner)) == len(inner)
    return good, f"{len(inner)} answers (wanted {spec.count} different ones parted by {spec.separator!r})"


@kind("postscript", MUST)
def postscript(reply: Reply, marker: Phrase) -> Finding:
    """A line begins with the marker (``P.S.``) and says something."""
    letters = [re.escape(char) for char in texts.plain(marker) if char.isalnum()]
    pattern = re.compile(r"^[\s*_]*" + r"\.?\s?".join(letters) + r"(?:\.|:|\b)[^\n]*\w", re.M | re.I)
    return pattern.search(reply.plain) is not None, f"no line begins with {marker!r}"


@kind("title", MUST)
def title(reply: Reply, wanted: Literal[True]) -> Finding:
    """A title stands in double angular brackets: ``<<Title>>``."""
    return _TITLE.search(reply.plain) is not None, "no <<title>>"


@kind("quoted", MUST)
def quoted(reply: Reply, wanted: Literal[True]) -> Finding:
    """The whole text stands in double quotation marks."""
    text = reply.plain.strip()
    return len(text) > 2 and text[0] == text[-1] == '"', "not wrapped in double quotation marks"


@kind("case", MUST)
def case(reply: Reply, wanted: Literal["upper", "lower"]) -> Finding:
    """All letters are capitals, or none is."""
    good = reply.plain == (reply.plain.upper() if wanted == "upper" else reply.plain.lower())
    return good, f"not all {wanted}-case"


@kind("capital_words", MUST)
def capital_words(reply: Reply, spec: Bounds) -> Finding:
    """Words written in capitals only."""
    return spec.admit(sum(word.isupper() for word in reply.words), "words in capitals")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice")
    return value


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < 4000 else float(digits)  # Python reads no longer ones


def read_json(text: str) -> tuple[Any, str | None]:
    """The one JSON value that a text is, bare or in a code fence, and None; or None and what is wrong with it."""
    body = text.strip().removeprefix("\ufeff").strip()
    fenced = _FENCE.match(body)
    try:
        found = fenced[2] if fenced else body
        return json.loads(found, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_whole), None
    except (ValueError, RecursionError) as error:
        return None, f"is not JSON ({error})"


@kind("json", MUST)
def is_json(reply: Reply, wanted: Literal[True]) -> Finding:
    """The text is one JSON value, bare or in a Markdown code fence."""
    _, error = read_json(reply.text)
    return error is None, error or "is JSON"


@kind("json_schema", MUST)
def json_schema(reply: Reply, schema: Annotated[Any, PlainValidator(check_schema, dict[str, Any])]) -> Finding:
    """The text is JSON that satisfies the schema."""
    value, error = read_json(reply.text)
    error = error or schema_problem(value, schema)
    return error is None, error or "fits the schema"
