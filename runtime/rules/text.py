"""Text as the rule checkers see it: one normal form, then words, sentences and paragraphs.

Everything here is deterministic and linear in the length of the text. Users' patterns run on RE2
(no backtracking); the patterns written in this file are literals or single-class repetitions.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

# Letters, marks and symbols that show nothing on the screen although their category is not Cf.
_BLANKS = frozenset("\u034f\u0640\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_STROKES = frozenset("\u0305\u0332\u0333\u0335\u0336\u0337\u0338")
"""Lines through, over and under letters."""
_SELECTORS = ((0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
_SINGLE_QUOTES, _DOUBLE_QUOTES = (
    frozenset("\u2018\u2019\u201a\u201b\u02bc\u2039\u203a"),
    frozenset("\u201c\u201d\u201e\u201f\u00ab\u00bb"),
)


class _Fold(dict[int, str]):
    """``str.translate`` table, filled as characters are met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = folded = _plain_char(char, unicodedata.category(char))
        return folded


def _plain_char(char: str, category: str) -> str:
    if (
        category == "Cf"
        or char in _BLANKS
        or char in _STROKES
        or any(low <= ord(char) <= high for low, high in _SELECTORS)
    ):
        return ""
    if category == "Cs":  # half a character: no text, and no UTF-8
        return "\ufffd"
    if category == "Nd":
        return str(unicodedata.decimal(char))
    if category == "Pd" or char == "\u2212":
        return "-"
    if char in _SINGLE_QUOTES:
        return "'"
    if ord(char) in _SMALL_CAPITALS:
        return chr(_SMALL_CAPITALS[ord(char)])
    if 0x1F150 <= ord(char) < 0x1F16A or 0x1F170 <= ord(char) < 0x1F18A:  # white in a black circle or square
        return chr(ord("a") + (ord(char) - 0x1F150) % 32)
    return '"' if char in _DOUBLE_QUOTES else char


_FOLD = _Fold()


_SMALL_CAPITALS = str.maketrans(
    "\u1d00\u0299\u1d04\u1d05\u1d07\ua730\u0262\u029c\u026a\u1d0a\u1d0b\u029f\u1d0d\u0274\u1d0f\u1d18\ua7af\u0280\ua731\u1d1b\u1d1c"
    "\u1d20\u1d21\u028f\u1d22",
    "abcdefghijklmnopqrstuvwyz",
)
_ALIKE = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u04bb\u04cf\u043a\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420"
    "\u0421\u0422\u0423\u0425\u0406\u0408\u0405\u03b1\u03bf\u03c1\u03bd\u03b9\u03ba\u03c5\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d"
    "\u039f\u03a1\u03a4\u03a5\u03a7",
    "aeopcyxijsdhlkABEKMHOPCTYXIJSaopvikuABEZHIKMNOPTYX",
)
"""Cyrillic and Greek letters that are drawn like Latin ones (UTS #39, confusables)."""
_FOREIGN = re.compile(r"[\u0370-\u03ff\u0400-\u052f]")
_LETTERS = re.compile(r"[^\W\d_]+")


_TO_CYRILLIC = {latin: code for code, latin in _ALIKE.items() if code >= 0x400}


def _unmixed(match: re.Match[str]) -> str:
    """A word of Latin letters and look-alikes in Latin letters, or in Cyrillic ones where some of it has no Latin
    look-alike; a word of one script stays."""
    word = match[0]
    if not (re.search("[A-Za-z]", word) and _FOREIGN.search(word)):
        return word
    latin = word.translate(_ALIKE)
    return word.translate(_TO_CYRILLIC) if re.search("[\u0400-\u052f]", latin) else latin


_FIRST = {0xB4: "'", 0x2116: "#"}
"""What stands for an apostrophe and for "number", before NFKC makes a space and a mark, and "No", of them."""


def plain(text: str) -> str:
    """NFKC without zero-width characters; digits of any script, dashes and quotes become ASCII. Keeps case.

    Look-alikes of Latin letters become Latin inside words that have Latin letters too.
    """
    if text.isascii():
        return text
    text = text.translate(_FIRST)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).translate(_FOLD))
    return _LETTERS.sub(_unmixed, folded) if _FOREIGN.search(folded) else folded


_CASELESS = str.maketrans(
    "\u03ac\u03ad\u03ae\u03af\u03cc\u03cd\u03ce\u0131",
    "\u03b1\u03b5\u03b7\u03b9\u03bf\u03c5\u03c9i",
    "".join(
        map(chr, (0x307, 0x670, *range(0x64B, 0x653), *range(0x591, 0x5BE), 0x5BF, 0x5C1, 0x5C2, 0x5C4, 0x5C5, 0x5C7))
    ),
)
"""What writing may leave out: accents of Greek capitals, dots of Turkish ones, vowel signs of Arabic and Hebrew."""


