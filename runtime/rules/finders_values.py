"""Amounts of money, percentages, dates and times in a ``plain`` text, whatever their spelling."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

from .found import Found


def _number(name: str) -> str:
    """The pattern of a number, thousands grouped or not; ``name`` is that of its separator's group."""
    grouped = rf"\d{{1,3}}(?P<{name}>[ ,.'])\d{{3}}(?:(?P={name})\d{{3}})*(?:[.,]\d{{1,2}})?(?!\d)"
    return rf"(?:{grouped}|\d+(?:[.,]\d{{1,2}})?(?!\d))"


_CURRENCIES = {
    "$": "USD AUD CAD NZD", "us$": "USD", "usd": "USD", "dollar": "USD AUD CAD NZD", "a$": "AUD", "aud": "AUD",
    "c$": "CAD", "cad": "CAD", "nzd": "NZD", "€": "EUR", "eur": "EUR", "euro": "EUR", "£": "GBP", "gbp": "GBP",
    "pound": "GBP", "quid": "GBP", "¥": "JPY CNY", "jpy": "JPY", "yen": "JPY", "cny": "CNY", "yuan": "CNY",
    "chf": "CHF", "franc": "CHF", "franken": "CHF", "₹": "INR", "inr": "INR", "rupee": "INR", "kr": "SEK NOK DKK",
    "sek": "SEK", "nok": "NOK", "dkk": "DKK", "zł": "PLN", "pln": "PLN", "czk": "CZK", "huf": "HUF",
    "brl": "BRL", "r$": "BRL", "zar": "ZAR", "mxn": "MXN", "peso": "MXN",
}  # fmt: skip
_SCALES = {"k": 1000, "thousand": 1000, "m": 10**6, "million": 10**6}
_UNIT = "|".join(
    rf"{re.escape(name)}s?(?![^\W_])" if name[-1].isalpha() else re.escape(name)
    for name in sorted(_CURRENCIES, key=len, reverse=True)
)
_SCALE = rf"(?: ?(?P<NAME>{'|'.join(_SCALES)})(?![^\W_]))?"
_AMOUNT = re.compile(
    rf"(?<![^\W_])(?P<before>{_UNIT}) ?(?P<a>{_number('x')}){_SCALE.replace('NAME', 'k')}"
    rf"|(?<![\w.,])(?P<b>{_number('y')}){_SCALE.replace('NAME', 'm')}(?:,-|\.-)? ?(?P<after>{_UNIT})",
    re.I,
)
_BARE = re.compile(rf"(?<![\w.,]){_number('x')}")


def decimal(text: str) -> Decimal:
    """A number with separators; the last is decimal where one or two digits follow, or only a zero stands before."""
    parts = re.split(r"[.,]", re.sub(r"[ ']", "", text))
    if len(parts) > 1 and (len(parts[-1]) <= 2 or parts[0] == "0"):
        return Decimal("".join(parts[:-1]) + "." + parts[-1])
    return Decimal("".join(parts))


def amounts(text: str) -> Iterator[Found]:
    """Amounts with a currency; the key is ``(value, currencies it may be)``."""
    for match in _AMOUNT.finditer(text):
        unit = (match["before"] or match["after"]).casefold()
        known = _CURRENCIES.get(unit) or _CURRENCIES[unit.removesuffix("s")]
        scale = _SCALES.get((match["k"] or match["m"] or "").casefold(), 1)
        yield Found(match[0], match.span(), (decimal(match["a"] or match["b"]) * scale, frozenset(known.split())))


def amount_stands(found: Found, known: Sequence[Found], evidence: str) -> bool:
    """The same value in a currency that may be the same, or as a number that has no currency."""
    value, currencies = found.key
    if any(other.key[0] == value and other.key[1] & currencies for other in known):
        return True
    taken = [other.span for other in known]
    bare = (m for m in _BARE.finditer(evidence) if not any(a <= m.start() < b for a, b in taken))
    return any(decimal(match[0]) == value for match in bare)


_PERCENTAGE = re.compile(
    r"(?<![\w.,])(\d+(?:[.,]\d+)?) ?(?:%|percent\b|per cent\b|prozent\b|pour cent\b|por ciento\b)", re.I
)


def percentages(text: str) -> Iterator[Found]:
    """Percentages; the key is the value."""
    for match in _PERCENTAGE.finditer(text):
        yield Found(match[0], match.span(), Decimal(match[1].replace(",", ".")))


