"""Amounts of money, percentages, dates and times in a ``plain`` text, whatever their spelling."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

from .found import Found
from .spelled import in_digits


def _number(name: str) -> str:
    """The pattern of a number, thousands grouped or not; ``name`` is that of its separator's group."""
    grouped = rf"\d{{1,3}}(?P<{name}>[ ,.'])\d{{3}}(?:(?P={name})\d{{3}})*(?:[.,]\d{{1,2}})?(?!\d)"
    return rf"(?:{grouped}|\d{{1,2}}(?:,\d\d)+,\d{{3}}(?!\d)|\d+(?:[.,]\d{{1,2}})?(?!\d))"


_DOLLARS = "USD AUD CAD NZD HKD SGD"
_CURRENCIES = {
    "$": _DOLLARS, "dollar": _DOLLARS, "buck": _DOLLARS, "us$": "USD", "usd": "USD", "a$": "AUD", "au$": "AUD",
    "aud": "AUD", "c$": "CAD", "ca$": "CAD", "cad": "CAD", "nz$": "NZD", "nzd": "NZD", "hk$": "HKD", "hkd": "HKD",
    "s$": "SGD", "sgd": "SGD", "€": "EUR", "eur": "EUR", "euro": "EUR", "£": "GBP", "gbp": "GBP", "pound": "GBP",
    "quid": "GBP", "¥": "JPY CNY", "jpy": "JPY", "yen": "JPY", "cny": "CNY", "yuan": "CNY", "rmb": "CNY", "元": "CNY",
    "円": "JPY", "chf": "CHF", "franc": "CHF", "franken": "CHF", "₹": "INR", "inr": "INR", "rupee": "INR", "rs": "INR",
    "kr": "SEK NOK DKK", "sek": "SEK", "nok": "NOK", "dkk": "DKK", "zł": "PLN", "pln": "PLN", "zloty": "PLN",
    "czk": "CZK", "kč": "CZK", "huf": "HUF", "forint": "HUF", "lei": "RON", "brl": "BRL", "r$": "BRL",
    "reais": "BRL", "zar": "ZAR", "rand": "ZAR", "mxn": "MXN", "peso": "MXN", "aed": "AED", "dirham": "AED MAD",
    "sar": "SAR", "riyal": "SAR QAR", "₩": "KRW", "krw": "KRW", "₽": "RUB", "rub": "RUB", "ruble": "RUB", "руб": "RUB",
    "₺": "TRY", "lira": "TRY", "tl": "TRY", "₴": "UAH", "uah": "UAH", "₪": "ILS",
    "shekel": "ILS", "฿": "THB", "thb": "THB", "baht": "THB", "₫": "VND", "vnd": "VND", "₱": "PHP",
    "₦": "NGN", "ngn": "NGN",
}  # fmt: skip
_COINS = {"cent": f"{_DOLLARS} EUR", "¢": _DOLLARS, "ct": "EUR", "pence": "GBP", "penny": "GBP"}
"""Hundredths, written behind the number."""
_SCALES = {"k": 1000, "thousand": 1000, "m": 10**6, "million": 10**6}
_UNIT = "|".join(
    rf"{re.escape(name)}s?(?![^\W_])" if name[-1].isalpha() else re.escape(name)
    for name in sorted(_CURRENCIES, key=len, reverse=True)
)
_COIN = re.compile(
    rf"(?<![\w.,])(?P<a>{_number('x')}) ?(?P<after>cents?(?![^\W_])|¢|cts?(?![^\W_])|pence\b|penny\b)", re.I
)
_SCALE = rf"(?: ?(?P<NAME>{'|'.join(_SCALES)})(?![^\W_]))?"
_AMOUNT = re.compile(
    rf"(?<![^\W_])(?P<before>{_UNIT}) ?(?P<a>{_number('x')}){_SCALE.replace('NAME', 'k')}"
    rf"|(?<![\w.,])(?P<b>{_number('y')}){_SCALE.replace('NAME', 'm')}(?:,-|\.-)? ?(?P<after>{_UNIT})",
    re.I,
)
_LETTERS = re.compile("[a-z]+")
_MONEY = frozenset(f"{name}{s}" for name in (*_CURRENCIES, *_COINS) for s in ("", "s"))
_BARE = re.compile(rf"(?<![\w.,]){_number('x')}")


def decimal(text: str) -> Decimal:
    """A number with separators; the last is decimal where one or two digits follow, or only a zero stands before."""
    parts = re.split(r"[.,]", re.sub(r"[ ']", "", text))
    if len(parts) > 1 and (len(parts[-1]) <= 2 or parts[0] == "0"):
        return Decimal("".join(parts[:-1]) + "." + parts[-1])
    return Decimal("".join(parts))