def squeeze(text: str) -> str:
    """``plain(text)`` case-folded, with every run of white space as one space, stripped.

    The four letters i of Turkish are one, for case does not tell which was meant: İPTAL and IPTAL are iptal.
    """
    text = plain(text)
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text.casefold()).translate(_CASELESS).split())


_TAG = re.compile(r"</?[a-zA-Z][^<>\n]{0,200}>|<!--[^>]{0,500}>")
_PARTING = "blockquote|br|dd|div|dl|dt|h[1-6]|hr|li|ol|p|pre|table|tbody|td|th|thead|tr|ul"
_INLINE = "a|abbr|b|big|center|cite|code|del|em|font|i|img|ins|kbd|mark|q|s|small|span|strike|strong|sub|sup|u|wbr"
_ATTRIBUTES = r"(?:\s+[\w:\-]{1,40}=(?:\"[^\"<>]{0,200}\"|'[^'<>]{0,200}'|[^\s<>\"']{1,200})){0,20}\s*/?"
_BREAK = re.compile(rf"</?(?:{_PARTING}){_ATTRIBUTES}>", re.I)
"""Tags that part what stands on either side of them."""
_MARKUP = re.compile(rf"</?(?:{_INLINE}){_ATTRIBUTES}>|<!--[^>]{{0,500}}-->", re.I)
_DECORATION = re.compile(
    r"""
    (?=[~|`*_\\\-#>\ \t])(?:  # what each begins with, for speed
      ~~ | \|\| | `+
    | (?<!\w)\*+(?=\S) | (?<=\S)\*+(?!\w) | (?<=[^\W\d_])\*+(?=[^\W\d_])
    | (?<![^\W_])_+(?=[^\W_]) | (?<=[^\s_])_+(?![^\W_])
    | \\(?=[*_~`|])
    | (?<=[^\W\d_])-[ \t]*\n[ \t]*(?=[^\W\d_])  # hyphenated at the end of a line
    | ^[ \t]*(?:>[ \t]*|\#{1,6}[ \t]+)+
    )
    """,
    re.X | re.M,
)


_DECORATED, _HYPHENATED = re.compile(r"[*_~`|\\#>&<]"), re.compile(r"-[ \t]*\n")


def shown(text: str) -> str:
    """The text as a reader sees it: without HTML's tags and entities, and without Markdown's marks."""
    if not (_DECORATED.search(text) or _HYPHENATED.search(text)):
        return plain(text)
    return _DECORATION.sub("", plain(_without_html(text, _TAG)))


def bare(text: str) -> str:
    """The text as it was written but for HTML's own tags, comments and entities, for those who count."""
    return _without_html(text, _MARKUP)


def _without_html(text: str, tags: re.Pattern[str]) -> str:
    if "<" in text:
        text = tags.sub("", _BREAK.sub("\n", text))
    return html.unescape(text) if "&" in text else text


_TOKEN = (
    r"(?:https?://|www\.)[^\s<>\"]*[^\s<>\".,;:!?)\]'*_]|[\w.+\-]{1,64}@[\w\-]+(?:\.[\w\-]+)+"  # addresses
    r"|(?:LETTER\.){2,}"  # e.g., U.S.A.
    r"|ATOM(?:['_\-]ATOM)*"
).replace("ATOM", r"(?:CHAR*DIGIT(?:[.,:/]DIGIT+)+CHAR*|CHAR+)")
_ASCII_WORD = re.compile(_TOKEN.replace("CHAR", "[a-zA-Z0-9]").replace("LETTER", "[a-zA-Z]").replace("DIGIT", "[0-9]"))
_USUAL_WORD = re.compile(r"[a-zA-Z0-9]+(?:['_\-][a-zA-Z0-9]+)*")
"""What a word is in an ASCII text without addresses, dotted abbreviations and numbers with separators."""
_EACH = "\u3041-\u3096\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Hiragana and ideographs, which are a word each (UAX #29)."""
_PARTS = re.compile(f"[{_EACH}]|[^{_EACH}]+")


def words(text: str) -> list[str]:
    """Words of a ``plain`` text: letters, marks and digits, joined by an inner apostrophe or hyphen.

    A number with its separators, a dotted abbreviation and an address are one word each.
    """
    if text.isascii():
        return (_ASCII_WORD if _has_unusual_words(text) else _USUAL_WORD).findall(text)
    found = [match[0] for match in _unicode_word().finditer(text)]
    return [part for word in found for part in _PARTS.findall(word)]


