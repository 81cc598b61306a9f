"""Text as the rule checkers see it: one normal form, then words, sentences and paragraphs.

Everything here is deterministic and linear in the length of the text. Users' patterns run on RE2
(no backtracking); the patterns written in this file are literals or single-class repetitions.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

# Letters, marks and symbols that show nothing on the screen although their category is not Cf.
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_SELECTORS = ((0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
_SINGLE_QUOTES, _DOUBLE_QUOTES = (
    frozenset("\u2018\u2019\u201a\u201b\u02bc"),
    frozenset("\u201c\u201d\u201e\u201f\u00ab\u00bb"),
)


class _Fold(dict[int, str]):
    """``str.translate`` table, filled as characters are met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = folded = _plain_char(char, unicodedata.category(char))
        return folded


def _plain_char(char: str, category: str) -> str:
    if category == "Cf" or char in _BLANKS or any(low <= ord(char) <= high for low, high in _SELECTORS):
        return ""
    if category == "Cs":  # half a character: no text, and no UTF-8
        return "\ufffd"
    if category == "Nd":
        return str(unicodedata.decimal(char))
    if category == "Pd" or char == "\u2212":
        return "-"
    if char in _SINGLE_QUOTES:
        return "'"
    return '"' if char in _DOUBLE_QUOTES else char


_FOLD = _Fold()


_ALIKE = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u04bb\u04cf\u043a\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420"
    "\u0421\u0422\u0423\u0425\u0406\u0408\u0405\u03b1\u03bf\u03c1\u03bd\u03b9\u03ba\u03c5\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d"
    "\u039f\u03a1\u03a4\u03a5\u03a7",
    "aeopcyxijsdhlkABEKMHOPCTYXIJSaopvikuABEZHIKMNOPTYX",
)
"""Cyrillic and Greek letters that are drawn like Latin ones (UTS #39, confusables)."""
_FOREIGN = re.compile(r"[\u0370-\u03ff\u0400-\u052f]")
_LETTERS = re.compile(r"[^\W\d_]+")


def _unmixed(match: re.Match[str]) -> str:
    """A word of Latin letters and look-alikes in Latin letters; a word of one script stays."""
    word = match[0]
    return word.translate(_ALIKE) if re.search("[A-Za-z]", word) and _FOREIGN.search(word) else word


def plain(text: str) -> str:
    """NFKC without zero-width characters; digits of any script, dashes and quotes become ASCII. Keeps case.

    Look-alikes of Latin letters become Latin inside words that have Latin letters too.
    """
    if text.isascii():
        return text
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).translate(_FOLD))
    return _LETTERS.sub(_unmixed, folded) if _FOREIGN.search(folded) else folded


def squeeze(text: str) -> str:
    """``plain(text)`` case-folded, with every run of white space as one space, stripped.

    The four letters i of Turkish are one, for case does not tell which was meant: İPTAL and IPTAL are iptal.
    """
    folded = unicodedata.normalize("NFKC", plain(text).casefold())
    return " ".join(folded.replace("i\u0307", "i").replace("\u0131", "i").split())


_ASCII_WORD = re.compile(r"[a-zA-Z0-9]+(?:['\-][a-zA-Z0-9]+)*")


def words(text: str) -> list[str]:
    """Runs of letters, marks and digits of a ``plain`` text; an inner apostrophe or hyphen joins."""
    if text.isascii():
        return _ASCII_WORD.findall(text)
    return list(_unicode_word().findall(text))


@lru_cache(maxsize=1)
def _unicode_word() -> Any:
    return compile_regex(r"[\p{L}\p{M}\p{N}]+(?:['-][\p{L}\p{M}\p{N}]+)*")


_CLOSERS = "\"')]*_"
_SENTENCE_END = re.compile(
    r"""
      [.!?\u2026\u061f\u06d4\u0964\u0965\u1362\u17d4\u104b\u0589]+["')\]*_]*(?=\s|$)  # Latin, Arabic, Urdu, Hindi …
    | [\u3002!?\uff61]*\u3002[\u3002!?\uff61"')\]\u300d\u300f]*  # Chinese and Japanese write no space behind
    | [!?]+(?=[\u3040-\u30ff\u3400-\u9fff])
    | \n\s*\n
    | \n(?=[ \t]*(?:[*+\-\u2022]|\d{1,3}[.)])[ \t]+\S)  # the next entry of a list
    """,
    re.X,
)
_ENTRY = re.compile(r"(?:^|\n)[ \t]*(?:\d{1,3}|[a-zA-Z])$")
_ABBREVIATIONS = frozenset(
    ["approx", "bzw", "ca", "dept", "dr", "e.g", "eg", "est", "evtl", "ggf", "i.e", "ie", "inc", "incl", "inkl", "jr",
     "ltd", "mr", "mrs", "ms", "mt", "p.p.s", "p.s", "prof", "sr", "st", "str", "u.a", "u.k", "u.s", "vs", "z.b", "d.h"]
)  # fmt: skip
_BEFORE_NUMBERS = frozenset(["art", "ch", "fig", "no", "nos", "nr", "p", "pp", "sec", "tel", "vol"])
"""Abbreviations in front of a number; elsewhere they may be words (No.)."""
_BEFORE_SMALL = frozenset(["a.m", "p.m", "etc", "usw", "co", "corp", "min", "max", "std", "sek"])
"""What ends a sentence where a capital follows."""
_MONTHS = frozenset(
    ["januar", "jänner", "februar", "märz", "april", "mai", "juni", "juli", "august", "september", "oktober",
     "november", "dezember", "jan", "feb", "mär", "apr", "jun", "jul", "aug", "sep", "sept", "okt", "nov", "dez",
     "maj", "januari", "februari", "augusti", "tag", "woche", "monat", "quartal", "stock", "klasse", "etage", "mal"]
)  # fmt: skip
"""What follows a German ordinal: 3. Mai, 2. Stock."""


