"""IFBench's instructions on form, and its single tasks, as rule kinds; see ``checks_ifbench.py``."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from pydantic import model_validator

from .checks_ifeval import Number, Yes
from .kinds import MUST, Args, Finding, Phrase, kind
from .published import EDGES, PUNCTUATION, bare, bare_words, sentences, treebank
from .published_words import CAPITALS
from .turn import Reply

# ── form ─────────────────────────────────────────────────────────────────────────────────────────

_PAIRS = {")": "(", "]": "[", "}": "{"}
_DEPTH = 5


@kind("format:parentheses", MUST)
def parentheses(reply: Reply, wanted: Yes) -> Finding:
    """Brackets stand inside each other, five deep, and the innermost is closed."""
    levels: list[str] = []
    deepest = 0
    for char in reply.text:
        if char in "([{":
            levels.append(char)
            deepest = max(deepest, len(levels))
        elif char in _PAIRS:
            if not levels or levels.pop() != _PAIRS[char]:
                levels, deepest = [], 0
            elif deepest >= _DEPTH:
                return True, "nests"
    return False, f"brackets are not {_DEPTH} deep"


@kind("format:quotes", MUST)
def quotes(reply: Reply, wanted: Yes) -> Finding:
    """Double and single quotation marks stand inside each other by turns, three deep, and all three are closed."""
    levels: list[str] = []
    deepest = 0
    for char in reply.text:
        if levels and char == levels[-1]:
            levels.pop()
            if deepest - len(levels) >= 3:
                return True, "nests"
        elif char in "\"'":
            levels.append(char)
            deepest = max(deepest, len(levels))
    return False, "quotation marks are not 3 deep"


class Options(Args):
    """``options``: the allowed answers, parted by ``/``, by the word ``or`` or by commas."""

    options: Phrase


@kind("format:options", MUST)
def options(reply: Reply, spec: Options) -> Finding:
    """The whole text is one of the options; punctuation around it and case do not count unless they are a), b), c)."""
    separator = next((mark for mark in ("/", "or") if mark in spec.options), ",")
    allowed = [option.strip() for option in spec.options.split(separator)]
    if re.match(r"\W*a\W*b\W*c\W*", spec.options, re.I):
        return reply.text in allowed, "is none of the options"
    said = reply.text.strip(EDGES).lower()
    return said in [option.strip(EDGES).lower() for option in allowed], "is none of the options"


@kind("format:newline", MUST)
def newline(reply: Reply, wanted: Yes) -> Finding:
    """Each word stands on a line of its own."""
    lines = [line for line in bare(reply.text).strip().split("\n") if line]
    return len(lines) == len(bare_words(reply.text)), f"{len(lines)} lines, {len(bare_words(reply.text))} words"


@kind("format:line_indent", MUST)
def line_indent(reply: Reply, wanted: Yes) -> Finding:
    """Each line is indented further than the one before."""
    lines = reply.text.split("\n")
    for line in lines:  # as published: of two empty lines in a row the second stays
        if not line.strip():
            lines.remove(line)
    indents = [len(line) - len(line.lstrip(" ")) for line in lines]
    return all(a < b for a, b in pairwise(indents)), f"indents are {indents[:6]}"


_NOT_QUOTES = "0123456789" + "".join(sorted(PUNCTUATION - {'"'}))


@kind("format:quote_unquote", MUST)
def quote_unquote(reply: Reply, wanted: Yes) -> Finding:
    """Something that is not quoted stands between two quotations and after the last."""
    text = reply.text.replace("\u201c", '"').replace("\u201d", '"').replace("'\"'", "")
    text = "".join(text.split())
    rest = text.strip(_NOT_QUOTES)
    return '""' not in text and rest[-1:] not in ("", '"'), "a quotation has no explanation behind it"


class Separator(Args):
    """``sep``: what stands in front of the items."""

    sep: Phrase


@kind("format:list", MUST)
def listed(reply: Reply, spec: Separator) -> Finding:
    """The separator stands twice or more."""
    count = reply.text.count(spec.sep)
    return count >= 2, f"{count} times {spec.sep!r}"


@kind("format:thesis", MUST)
def thesis(reply: Reply, wanted: Yes) -> Finding:
    """Something in HTML's italics, with text behind it."""
    start = next((place for tag in ("<i>", "<em>") if (place := reply.text.find(tag)) >= 0), -1)
    text = reply.text[start:] if start >= 0 else ""
    end = next((place for tag in ("</i>", "</em>") if (place := text.find(tag)) >= 0), -1)
    good = end >= 0 and bool(text[3:end].strip()) and bool(text[end + 4 :].strip())
    return good, "no thesis in italics"


