"""The 25 instructions of IFEval (Zhou et al. 2023, arXiv:2311.07911) as rule kinds, under their published names.

They judge as the published verifiers do, on the text as it was written; for rules of your own the other kinds count
more carefully. The names of the fields are those of the data set.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator

from . import published
from .kinds import MUST, Args, Finding, OneOrMore, Phrase, kind
from .language import LANGUAGES, is_in
from .turn import Reply


def whole(value: Any) -> Any:
    """``5.0``, as JSON tables have it, is 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Number = Annotated[int, BeforeValidator(whole, int), Field(ge=0)]
Relation = Literal["less than", "at least"]
Yes = Literal[True]


def _compared(count: int, relation: str, wanted: int, what: str) -> Finding:
    holds = count < wanted if relation == "less than" else count >= wanted
    return holds, f"{count} {what} (wanted {relation} {wanted})"


# ── keywords, language ───────────────────────────────────────────────────────────────────────────


class Keywords(Args):
    """All of ``keywords``."""

    keywords: OneOrMore


@kind("keywords:existence", MUST)
def existence(reply: Reply, spec: Keywords) -> Finding:
    """Every keyword stands in the text, in any case, also inside a word."""
    lacking = [word for word in spec.keywords if not re.search(re.escape(word), reply.text, re.I)]
    return not lacking, f"lacks {lacking[:1]}"


class KeywordFrequency(Args):
    """``keyword`` less than or at least ``frequency`` times."""

    keyword: Phrase
    frequency: Number
    relation: Relation


@kind("keywords:frequency", MUST)
def frequency(reply: Reply, spec: KeywordFrequency) -> Finding:
    """The keyword stands so many times, in any case, also inside a word."""
    count = len(re.findall(re.escape(spec.keyword.strip()), reply.text, re.I))
    return _compared(count, spec.relation, spec.frequency, f"times {spec.keyword!r}")


class ForbiddenWords(Args):
    """None of ``forbidden_words``."""

    forbidden_words: OneOrMore


@kind("keywords:forbidden_words", MUST)
def forbidden_words(reply: Reply, spec: ForbiddenWords) -> Finding:
    """None of the words stands in the text between word boundaries."""
    hit = next((w for w in spec.forbidden_words if re.search(rf"\b{re.escape(w)}\b", reply.text, re.I)), None)
    return hit is None, f"uses {hit!r}"


class LetterFrequency(Args):
    """``letter`` less than or at least ``let_frequency`` times."""

    letter: Annotated[str, Field(min_length=1, max_length=1)]
    let_frequency: Number
    let_relation: Relation


@kind("keywords:letter_frequency", MUST)
def letter_frequency(reply: Reply, spec: LetterFrequency) -> Finding:
    """The character stands so many times, in any case."""
    count = reply.text.lower().count(spec.letter.lower())
    return _compared(count, spec.let_relation, spec.let_frequency, f"times {spec.letter!r}")


def _code(value: Any) -> str:
    if value not in LANGUAGES:
        raise ValueError(f"unknown language {value!r} (known: {', '.join(sorted(LANGUAGES))})")
    return str(value)


class Language(Args):
    """``language``: a code such as ``de``."""

    language: Annotated[
        str, PlainValidator(_code, Annotated[str, Field(json_schema_extra={"enum": sorted(LANGUAGES)})])
    ]


@kind("language:response_language", MUST)
def response_language(reply: Reply, spec: Language) -> Finding:
    """The text is in the language, or has no letters at all."""
    return _in(reply, spec.language), f"not in {spec.language}"


def _in(reply: Reply, code: str) -> bool:
    return not any(map(str.isalpha, reply.text)) or is_in(reply.plain, code, doubt=True if code == "en" else None)


# ── lengths ──────────────────────────────────────────────────────────────────────────────────────


class Sentences(Args):
    """Less than or at least ``num_sentences``."""

    num_sentences: Number
    relation: Relation


@kind("length_constraints:number_sentences", MUST)
def number_sentences(reply: Reply, spec: Sentences) -> Finding:
    """So many sentences, as Punkt counts them: the numbers of a list are sentences too."""
    return _compared(len(published.punkt(reply.text)), spec.relation, spec.num_sentences, "sentences")


class NumberOfWords(Args):
    """Less than or at least ``num_words``."""

    num_words: Number
    relation: Relation


@kind("length_constraints:number_words", MUST)
def number_words(reply: Reply, spec: NumberOfWords) -> Finding:
    """So many runs of letters, digits and underscores."""
    return _compared(len(published.tokens(reply.text)), spec.relation, spec.num_words, "words")


