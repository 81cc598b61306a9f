"""Numbers and addresses that must not be shown, found in a ``plain`` text however they are written.

Each is tried against what its standard checks (Luhn, ISO 13616, E.164), so that dates, prices, IP addresses, ISBNs and
tracking numbers are not taken for one.
"""

from __future__ import annotations

import re

from .text import EMAIL, digits, iban, luhn

_BETWEEN = r"[ \t\r\n.,/_*|:;~+()\[\]'\"`\u00b7\u2022\u2192>=\-]{1,5}"
"""What people put between the groups of a number."""
_DIGITS = re.compile(rf"[0-9]+(?:{_BETWEEN}[0-9]+)*")


_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3}){2,}")
_CALENDAR = re.compile(
    r"(?<![0-9.,])0[.,][0-9]{13,}|(?<![0-9])(?:(?:19|20)[0-9]{2}([-./])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12][0-9]|3[01])"
    r"|(?:0?[1-9]|[12][0-9]|3[01])([-./])(?:0?[1-9]|[12][0-9]|3[01])\2(?:19|20)[0-9]{2})(?![0-9])"
)
"""Dates of the last and this century, which no issuer's card numbers begin with, and decimals."""


_ISSUED = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-59]|[68]\d)\d{11,16}|35\d{14,17}|6\d{15,18}|(?:5[06-9]|6[37])\d{11,17}"
)
"""What issuers number their cards by (ISO/IEC 7812): Visa, Mastercard, American Express, Diners, JCB, Discover and
UnionPay, Maestro, with their lengths."""


def _count_digits(text: str) -> int:
    return sum(map(text.count, "0123456789"))


def find_cards(text: str) -> list[str]:
    """Payment card numbers, however they are grouped.

    A card is a run of whole digit groups that an issuer may have given, Luhn-valid; so a 20-digit tracking number that
    merely contains a valid window is not one.
    """
    if _count_digits(text) < 13:
        return []
    found = []
    for run in _DIGITS.finditer(_CALENDAR.sub(" day ", text)):
        if _GROUPED.fullmatch(run[0]):
            continue  # 4,111,111,111 people
        groups = re.findall(r"[0-9]+", run[0])
        if len(groups) > 8 and _counts_up(groups):
            continue
        for start in range(len(groups)):
            number = ""
            for group in groups[start:]:
                number += group
                if len(number) > 19:
                    break
                if _ISSUED.fullmatch(number) and luhn(number):
                    found.append(number)
    return found


def _counts_up(groups: list[str]) -> bool:
    """1 2 3 4 5"""
    first = int(groups[0])
    return list(map(int, groups)) == list(range(first, first + len(groups)))