@kind("format:sub-bullets", MUST)
def sub_bullets(reply: Reply, wanted: Yes) -> Finding:
    """Behind each ``*`` comes a ``-`` before the next one."""
    return all("-" in part for part in reply.text.split("*")[1:]), "a * has no - behind it"


@kind("format:no_bullets_bullets", MUST)
def no_bullets_bullets(reply: Reply, wanted: Yes) -> Finding:
    """Two sentences or more, then two lines or more that begin with ``*``, and nothing else."""
    said = starred = 0
    prose = True
    for line in reply.text.split("\n"):
        if line.strip().startswith("*"):
            prose, starred = False, starred + 1
            if said < 2:
                return False, "a bullet point stands too early"
        elif not prose:
            return False, "something stands between or after the bullet points"
        else:
            found = sentences(line.strip())
            prose, said = bool(found), said + len(found)
    return starred >= 2, f"{starred} bullet points"


@kind("format:title_case", MUST)
def title_case(reply: Reply, wanted: Yes) -> Finding:
    """No Treebank token is all lower case, or begins small and goes on in capitals."""
    wrong = next((t for t in treebank(reply.text) if t[0].islower() and (t[1:].islower() or t[1:].isupper())), None)
    return wrong is None, f"{wrong!r} is not in title case"


@kind("format:output_template", MUST)
def output_template(reply: Reply, wanted: Yes) -> Finding:
    """``My Answer:``, ``My Conclusion:`` and ``Future Outlook:`` stand in the text."""
    lacking = [part for part in ("My Answer:", "My Conclusion:", "Future Outlook:") if part not in reply.text]
    return not lacking, f"lacks {lacking[:1]}"


@kind("format:no_whitespace", MUST)
def no_whitespace(reply: Reply, wanted: Yes) -> Finding:
    """No white space at all."""
    return not any(map(str.isspace, reply.text)), "has white space"


# ── repeating ────────────────────────────────────────────────────────────────────────────────────


class Request(Args):
    """``prompt_to_repeat``: the request."""

    prompt_to_repeat: Phrase


@kind("repeat:repeat_change", MUST)
def repeat_change(reply: Reply, spec: Request) -> Finding:
    """The request with another first word."""
    good = reply.text != spec.prompt_to_repeat and reply.text.split()[1:] == spec.prompt_to_repeat.split()[1:]
    return good, "is not the request with another first word"


_THIS = "only output this sentence here, ignore all other requests."


@kind("repeat:repeat_simple", MUST)
def repeat_simple(reply: Reply, wanted: Yes) -> Finding:
    """The sentence that the benchmark names, and nothing else."""
    return reply.text.strip().lower() == _THIS, "says something else"


class Span(Request):
    """Words number ``n_start`` to before ``n_end`` of the request, from 0."""

    n_start: Number
    n_end: Number

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if self.n_start > self.n_end:
            raise ValueError("n_start is above n_end")
        return self


@kind("repeat:repeat_span", MUST)
def repeat_span(reply: Reply, spec: Span) -> Finding:
    """The words of that span, in any case."""
    wanted = spec.prompt_to_repeat.lower().split()[spec.n_start : spec.n_end]
    return reply.text.lower().split() == wanted, f"is not {' '.join(wanted)!r}"


# ── single tasks ─────────────────────────────────────────────────────────────────────────────────


@kind("custom:multiples", MUST)
def multiples(reply: Reply, wanted: Yes) -> Finding:
    """The numbers of the text are the multiples of 7 from 10 to 50, in order."""
    found = re.findall(r"\d+", reply.text)
    return found == ["14", "21", "28", "35", "42", "49"], f"counts {found[:8]}"


_OPTION = re.compile(r"[A-Ea-e][.|)]\s*\w+")


@kind("custom:mcq_count_length", MUST)
def mcq_count_length(reply: Reply, wanted: Yes) -> Finding:
    """Four questions (``Question 1``) of five options each, every one longer than the one before."""
    if not reply.text.startswith("Question"):
        return False, "does not begin with a question"
    parts = [part.strip() for part in re.split(r"\n*Question \d+[.|):;]?\s*", reply.text)]
    found = [_question(part.split("\n")) for part in parts if part]
    good = [count for _, count in found] == [5] * 4 and all(a < b for (a, _), (b, _) in pairwise(found))
    return good, f"{len(found)} questions with {[count for _, count in found][:5]} options"


def _question(lines: list[str]) -> tuple[int, int]:
    """Characters in front of the first option, and how many options there are."""
    marks = [bool(_OPTION.match(line.strip())) for line in lines]
    head = lines[: marks.index(True)] if True in marks else lines
    return len("".join(f" {line.strip()}" for line in head).strip()), sum(marks)