def amounts(text: str) -> Iterator[Found]:
    """Amounts with a currency; the key is ``(value, currencies it may be)``."""
    if text.isascii() and "$" not in text and _MONEY.isdisjoint(_LETTERS.findall(text.lower())):
        return
    text = in_digits(text)
    for match in _AMOUNT.finditer(text):
        unit = (match["before"] or match["after"]).casefold()
        known = _CURRENCIES.get(unit) or _CURRENCIES[unit.removesuffix("s")]
        scale = _SCALES.get((match["k"] or match["m"] or "").casefold(), 1)
        yield Found(match[0], match.span(), (decimal(match["a"] or match["b"]) * scale, frozenset(known.split())))
    for match in _COIN.finditer(text):
        unit = match["after"].casefold()
        known = _COINS.get(unit) or _COINS[unit.removesuffix("s")]
        yield Found(match[0], match.span(), (decimal(match["a"]) / 100, frozenset(known.split())))


def amount_stands(found: Found, known: Sequence[Found], evidence: str) -> bool:
    """The same value in a currency that may be the same, or as a number that has no currency."""
    value, currencies = found.key
    if any(other.key[0] == value and other.key[1] & currencies for other in known):
        return True
    taken = [other.span for other in known]
    bare = (m for m in _BARE.finditer(evidence) if not any(a <= m.start() < b for a, b in taken))
    return any(decimal(match[0]) == value for match in bare)


_PERCENTAGE = re.compile(
    r"(?<![\w.,])(\d+(?:[.,]\d+)?) ?(?:%|(?:percent|per cent|pct|prozent|pour cent|por ciento|por cento|per cento"
    r"|procent)\b)",
    re.I,
)


def percentages(text: str) -> Iterator[Found]:
    """Percentages; the key is the value."""
    for match in _PERCENTAGE.finditer(in_digits(text)):
        yield Found(match[0], match.span(), Decimal(match[1].replace(",", ".")))


_MONTH_NAMES = (
    "january jan januar janvier enero gennaio janeiro januari",
    "february feb februar février fevrier febrero febbraio fevereiro februari",
    "march mar märz maerz mars marzo março maart", "april apr avril abril aprile",
    "may mai mayo maggio maio mei", "june jun juni juin junio giugno junho",
    "july jul juli juillet julio luglio julho", "august aug août aout agosto augustus",
    "september sep sept septembre septiembre settembre setembro",
    "october oct oktober okt octobre octubre ottobre outubro",
    "november nov novembre noviembre novembro",
    "december dec dezember dez décembre decembre diciembre dicembre dezembro",
)  # fmt: skip
_DAY_NAMES = (
    "monday montag lundi lunes lunedì maandag", "tuesday dienstag mardi martes martedì dinsdag",
    "wednesday mittwoch mercredi miércoles mercoledì woensdag", "thursday donnerstag jeudi jueves giovedì donderdag",
    "friday freitag vendredi viernes venerdì vrijdag", "saturday samstag samedi sábado sabato zaterdag",
    "sunday sonntag dimanche domingo domenica zondag",
)  # fmt: skip
_MONTHS = {name: number for number, names in enumerate(_MONTH_NAMES, 1) for name in names.split()}
_DAYS = {name: number for number, names in enumerate(_DAY_NAMES) for name in names.split()}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_ISO = re.compile(r"(?<![\w.])(\d{4})([-/.])(\d{1,2})\2(\d{1,2})(?!\w)")
_EASTERN = re.compile(r"(\d{4})()年 ?(\d{1,2})月 ?(\d{1,2})日")
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
    for pattern in (_ISO, _EASTERN):
        for match in pattern.finditer(text):
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


_HOUR = re.compile(r"(?<![\w:.,])([01]?\d|2[0-3])(?:[.:]([0-5]\d))? ?(?:uhr\b|o'clock\b)()()()(?! ?[ap]\.?m\b)", re.I)
_PARTS = {"half past": 30, "quarter past": 15, "quarter after": 15, "quarter to": -15}
_PART_OF_HOUR = re.compile(rf"\b({'|'.join(_PARTS)})\s+(1[0-2]|[1-9])\b", re.I)
_NAMED_HOURS = {"noon": 12 * 60, "midday": 12 * 60, "midnight": 0}
_NAMED_HOUR = re.compile(rf"\b(?:{'|'.join(_NAMED_HOURS)})\b", re.I)


def times(text: str) -> Iterator[Found]:
    """Times of day; the key is the set of minutes after midnight that it may mean (2:30 is two of them)."""
    text = in_digits(text)
    for match in (*_TIME.finditer(text), *_HOUR.finditer(text)):
        hour, minute = int(match[1] or match[4]), int(match[2] or 0)
        half = (match[3] or match[5] or "").casefold()
        hours = {hour % 12 + (12 if half == "p" else 0)} if half else {hour, hour + 12} if 1 <= hour < 12 else {hour}
        yield Found(match[0], match.span(), frozenset(60 * h + minute for h in hours))
    for match in _PART_OF_HOUR.finditer(text):
        minutes = 60 * int(match[2]) + _PARTS[match[1].casefold()]
        yield Found(match[0], match.span(), frozenset({minutes % 1440, (minutes + 720) % 1440}))
    for match in _NAMED_HOUR.finditer(text):
        yield Found(match[0], match.span(), frozenset({_NAMED_HOURS[match[0].casefold()]}))