_SEPARATED, _DOTTED = re.compile("[0-9][.,:][0-9]"), re.compile(r"\.[a-zA-Z]\.")


def _has_unusual_words(text: str) -> bool:
    odd = "@" in text or "/" in text or "www." in text
    return odd or _SEPARATED.search(text) is not None or _DOTTED.search(text) is not None


def first_word(text: str) -> str:
    """The first of ``words(text)``, or an empty text."""
    found = (_ASCII_WORD if text.isascii() else _unicode_word()).search(text)
    return "" if found is None else found[0] if text.isascii() else _PARTS.findall(found[0])[0]


@lru_cache(maxsize=1)
def _unicode_word() -> Any:
    unicode = _TOKEN.replace("CHAR", r"[\p{L}\p{M}\p{N}]").replace("LETTER", r"\p{L}").replace("DIGIT", r"\p{N}")
    return compile_regex(unicode)


_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


def paragraphs(text: str, separator: str | None = None) -> list[str]:
    """Non-empty paragraphs of a ``plain`` text, cut at blank lines or at ``separator``."""
    parts = text.split(separator) if separator else _BLANK_LINE.split(text)
    return [part.strip() for part in parts if part.strip()]


_RUNNING = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Thai, Lao, Tibetan, Burmese, Khmer, Chinese, Japanese: nothing on paper parts their words."""
_RUNS_ON = re.compile(f"[{_RUNNING}]")
_SUFFIXED = re.compile("[\uac00-\ud7a3]")
"""Korean, which hangs particles on its words."""


def word_pattern(phrases: Iterable[str]) -> re.Pattern[str]:
    """Matches any of ``phrases`` between word boundaries in a ``squeeze``d text; Markdown's ``_`` is a boundary.

    Where a script has no spaces between words, a phrase needs no boundary.
    """
    return _word_pattern(tuple(phrases))


@lru_cache(maxsize=256)
def _word_pattern(phrases: tuple[str, ...]) -> re.Pattern[str]:  # rows of one kind expect the same phrases
    alike: dict[tuple[str, str], list[str]] = {}
    for phrase in sorted({squeeze(phrase) for phrase in phrases}, key=lambda phrase: (-len(phrase), phrase)):
        alike.setdefault(_bounds(phrase), []).append(re.escape(phrase))
    return re.compile("|".join(f"{before}(?:{'|'.join(found)}){behind}" for (before, behind), found in alike.items()))


def _bounds(phrase: str) -> tuple[str, str]:
    """What must not stand before and behind it."""
    if not any(map(str.isalnum, phrase)):
        return "", ""
    symbol = not (phrase[0].isalnum() or phrase[0] == "-")  # .com stands in acme.com
    before = "" if symbol or _RUNS_ON.match(phrase) else r"(?<![^\W_])"
    last = phrase[-1:]
    if phrase[:1].isdigit():
        before += r"(?<![0-9][.,])"  # the 5 of 1,5
    if _RUNS_ON.match(last) or _SUFFIXED.match(last):
        return before, ""
    if last.isdigit():
        return before, r"(?![^\W_]|[.,](?!00?(?![0-9]))[0-9])"
    if len(phrase) == 1 and phrase.isascii() and phrase.isalpha():
        return before, r"(?![^\W_]|[+#]+(?!\w))"  # C is not C++
    return before, r"(?![^\W_])" if phrase.isascii() else rf"(?![^\W_]|[{_marks()}])"


@lru_cache(maxsize=1)
def _marks() -> str:
    """Vowel signs and other marks, which Python's ``\\w`` leaves out, as the inside of a character class."""
    return "".join(chr(code) for code in range(0x300, 0x1E000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))


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
    r"[^\W_][\w.%+\-]{0,63}@[^\W_](?:[\w\-]{0,61}[^\W_])?(?:\.[\w\-]{1,63}){0,3}\.(?:[^\W\d_]{2,63}|xn--[a-z0-9\-]{2,59})",
    re.I,
)


def email(text: str) -> bool:
    """Whether ``text`` is an e-mail address with a dotted domain."""
    return EMAIL.fullmatch(text.strip()) is not None


GROUPS = re.compile(r"[0-9]+(?:[ \t\r\n.,/_*\-]{1,3}[0-9]+)*")


VALIDATORS = {"email": email, "iban": iban, "luhn": luhn}