class Paragraphs(Args):
    """Exactly ``num_paragraphs``."""

    num_paragraphs: Number


@kind("length_constraints:number_paragraphs", MUST)
def number_paragraphs(reply: Reply, spec: Paragraphs) -> Finding:
    """Exactly so many paragraphs parted by ``***``, none of the inner ones empty."""
    parts = [part.strip() for part in reply.text.split("***")]
    inner = parts[1:-1]
    count = len(inner) + sum(bool(part) for part in ([parts[0], parts[-1]] if len(parts) > 1 else parts))
    return all(inner) and count == spec.num_paragraphs, f"{count} paragraphs (wanted {spec.num_paragraphs})"


class NthParagraph(Args):
    """``num_paragraphs`` paragraphs, of which number ``nth_paragraph`` (from 1) begins with ``first_word``."""

    num_paragraphs: Number
    nth_paragraph: Annotated[Number, Field(ge=1)]
    first_word: Phrase


@kind("length_constraints:nth_paragraph_first_word", MUST)
def nth_paragraph_first_word(reply: Reply, spec: NthParagraph) -> Finding:
    """Exactly so many paragraphs parted by a blank line; one begins with the word."""
    parts = reply.text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if spec.nth_paragraph > count or not parts[spec.nth_paragraph - 1].strip():
        return False, f"{count} paragraphs"
    word = parts[spec.nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    first = re.split(r"[.,?!'\"]", word)[0].lower()
    good = count == spec.num_paragraphs and first == spec.first_word.lower()
    return good, f"paragraph {spec.nth_paragraph} of {count} begins with {first!r}"


# ── what must be there ───────────────────────────────────────────────────────────────────────────


class Placeholders(Args):
    """At least ``num_placeholders``."""

    num_placeholders: Number


@kind("detectable_content:number_placeholders", MUST)
def number_placeholders(reply: Reply, spec: Placeholders) -> Finding:
    """At least so many spans in square brackets."""
    count = sum(map(_spans, reply.text.split("\n")))
    return count >= spec.num_placeholders, f"{count} placeholders (wanted {spec.num_placeholders})"


def _spans(line: str) -> int:
    count, place = 0, line.find("[")
    while place >= 0 and (end := line.find("]", place)) >= 0:
        count, place = count + 1, line.find("[", end)
    return count


class Postscript(Args):
    """``postscript_marker``: ``P.S.`` or ``P.P.S``."""

    postscript_marker: Phrase


@kind("detectable_content:postscript", MUST)
def postscript(reply: Reply, spec: Postscript) -> Finding:
    """The marker stands somewhere, with or without spaces between its letters."""
    marker = spec.postscript_marker.strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    found = re.search(patterns.get(marker, re.escape(marker.lower())), reply.text.lower())
    return found is not None, f"no {marker}"


class Bullets(Args):
    """Exactly ``num_bullets``."""

    num_bullets: Number


@kind("detectable_format:number_bullet_lists", MUST)
def number_bullet_lists(reply: Reply, spec: Bullets) -> Finding:
    """Exactly so many lines that begin with one ``*`` or with ``-``; a ``*`` alone on its line takes the next line."""
    lines = [line.lstrip() for line in reply.text.split("\n")]
    count = sum(line.startswith("-") for line in lines) + _starred(lines)
    return count == spec.num_bullets, f"{count} bullet points (wanted {spec.num_bullets})"


def _starred(lines: list[str]) -> int:
    count, rest = 0, iter(lines)
    for line in rest:
        count += line[:1] == "*" and line[1:2] not in ("", "*")
        count += line == "*" and next(rest, None) is not None
    return count


@kind("detectable_format:constrained_response", MUST)
def constrained_response(reply: Reply, wanted: Yes) -> Finding:
    """``My answer is yes.``, ``no.`` or ``maybe.`` stands in the text."""
    good = any(f"My answer is {word}." in reply.text for word in ("yes", "no", "maybe"))
    return good, "gives none of the answers"


class Highlights(Args):
    """At least ``num_highlights``."""

    num_highlights: Number


_ONE_STAR, _TWO_STARS = re.compile(r"\*([^\n*]*)\*"), re.compile(r"\*\*([^\n*]*)\*\*")


@kind("detectable_format:number_highlighted_sections", MUST)
def number_highlighted_sections(reply: Reply, spec: Highlights) -> Finding:
    """At least so many spans between single or double asterisks."""
    found = [*_ONE_STAR.findall(reply.text), *_TWO_STARS.findall(reply.text)]
    count = sum(bool(text.strip()) for text in found)
    return count >= spec.num_highlights, f"{count} highlighted spans (wanted {spec.num_highlights})"


class Sections(Args):
    """At least ``num_sections`` that begin with ``section_spliter`` and a number."""

    section_spliter: Phrase
    num_sections: Number


@kind("detectable_format:multiple_sections", MUST)
def multiple_sections(reply: Reply, spec: Sections) -> Finding:
    """The marker stands so many times in front of a number."""
    count = len(re.findall(rf"{re.escape(spec.section_spliter.strip())}\s?\d+", reply.text))
    return count >= spec.num_sections, f"{count} sections (wanted {spec.num_sections})"


@kind("detectable_format:json_format", MUST)
def json_format(reply: Reply, wanted: Yes) -> Finding:
    """The text is JSON, bare or between code fences; ``NaN`` is taken for JSON, as Python does."""
    body = reply.text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        body = body.removeprefix(fence)
    try:
        json.loads(body.removesuffix("```").strip())
    except (ValueError, RecursionError) as error:
        return False, f"is not JSON ({error})"
    return True, "is JSON"


@kind("detectable_format:title", MUST)
def title(reply: Reply, wanted: Yes) -> Finding:
    """A title stands between ``<<`` and ``>>`` on one line."""
    found = any(_titled(line) for line in reply.text.split("\n"))
    return found, "no <<title>>"


def _titled(line: str) -> bool:
    start, end = line.find("<<"), line.rfind(">>")
    return 0 <= start <= end - 3 and bool(line[start : end + 2].lstrip("<").rstrip(">").strip())


# ── combinations, beginnings and ends, case, commas ──────────────────────────────────────────────


@kind("combination:two_responses", MUST)
def two_responses(reply: Reply, wanted: Yes) -> Finding:
    """Two different answers parted by ``******``."""
    parts = [part.strip() for part in reply.text.split("******")]
    answers = [part for part in parts if part]
    good = all(parts[1:-1]) and len(answers) == 2 and answers[0] != answers[1]
    return good, f"{len(answers)} answers"


class Repeat(Args):
    """``prompt_to_repeat``: what the reply begins with."""

    prompt_to_repeat: Phrase


@kind("combination:repeat_prompt", MUST)
def repeat_prompt(reply: Reply, spec: Repeat) -> Finding:
    """The text begins with the request, word for word."""
    good = reply.text.strip().lower().startswith(spec.prompt_to_repeat.strip().lower())
    return good, "does not begin with the request"


class End(Args):
    """``end_phrase``: what the reply ends with."""

    end_phrase: Phrase


@kind("startend:end_checker", MUST)
def end_checker(reply: Reply, spec: End) -> Finding:
    """The text ends with the phrase; double quotes around the whole are looked through."""
    good = reply.text.strip().strip('"').lower().endswith(spec.end_phrase.strip().lower())
    return good, f"ends with {reply.text.strip()[-30:]!r}"


@kind("startend:quotation", MUST)
def quotation(reply: Reply, wanted: Yes) -> Finding:
    """The whole text stands between straight double quotation marks."""
    text = reply.text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"', "not wrapped in double quotation marks"


class CapitalWords(Args):
    """Words in capitals: less than or at least ``capital_frequency``."""

    capital_frequency: Number
    capital_relation: Relation


@kind("change_case:capital_word_frequency", MUST)
def capital_word_frequency(reply: Reply, spec: CapitalWords) -> Finding:
    """So many Treebank tokens in capitals."""
    count = sum(token.isupper() for token in published.treebank(reply.text))
    return _compared(count, spec.capital_relation, spec.capital_frequency, "words in capitals")


@kind("change_case:english_capital", MUST)
def english_capital(reply: Reply, wanted: Yes) -> Finding:
    """English, all in capitals."""
    return reply.text.isupper() and _in(reply, "en"), "not English in capitals"


@kind("change_case:english_lowercase", MUST)
def english_lowercase(reply: Reply, wanted: Yes) -> Finding:
    """English without a capital."""
    return reply.text.islower() and _in(reply, "en"), "not English without capitals"


@kind("punctuation:no_comma", MUST)
def no_comma(reply: Reply, wanted: Yes) -> Finding:
    """No comma."""
    return "," not in reply.text, "has a comma"
