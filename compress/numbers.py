"""Numbers as people write them: with separators, a comma, a fraction, a power of ten, another minus sign."""

from __future__ import annotations

import math
import re
import unicodedata

NUMBERS = re.compile(
    r"(?=[-+.\d])(?:(?<![\d.,/])[-+]?(?:\d{1,4} )?\d{1,9}/\d{1,9}(?![\d/]|[.,]\d)"
    r"|(?<![\d.,])[-+]?\d{1,3}(?:[ '\u2019]\d{3})+(?:[.,]\d+)?(?![\d])"
    r"|(?<![\d.,])[-+]?\d(?:[\d.,]*\d)?(?:[eE][-+]?\d+)?"
    r"|(?<![\w.,])[-+]?\.\d+(?![\d.,]*\d))"
)
"""Numbers in a ``tidy`` text: fractions, groups of three, a decimal point or comma, an exponent; a sign where no digit
stands before it."""
_FRACTION = re.compile(r"([-+]?)(?:(\d+) )?(\d+)/(\d+)")
_PLAIN = re.compile(r"[-+]?(?:\d(?:[\d.,]*\d)?(?:[eE][-+]?\d+)?|\.\d+)")
_THOUSANDS = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3})")
_TIDIED = (
    ("{,}", re.compile(r"(?<=\d)\{,\}(?=\d{3})"), ","),
    ("frac", re.compile(r"\\[dt]?frac(?:\{(\d+)\}\{(\d+)\}|(\d)(\d))"), r"\1\3/\2\4"),
    ("\u2013", re.compile(r"(?<![\d\s])(?<!\d )\u2013(?=[\d.])|(?<!\S)\u2013(?=[\d.])"), "-"),
    ("\u2212", re.compile("\u2212"), "-"),
    ("\u2011", re.compile("\u2011"), "-"),
    ("inus", re.compile(r"(?<!\d )\b[Mm]inus +(?=[\d.])"), "-"),
    ("egative", re.compile(r"(?<!\d )\b[Nn]egative +(?=[\d.])"), "-"),
    ("^", re.compile(r"(?<=\d)\s*(?:[x*\u00d7\u00b7]|\\times|\\cdot)\s*10\s*\^\s*\{?([-+]?\d+)\}?"), r"e\1"),
    ("^", re.compile(r"(?<![\d.,])10\^\{?([-+]?\d+)\}?"), r"1e\1"),
)
"""What a text has that a pattern can match, the pattern, and what stands in its place."""
_POWER = re.compile(r"(?<=\d)([\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207a\u207b]+)")
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")


def tidy(text: str) -> str:
    """The text with every number in one notation: ``1½`` as 1 1/2, ``10³`` as 1e3, ``−3`` and ``minus 3`` as -3."""
    if not text.isascii():
        text = _POWER.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[1]).replace("\u2212", "-"), text)
        text = _VULGAR.sub(lambda match: " " + unicodedata.normalize("NFKC", match[0]).replace("\u2044", "/"), text)
        text = unicodedata.normalize("NFKC", text)
    for mark, pattern, plain in _TIDIED:
        if mark in text:
            text = pattern.sub(plain, text)
    return text


def read_number(text: str) -> float | None:
    """A number as people write it: ``1,500``, ``1.5``, ``1,5``, ``1 500,25``, ``−3``, ``2e6``, ``1 1/2``, ``50 %``;
    None for anything else.

    Of a point and a comma the last is the decimal sign; alone, a comma before groups of three digits parts thousands,
    and so do several points.
    """
    shown = tidy(text.strip()).strip().removesuffix("%").strip()
    fraction = _FRACTION.fullmatch(shown)
    if fraction:
        return _fraction(*fraction.groups())
    compact = re.sub(r"(?<=\d)[ '\u2019](?=\d{3})", "", shown)
    if not _PLAIN.fullmatch(compact):
        return None
    body, exponent, power = compact.partition("e" if "e" in compact else "E")
    if "." in body and "," in body:
        thousands = "," if body.rfind(".") > body.rfind(",") else "."
        body = body.replace(thousands, "").replace(",", ".")
    elif _THOUSANDS.fullmatch(body) or body.count(".") > 1:
        body = body.replace(",", "").replace(".", "")
    else:
        body = body.replace(",", ".")
    try:
        value = float(body + exponent + power)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _fraction(sign: str, whole: str | None, above: str, below: str) -> float | None:
    if not int(below):
        return None
    value = int(whole or 0) + int(above) / int(below)
    return -value if sign == "-" else value