_LENGTHS = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 FO18 FR27
GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27
MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SD18 SE24 SI19 SK24 SM27 ST25 SV28
TL23 TN24 TR26 UA29 VA22 VG24 XK20
"""
IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _LENGTHS.split()}
"""Country -> characters of its IBANs (ISO 13616 registry)."""
_PARTED = "|".join(rf"{code[0]}[ .\-_*]?{code[1]}" for code in IBAN_LENGTHS)
_IBAN_START = re.compile(rf"(?=[A-Z][ .\-_*]?[A-Z][ \t\-._/:*]?[0-9])(?=({_PARTED})[ \t\-._/:*]?[0-9])", re.I)
_IBAN_GAP = frozenset(" \t\r\n-._/:,|*\u00b7\u2022~()[]")


_LETTERED = frozenset(
    ["AD", "AL", "AZ", "BG", "BH", "BR", "BY", "CH", "CY", "DO", "FR", "GB", "GE", "GI", "GR", "GT", "IE", "IQ", "IT",
     "JO", "KW", "KZ", "LB", "LC", "LI", "LU", "LV", "MC", "MD", "MK", "MT", "MU", "NL", "PK", "PS", "QA", "RO", "SA",
     "SC", "SM", "SV", "TR", "UA", "VG"]
)  # fmt: skip
"""Countries whose account numbers may have letters (ISO 13616 registry)."""


def _is_account(compact: str) -> bool:
    """Whether the rest is digits as far as the country wants them; a sentence that happens to begin so is not."""
    rest = compact[2:]
    return rest.isdigit() or (compact[:2] in _LETTERED and 2 * len(digits(rest)) >= len(rest) and rest[:2].isdigit())


def find_ibans(text: str) -> list[str]:
    """IBANs of the registered countries, with any of the usual separators, also right behind other letters."""
    found: list[str] = []
    if _count_digits(text) < 9:
        return found
    for start in _IBAN_START.finditer(text):
        wanted = IBAN_LENGTHS[start[1][0].upper() + start[1][-1].upper()]
        compact, gap = "", 0
        for char in text[start.start() : start.start() + 3 * wanted]:
            if char.isascii() and char.isalnum():
                compact, gap = compact + char.upper(), 0
            elif char in _IBAN_GAP and gap < 3:
                gap += 1
            else:
                break
            if len(compact) == wanted:
                break
        if len(compact) == wanted and _is_account(compact) and iban(compact):
            found.append(compact)
    return found


_SPACED = re.compile(r"(?<=\w)\s?@\s?[\w\-]+(?:\s?\.\s?[\w\-]+)+")
_SPELT = r"\s+(?:dot|punkt)\s+"
_DOT = re.compile(_SPELT, re.I)
_IN_WORDS = re.compile(
    rf"\b([a-z0-9][\w.+\-]{{0,40}}) at (?!(?:an?|our|that|the|this|your) )"
    rf"([\w\-]{{1,40}}(?:{_SPELT}[\w\-]{{1,40}}){{0,3}}{_SPELT}[a-z]{{2,12}})\b",
    re.I,
)


_SPELT_AT = re.compile(r"[\[({]\s*[a\u00e4]|\bat\b|-at-", re.I)


def find_emails(text: str) -> list[str]:
    """E-mail addresses, also with ``(at)`` and ``(dot)`` or ``[at]`` and ``[dot]`` in them, or wholly in words."""
    if "@" not in text and not _SPELT_AT.search(text):
        return []
    open_text = re.sub(r"\s*[\[({]\s*(?:at|\u00e4t|@)\s*[\])}]\s*|(?<=\w)\(a\)(?=\w)", "@", text, flags=re.I)
    open_text = re.sub(r"(?<=[a-z0-9]) AT (?=[a-z0-9\-]+\.[a-z])", "@", open_text)
    open_text = re.sub(r"\s*[\[({]\s*(?:dot|punkt)\s*[\])}]\s*", ".", open_text, flags=re.I)
    open_text = re.sub(r"(?<=\w)-(at|dot)-(?=\w)", r" \1 ", open_text)
    open_text = _SPACED.sub(lambda m: "".join(m[0].split()), open_text)
    open_text = _IN_WORDS.sub(lambda m: f"{m[1]}@{_DOT.sub('.', m[2])}", open_text)
    return [match[0] for match in EMAIL.finditer(open_text)]


_PHONE = re.compile(
    r"(?:(?<![0-9])\+|(?<![^\W_])(?<![0-9][.,])(?:00)?)\(?"
    r"[0-9][0-9() .\-/_*|\u00b7\u2022~]{5,26}[0-9](?![^\W_]|[.,][0-9])"
)
_CALLS = "|".join(
    r"""
    appeler appelez(?:-nous)? bel call cel cell chiam\w* dial durchwahl fax gsm handy hotline ligue llam[ae](?:nos)? mob
    mobile móvil phone puh ring rufen\ssie(?:\suns)?(?:\san)? tel telefon(?:isch|nummer)? telephone tlf tél teléfono
    whatsapp zadzwoń (?:contact|her|his|my|our|their)\snumber звоните телефон
    """.split()  # noqa: SIM905
)
_CALLS_ELSEWHERE = "|".join("手機 手机 携帯 電話 电话 拨打 휴대폰 전화 جوال اتصل هاتف फ़ोन".split())  # noqa: SIM905
_CALLED = re.compile(
    rf"(?:\b(?:{_CALLS})\b|[\u260e\u2706\U0001f4de\U0001f4f1]|(?:{_CALLS_ELSEWHERE})[^\W\d]{{0,3}})\.?"
    r"(?:[\s:]*\b(?:al|at|au|is|le|me|no|nr|number|nummer|on|under|unter|us)\b\.?)*[\s:=*_(]*$",
    re.I,
)
"""What stands in front of a number to call."""
_NUMBERED = "|".join(
    """
    article artikel auftrag batch bestellung booking build case chapter clause contract doi ean errors? imei invoice
    isbn(?:-1[03])? issn item licen[cs]e loan lot meter modell? order parcel part plz policy postcode reading receipt
    rechnung ref reference release rfc section serial shipment sku ssn ticket tracking upc ust-id vat version zip
    """.split()  # noqa: SIM905
)
_NUMBER_OF = re.compile(
    rf"\b(?:(?:{_NUMBERED})(?:[\s\-(]*(?:code|id|no|nr|number|nummer)\b)?(?:\s+[A-Z]{{2}}(?=\s*$))?"
    r"|(?:account|client|customer|konto|kunden|member|tax)[\s\-]*(?:code|id|no|nr|number|nummer)"
    r"|(?:artikel|auftrags|bestell|konto|kunden|rechnungs|sendungs|vertrags)nummer)\b(?:\s+is)?[\s.:#*_]*$"
    r"|\b1Z[ 0-9A-Z]{0,12}$",  # a parcel of UPS
    re.I,
)
"""What names a number that is none to call."""
_CODED = re.compile(r"(?<![^\W_])(?!TEL\b|FAX\b)[A-Z]{2,10}-$")
"""The letters that a code begins with, such as CVE-."""
_SCORES = re.compile(r"[0-9]{1,2}[-:][0-9]{1,2}(?:[ /]+[0-9]{1,2}[-:][0-9]{1,2})+")
"""The sets of a match: 21-19 18-21 21-15."""
_IP = re.compile(r"((?:[0-9]{1,3}\.){3}[0-9]{1,3})(?:/[0-9]{1,2})?")
_VERSION = re.compile(r"[0-9]+(?:\.[0-9]+)*\.[0-9](?:\.[0-9]+)+")
"""One digit between two points: 10.0.22631.3527."""
_DATE = re.compile(
    r"\b[0-9]{4}[-./][0-9]{1,2}[-./][0-9]{1,2}\b|\b[0-9]{1,2}[-./][0-9]{1,2}[-./](?:[0-9]{4}|[0-9]{2})\b"
    r"|\b[0-9]{1,2}[:.][0-9]{2}\b|\b(?:0?[1-9]|1[0-2])/(?:19|20)[0-9]{2}\b"
)
_PAIRS = re.compile(r"0[1-9]([ .\-/])[0-9]{2}(?:\1[0-9]{2}){3}")
"""A French number."""
_ISBN = re.compile(r"97[89][0-9]{10}")
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:[ .][0-9]{3})+")
_MONEY_BEFORE = re.compile(r"(?:[$\u20ac\u00a3\u00a5]|\b(?:eur|usd|gbp|chf|euro|dollars?))\s*$", re.I)
_MONEY_BEHIND = re.compile(
    r"\s*(?:[$\u20ac\u00a3\u00a5]|(?:eur|usd|gbp|chf|aud|cad|czk|dkk|huf|inr|jpy|nok|pln|sek|vnd|k\u010d|z\u0142|kr|euros?|dollars?|cents?|km|kg|mb|gb)\b)",
    re.I,
)


_STRONG = re.compile(r"\s[/|\u00b7\u2022~]\s")
"""What parts a number from its neighbours more often than its own groups."""


def find_phones(text: str) -> list[str]:
    """Telephone numbers: 9 to 15 digits in groups, 8 to 15 with a leading + or 00 (E.164), 6 to 15 behind "Tel."."""
    found: list[str] = []
    if _count_digits(text) < 6:
        return found
    for match in _PHONE.finditer(text):
        if _is_phone(match[0], text, *match.span()):
            found.append(match[0])
        elif _STRONG.search(match[0]) or len(digits(match[0])) > 15:
            found += _beside_others(text, match.start())
    return found


def _beside_others(text: str, start: int) -> list[str]:
    """Telephone numbers in a run of numbers, once the dates among them are taken out."""
    run = _CALENDAR.sub(lambda match: ";" * len(match[0]), text[start : start + 60])
    run = _STRONG.sub(" ; ", run)
    spans = [match.span() for match in _PHONE.finditer(run)]
    return [run[a:b] for a, b in spans if _is_phone(run[a:b], text, start + a, start + b)]


def _is_phone(raw: str, text: str, start: int, end: int) -> bool:
    number, before = digits(raw), text[max(0, start - 60) : start]
    abroad = raw.startswith(("+", "00"))
    called = _CALLED.search(before) is not None
    if not (6 if called else 8 if abroad else 9) <= len(number) <= 15:
        return False
    if not raw.startswith("+") and not called and (_NUMBER_OF.search(before) or _CODED.search(before)):
        return False
    if raw.isdigit() and not abroad and not called:
        return False  # an order number looks the same
    if abroad:
        return True
    if _MONEY_BEFORE.search(before) or _MONEY_BEHIND.match(text[end:]):
        return False
    return not _is_something_else(raw.strip(), number)


_DECIMAL = re.compile(r"(?:0|[1-9][0-9]{0,2})\.[0-9]{4,}|[1-9][0-9]{4}-[0-9]{4}")
"""3.141592653, and a postcode of the United States."""


def _is_something_else(raw: str, number: str) -> bool:
    """An IP address, dates and times, an ISBN, a decimal number, digits parted in thousands, or numbers counted up."""
    if _PAIRS.fullmatch(raw):
        return False
    address = _IP.fullmatch(raw)
    if address and all(int(part) < 256 for part in address[1].split(".")):
        return True
    if (
        _VERSION.fullmatch(raw)
        or _ISBN.fullmatch(number)
        or _DECIMAL.fullmatch(raw)
        or _SCORES.fullmatch(raw)
        or (_THOUSANDS.fullmatch(raw) and "." in raw)
    ):
        return True
    groups = re.findall("[0-9]+", raw)
    if len(groups) > (2 if len(groups[0]) == 4 else 4) and _counts_up(groups):
        return True
    return not re.search(r"[0-9]{5,}", _DATE.sub("", raw)) and len(digits(_DATE.sub(" ", raw))) < 6


FINDERS = {"card": find_cards, "email": find_emails, "iban": find_ibans, "phone": find_phones}