def sentences(text: str) -> list[str]:
    """Sentences of a ``plain`` text, after the rules of UAX #29 with abbreviations, ordinals and lists beside them.

    They end at the full stops, question and exclamation marks of the scripts listed, at blank lines, and where the next
    entry of a list begins; not behind an abbreviation, an initial, a list's number, or an ordinal before a month.
    """
    found, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        if end[0].rstrip(_CLOSERS) == "." and _goes_on(text[start : end.start()], text[end.end() : end.end() + 40]):
            continue
        found.append(text[start : end.end()])
        start = end.end()
    found.append(text[start:])
    return [sentence.strip() for sentence in found if words(sentence)]


def _goes_on(head: str, tail: str) -> bool:
    """Whether a full stop between ``head`` and ``tail`` ends no sentence."""
    last = head.split()[-1].lstrip("(\"'[").casefold() if head.split() else ""
    after = tail.lstrip()
    if _ENTRY.search(head) or last in _ABBREVIATIONS:
        return True
    if len(last) == 1 and last.isalpha() and last != "i":
        return True
    if last in _BEFORE_NUMBERS:
        return after[:1].isdigit()
    if last in _BEFORE_SMALL:
        return after[:1].islower() or after[:1].isdigit()
    if last.isdigit() and len(last) <= 2:
        return bool(after) and (words(after) or [""])[0].casefold() in _MONTHS
    return False


_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


def paragraphs(text: str, separator: str | None = None) -> list[str]:
    """Non-empty paragraphs of a ``plain`` text, cut at blank lines or at ``separator``."""
    parts = text.split(separator) if separator else _BLANK_LINE.split(text)
    return [part.strip() for part in parts if part.strip()]


def word_pattern(phrases: list[str]) -> re.Pattern[str]:
    """Matches any of ``phrases`` between word boundaries in a ``squeeze``d text; Markdown's ``_`` is a boundary."""
    folded = sorted({squeeze(phrase) for phrase in phrases}, key=lambda phrase: (-len(phrase), phrase))
    return re.compile(r"(?<![^\W_])(?:" + "|".join(map(re.escape, folded)) + r")(?![^\W_])")


# What RE2 leaves out because no linear-time engine can offer it, by the text of its message.
_LACKING = (
    ("(?=", "look-ahead"),
    ("(?!", "negative look-ahead"),
    ("(?<", "look-behind"),
    ("(?>", "atomic group"),
    ("(?(", "conditional group"),
    ("++", "possessive repetition"),
    ("*+", "possessive repetition"),
    ("repetition size", "repetition above 1000"),
)


@lru_cache(maxsize=4096)
def compile_regex(pattern: str) -> Any:
    r"""A compiled RE2 pattern, case-insensitive (``(?-i)`` turns that off); ``\b \w \d`` are ASCII.

    Raises ValueError saying what is wrong and, where RE2 lacks a construct, which one.
    """
    import re2

    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.max_mem = 8 << 20
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raw = error.args[0] if error.args else ""
        message = raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
        raise ValueError(f"regex {pattern!r} does not compile: {message}{_lacking(message)}") from None


def _lacking(message: str) -> str:
    reference = re.search(r"invalid escape sequence: \\([1-9k])", message)
    name = "back-reference" if reference else next((name for mark, name in _LACKING if mark in message), None)
    return f" (the linear-time engine RE2 has no {name}: write it without)" if name else ""


def digits(text: str) -> str:
    """The decimal digits of a ``plain`` text."""
    return "".join(char for char in text if "0" <= char <= "9")


def luhn(text: str) -> bool:
    """Whether the 13 to 19 digits in ``text`` carry a valid Luhn check digit (ISO/IEC 7812-1, annex B)."""
    number = digits(text)
    if not 13 <= len(number) <= 19 or not number.strip("0"):
        return False
    total = 0
    for place, char in enumerate(reversed(number)):
        value = int(char) << (place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")


def iban(text: str) -> bool:
    """Whether ``text`` is an IBAN with a valid check number (ISO 13616: remainder 1 modulo 97)."""
    compact = "".join(char for char in text.upper() if char.isalnum())
    if not _IBAN.fullmatch(compact):
        return False
    return int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1


EMAIL = re.compile(
    r"[a-z0-9][a-z0-9._%+\-]{0,63}@[a-z0-9](?:[a-z0-9\-]{0,61}[a-z0-9])?(?:\.[a-z0-9\-]{2,63}){1,4}", re.I
)


def email(text: str) -> bool:
    """Whether ``text`` is an e-mail address with a dotted domain."""
    return EMAIL.fullmatch(text.strip()) is not None


GROUPS = re.compile(r"[0-9]+(?:[ \t\r\n.,/_*\-]{1,3}[0-9]+)*")


VALIDATORS = {"email": email, "iban": iban, "luhn": luhn}