_MONTH_NAMES = (
    "january jan januar janvier enero", "february feb februar février fevrier febrero",
    "march mar märz maerz mars marzo",
    "april apr avril abril", "may mai mayo", "june jun juni juin junio", "july jul juli juillet julio",
    "august aug août aout agosto", "september sep sept septembre septiembre", "october oct oktober okt octobre octubre",
    "november nov novembre noviembre", "december dec dezember dez décembre decembre diciembre",
)  # fmt: skip
_DAY_NAMES = (
    "monday montag lundi lunes", "tuesday dienstag mardi martes", "wednesday mittwoch mercredi miércoles",
    "thursday donnerstag jeudi jueves", "friday freitag vendredi viernes", "saturday samstag samedi sábado",
    "sunday sonntag dimanche domingo",
)  # fmt: skip
_MONTHS = {name: number for number, names in enumerate(_MONTH_NAMES, 1) for name in names.split()}
_DAYS = {name: number for number, names in enumerate(_DAY_NAMES) for name in names.split()}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_ISO = re.compile(r"(?<![\w.])(\d{4})([-/.])(\d{1,2})\2(\d{1,2})(?!\w)")
_NUMERIC = re.compile(r"(?<![\w.])(\d{1,2})([-/.])(\d{1,2})\2(\d{4}|\d{2})(?!\w)")
_YEARLESS = re.compile(r"(?<![\w./])(\d{1,2})[/.](\d{1,2})(?![\w/])")
_DAY_FIRST = re.compile(
    rf"(?<!\w)(\d{{1,2}})(?:st|nd|rd|th|er|\.)?\s+(?:of\s+|de\s+)?({_MONTH})(?!\w)\.?(?:,?\s+(?:de\s+)?(\d{{4}})(?!\d))?",
    re.I,
)
_MONTH_FIRST = re.compile(
    rf"(?<!\w)({_MONTH})\.?\s+(?:the\s+)?(\d{{1,2}})(?:st|nd|rd|th)?(?!\w)(?:,?\s+(\d{{4}})(?!\d))?", re.I
)
_MONTH_YEAR = re.compile(rf"(?<!\w)({_MONTH})\.?,?\s+(?:of\s+)?(\d{{4}})(?!\d)", re.I)
_WEEKDAY = re.compile(rf"(?<!\w)({'|'.join(_DAYS)})s?(?!\w)", re.I)
Reading = tuple[int | None, int, int | None]


def dates(text: str, loose: bool = False) -> Iterator[Found]:
    """Dates and days of the week. The key is the set of readings ``(year?, month, day?)``, 3/5 being two, or the
    weekday's number. ``loose`` (for evidence): also 3/5 without a year, and months in small letters."""
    for match in _ISO.finditer(text):
        yield from _dated(match, [(match[1], match[3], match[4])])
    for match in _NUMERIC.finditer(text):
        yield from _dated(match, [(match[4], match[3], match[1]), (match[4], match[1], match[3])])
    for match in _YEARLESS.finditer(text) if loose else ():
        yield from _dated(match, [(None, match[2], match[1]), (None, match[1], match[2])])
    for match in _DAY_FIRST.finditer(text):
        yield from _dated(match, [(match[3], match[2], match[1])])
    for pattern in (_MONTH_FIRST, _MONTH_YEAR):
        for match in pattern.finditer(text):
            if loose or match[1][0].isupper():
                day, year = (match[2], match[3]) if pattern is _MONTH_FIRST else (None, match[2])
                yield from _dated(match, [(year, match[1], day)])
    for match in _WEEKDAY.finditer(text):
        yield Found(match[0], match.span(), _DAYS[match[1].casefold()])


def _dated(match: re.Match[str], given: Sequence[tuple[str | None, str, str | None]]) -> Iterator[Found]:
    readings = {reading for year, month, day in given if (reading := _reading(year, month, day))}
    if readings:
        yield Found(match[0], match.span(), frozenset(readings))


def _reading(year: str | None, month: str, day: str | None) -> Reading | None:
    number = int(month) if month.isdigit() else _MONTHS[month.casefold()]
    when = None if year is None else int(year) + (2000 if len(year) == 2 else 0)
    which = None if day is None else int(day)
    return (when, number, which) if 1 <= number <= 12 and (which is None or 1 <= which <= 31) else None


def date_stands(found: Found, known: Sequence[Found]) -> bool:
    """One reading agrees with one of the evidence in all that it says; a weekday also with a whole date."""
    dated = [reading for other in known if isinstance(other.key, frozenset) for reading in other.key]
    if isinstance(found.key, int):
        return any(other.key == found.key for other in known) or any(_weekday(r) == found.key for r in dated)
    return any(
        month == m and day in (None, d) and year in (None, y) for year, month, day in found.key for y, m, d in dated
    )


def _weekday(reading: Reading) -> int | None:
    year, month, day = reading
    try:
        return None if year is None or day is None else datetime.date(year, month, day).weekday()
    except ValueError:
        return None


_TIME = re.compile(
    r"(?<![\w:.,])(?:([01]?\d|2[0-3])[:h]([0-5]\d)(?: ?([ap])\.?m\b\.?)?|(1[0-2]|0?[1-9]) ?([ap])\.?m\b\.?)(?![\w:])",
    re.I,
)


def times(text: str) -> Iterator[Found]:
    """Times of day; the key is the set of minutes after midnight that it may mean (2:30 is two of them)."""
    for match in _TIME.finditer(text):
        hour, minute = int(match[1] or match[4]), int(match[2] or 0)
        half = (match[3] or match[5] or "").casefold()
        hours = {hour % 12 + (12 if half == "p" else 0)} if half else {hour, hour + 12} if 1 <= hour < 12 else {hour}
        yield Found(match[0], match.span(), frozenset(60 * h + minute for h in hours))
