"""English number words as digits: ``twenty-one`` is 21, ``two thousand five hundred`` 2500, ``a hundred`` 100."""

from __future__ import annotations

import re

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(_UNITS.split())}
_SMALL |= {word: 10 * value for value, word in enumerate(_TENS.split(), 2)}
_LARGE = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_ONE = "|".join(_SMALL)
_ANY = "|".join([*_SMALL, *_LARGE])
_RUN = rf"\b(?:{_ONE}|an?(?= (?:{'|'.join(_LARGE)})\b))(?:[ -](?:and )?(?:{_ANY})\b)*(?![\w-])"
_SMALL_RUN, _ANY_RUN = re.compile(_RUN), re.compile(_RUN, re.I)


def in_digits(text: str) -> str:
    """``text`` with every number word in digits, set to the right of as much room as the words took."""
    if not text.isascii():
        return _ANY_RUN.sub(lambda match: _digits(match[0]).rjust(len(match[0])), text)
    parts, at = list[str](), 0
    for match in _SMALL_RUN.finditer(text.lower()):  # a third of the time that it takes in any case
        start, end = match.span()
        parts += text[at:start], _digits(text[start:end]).rjust(end - start)
        at = end
    return "".join([*parts, text[at:]])


def _digits(phrase: str) -> str:
    total = group = 0
    for word in re.split(r"[ -]", phrase.casefold()):
        if word in ("a", "an"):
            group = 1
        elif word in _SMALL:
            if group % 10 or (group and _SMALL[word] >= 10 and group % 100):
                return phrase  # "four eight two one" is read out, "nineteen eighty" is a year
            group += _SMALL[word]
        elif word in ("dozen", "hundred"):
            group = max(group, 1) * _LARGE[word]
        elif word in _LARGE:
            total, group = total + max(group, 1) * _LARGE[word], 0
    return str(total + group)
