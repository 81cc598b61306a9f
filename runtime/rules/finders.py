"""What a reply names, and whether that stands in what it was given: the machinery, numbers, addresses.

A finder yields what a text names, each with a normal form; ``stands`` says whether one such thing is in the evidence.
A reply may say less than the evidence (a date without its year), never more. Names are in ``finders_names.py``;
amounts, dates and times in ``finders_values.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from . import finders_names as people
from . import finders_values as values
from . import leaks
from . import text as texts
from .found import Found

MIN_DIGITS = 4
"""Digits from which on a plain number counts, unless the rule says otherwise."""
Find = Callable[[str], Iterator[Found]]


@dataclass(frozen=True)
class Evidence:
    """The conversation, facts and sources as one ``plain`` text."""

    text: str

    @cached_property
    def folded(self) -> str:
        return self.text.casefold()

    @cached_property
    def words(self) -> frozenset[str]:
        """Every word, without accents."""
        return frozenset(people.words_of(self.text))

    @cached_property
    def written(self) -> frozenset[str]:
        """Every word as it is written."""
        return frozenset(re.findall(r"[^\W\d_]+", self.text))

    @cached_property
    def _seen(self) -> dict[str, list[Found]]:
        return {}

    def of(self, name: str) -> list[Found]:
        """What the finder ``name`` sees in the evidence."""
        if name not in self._seen:
            self._seen[name] = list(
                values.dates(self.text, loose=True) if name == "dates" else FINDERS[name].find(self.text)
            )
        return self._seen[name]

    def holds(self, key: str) -> bool:
        """Whether the letters and digits of ``key`` stand here in that order, a separator between any two allowed."""
        return _spaced(key).search(self.folded) is not None


@lru_cache(maxsize=1024)
def _spaced(key: str) -> re.Pattern[str]:
    """Linear: a separator is never a letter or digit, so nothing is ever tried twice."""
    inner = r"[\W_]?".join(map(re.escape, key))
    return re.compile(rf"(?<!\d)0*{inner}(?!\d)" if key.isdigit() else rf"(?<![^\W_]){inner}(?![^\W_])")


@dataclass(frozen=True)
class Finder:
    """One row of the table."""

    what: str
    find: Find
    stands: Callable[[Found, Evidence], bool]


_THOUSANDS = re.compile(r"(?<![\w.,])\d{1,3}([ ,.'])\d{3}(?:\1\d{3})*(?!\d)")
_SINGLE = re.compile(r"(?<!\w)\d(?:[ \-]\d){3,}(?!\w)")
_TOKEN = re.compile(r"[^\W_]+(?:[-_/][^\W_]+)*")
_MARK = re.compile(
    r"(?:(?P<sign>[#\u2116] ?)|\b(?:no|nr|id|ref|reference|number|code|order|ticket|case|invoice|booking|parcel"
    r"|tracking|account|claim)\b(?: (?:is|(?P<number>number|no|nr|id|code))\b)?[.:]? ?)$",
    re.I,
)
_CODE = re.compile(r"[A-Z]+[\d\-_/]|[\dA-Z]*\d[A-Z]+\d")


def numbers(text: str, min_digits: int) -> Iterator[Found]:
    """Numbers and codes of a ``plain`` text.

    Counted are: numbers of ``min_digits`` digits or more, thousands grouped or not; codes in capitals with two digits
    or more (``B72``, ``INV-2024-1``); after ``#`` all but a single digit; with a digit, after a word like ``order``
    what has three characters, and after two such words (``order number``) two.
    So "2 items", "within 24 hours", "step 1", "10 am" and "2nd" are not.
    """
    for pattern in (_SINGLE, _THOUSANDS):
        for match in pattern.finditer(text):
            joined = texts.digits(match[0])
            if len(joined) >= min_digits:
                yield Found(match[0], match.span(), joined.lstrip("0") or "0")
        text = blank(text, (match.span() for match in pattern.finditer(text)))
    for match in _TOKEN.finditer(text):
        if match[0].isupper() or any(char.isdigit() for char in match[0]):
            yield from _token(text, match, min_digits)


def _token(text: str, match: re.Match[str], min_digits: int) -> Iterator[Found]:
    token, count = match[0], len(texts.digits(match[0]))
    mark = _MARK.search(text[max(0, match.start() - 32) : match.start()])
    compact = re.sub(r"[-_/]", "", token).casefold()
    if mark and _marked(mark, compact, count):
        yield Found(token, match.span(), _key(compact))
    elif any(char.isalpha() for char in token):
        if count >= min_digits or (count >= 2 and token == token.upper() and _CODE.match(token)):
            yield Found(token, match.span(), compact)
    else:
        groups = (group for group in re.split(r"[-_/]", token) if len(group) >= min_digits)
        yield from (Found(group, match.span(), _key(group)) for group in groups)


def _marked(mark: re.Match[str], compact: str, count: int) -> bool:
    """Whether a token of ``count`` digits is a number of something because of what stands before it."""
    if mark["sign"]:
        return len(compact) >= 2 or not count
    return count > 0 and len(compact) >= (2 if mark["number"] else 3)


def _key(compact: str) -> str:
    return (compact.lstrip("0") or "0") if compact.isdigit() else compact


def _number_stands(found: Found, evidence: Evidence) -> bool:
    """In one, or, where spaces part it, each group as a number of its own."""
    groups = found.shown.split(" ")
    return evidence.holds(found.key) or (len(groups) > 1 and all(evidence.holds(group) for group in groups))


def _emails(text: str) -> Iterator[Found]:
    for match in texts.EMAIL.finditer(text):
        yield Found(match[0], match.span(), match[0].casefold())


_LINK = re.compile(
    r"(?:https?://|www\.)[^\s<>\"')\]]+|(?<![\w@.\-])[a-z0-9][a-z0-9\-]*(?:\.[a-z0-9\-]+)*"
    r"\.(?:com|org|net|io|info|shop|store|app|dev|eu|uk|de|fr|es|it|nl|ch|at|example)\b(?:/[^\s<>\"')\]]*)?",
    re.I,
)


def _links(text: str) -> Iterator[Found]:
    for match in _LINK.finditer(text):
        bare = re.sub(r"^https?://", "", match[0].casefold().rstrip(".,;:!?/")).removeprefix("www.")
        yield Found(match[0], match.span(), bare)


def _link_stands(found: Found, evidence: Evidence) -> bool:
    """The link itself, or a longer one that begins with it."""
    known = [other.key for other in evidence.of("links")] + [
        other.key.partition("@")[2] for other in evidence.of("emails")
    ]
    return any(link == found.key or link.startswith((found.key + "/", found.key + "?")) for link in known)


def _phones(text: str) -> Iterator[Found]:
    for number in leaks.find_phones(text):
        start = text.index(number)
        yield Found(number, (start, start + len(number)), texts.digits(number).lstrip("0"))


def _phone_stands(found: Found, evidence: Evidence) -> bool:
    """With or without country code and leading zero: one ends with the other."""
    others = [texts.digits(run[0]).lstrip("0") for run in texts.GROUPS.finditer(evidence.text)]
    return any(len(other) >= 7 and (other.endswith(found.key) or found.key.endswith(other)) for other in others)


def _same_key(name: str) -> Callable[[Found, Evidence], bool]:
    return lambda found, evidence: any(other.key == found.key for other in evidence.of(name))


# In this order: what an earlier one found, the numbers do not look at again.
FINDERS: dict[str, Finder] = {
    "links": Finder("link", _links, _link_stands),
    "emails": Finder("e-mail address", _emails, _same_key("emails")),
    "dates": Finder("date", values.dates, lambda f, e: values.date_stands(f, e.of("dates"))),
    "times": Finder("time", values.times, lambda f, e: any(other.key & f.key for other in e.of("times"))),
    "amounts": Finder("amount", values.amounts, lambda f, e: values.amount_stands(f, e.of("amounts"), e.text)),
    "percentages": Finder("percentage", values.percentages, _same_key("percentages")),
    "phones": Finder("telephone number", _phones, _phone_stands),
    "names": Finder("name", people.names, lambda f, e: all(word in e.words or word in e.written for word in f.key)),
    "numbers": Finder("number", lambda text: numbers(text, MIN_DIGITS), _number_stands),
}


def blank(text: str, spans: Any) -> str:
    """``text`` with each span overwritten, so that nothing is found across it."""
    for start, end in spans:
        text = text[:start] + "\0" * (end - start) + text[end:]
    return text


def first_invented(
    text: str, evidence: Evidence, wanted: Sequence[str], min_digits: int, patterns: Sequence[Any]
) -> str | None:
    """The first thing named in ``text`` (``plain``) that is not in the evidence, with what it is; or None."""
    for pattern in patterns:
        for match in pattern.finditer(text):
            shown = match[1] if match.re.groups else match[0]
            if shown and not _stands(shown, evidence):
                return repr(shown)
    for name, finder in FINDERS.items():
        if name not in wanted:
            continue
        found = list(numbers(text, min_digits) if name == "numbers" else finder.find(text))
        for one in found:
            if not finder.stands(one, evidence):
                return f"the {finder.what} {one.shown!r}"
        if name != "names":
            text = blank(text, (one.span for one in found))
    return None


def _stands(shown: str, evidence: Evidence) -> bool:
    compact = "".join(char for char in texts.squeeze(shown) if char.isalnum())
    return evidence.holds(_key(compact)) if compact else texts.squeeze(shown) in texts.squeeze(evidence.text)