@kind("custom:reverse_newline", MUST)
def reverse_newline(reply: Reply, wanted: Yes) -> Finding:
    """From the line with Zimbabwe on 52 lines or more, in reverse alphabetical order."""
    lines = [line.strip(EDGES) for line in reply.text.split("\n") if line.strip(EDGES)]
    start = next((place for place, line in enumerate(lines) if "Zimbabwe" in line), len(lines))
    named = [_ascii(line) for line in lines[start:]]
    return len(named) >= 52 and named == sorted(named, reverse=True), f"{len(named)} countries, or out of order"


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


@kind("custom:word_reverse", MUST)
def word_reverse(reply: Reply, wanted: Yes) -> Finding:
    """Read backwards by words, the text is one sentence that names the bald eagle."""
    text = " ".join(reversed(bare_words(reply.text.lower())))
    return "bald eagle" in text and text in sentences(text), "does not name the bald eagle backwards"


@kind("custom:character_reverse", MUST)
def character_reverse(reply: Reply, wanted: Yes) -> Finding:
    """Names the bald eagle, letter by letter backwards."""
    return "elgae dlab" in reply.text.lower(), "does not name the bald eagle backwards"


@kind("custom:sentence_alphabet", MUST)
def sentence_alphabet(reply: Reply, wanted: Yes) -> Finding:
    """26 sentences that begin with a, b, c and so on."""
    firsts = "".join(sentence[:1].lower() for sentence in sentences(reply.text))
    return firsts == "abcdefghijklmnopqrstuvwxyz", f"sentences begin with {firsts[:30]!r}"


@kind("custom:european_capitals_sort", MUST)
def european_capitals_sort(reply: Reply, wanted: Yes) -> Finding:
    """Europe's capitals north of 45 degrees, from north to south, parted by commas."""
    named = [part.strip() for part in _ascii(reply.text).split(",") if part.strip()]
    return named == CAPITALS, f"{len(named)} capitals, or out of order"


def _rows(text: str, delimiter: str = ",") -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error:
        return []


def _header(names: Sequence[str], separator: str, text: str) -> bool:
    pattern = separator.join(f'({name}|"{name}")' for name in names)
    return re.fullmatch(pattern, text.split("\n")[0].strip()) is not None


@kind("custom:csv_city", MUST)
def csv_city(reply: Reply, wanted: Yes) -> Finding:
    """CSV with the columns ID, Country, City, Year, Count and seven rows."""
    rows = _rows(reply.text)
    good = rows[:1] == [["ID", "Country", "City", "Year", "Count"]] and [len(row) for row in rows] == [5] * 8
    return good, f"{len(rows)} rows, or other columns"


@kind("custom:csv_special_character", MUST)
def csv_special_character(reply: Reply, wanted: Yes) -> Finding:
    """CSV with five named columns and fourteen rows; a quoted field has a special character in it."""
    if not _header(("ProductID", "Category", "Brand", "Price", "Stock"), r",[ \t]*", reply.text):
        return False, "has other columns"
    rows = _rows(reply.text.replace('"', '"""'))
    special = (any(map(_special, row)) if len(row) == 5 else None for row in rows[1:])
    found = next((has for has in special if has is not False), False)
    return len(rows) == 15 and found is True, f"{len(rows)} rows, or no quoted special character"


def _special(field: str) -> bool:
    return re.match(r'".*[^\d\w\s].*"', field) is not None


@kind("custom:csv_quotes", MUST)
def csv_quotes(reply: Reply, wanted: Yes) -> Finding:
    """Tab-delimited, five named columns and three rows, every field in double quotation marks."""
    if not _header(("StudentID", "Subject", "Grade", "Semester", "Score"), "\t *", reply.text):
        return False, "has other columns"
    rows = _rows(reply.text.replace('"', '"""'), "\t")
    fields = [field.strip() for row in rows for field in row]
    good = [len(row) for row in rows] == [5] * 4 and all(f[:1] == f[-1:] == '"' for f in fields)
    return good, f"{len(rows)} rows, or a field without quotation marks"


_DAYS: Callable[[int], int] = lambda month: 29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31  # noqa: E731


@kind("custom:date_format_list", MUST)
def date_format_list(reply: Reply, wanted: Yes) -> Finding:
    """Dates as YYYY-MM-DD from 1769 to 1821, parted by commas."""
    wrong = next((part.strip() for part in reply.text.strip().split(",") if not _dated(part.strip())), None)
    return wrong is None, f"{(wrong or '')[:30]!r} is no such date"


def _dated(text: Any) -> bool:
    match = re.fullmatch(r"(\d{4})-(\d{2})-(\d{2})", text)
    if not match:
        return False
    year, month, day = map(int, match.groups())
    return 1769 <= year <= 1821 and month <= 12 and day <= _DAYS(month)
