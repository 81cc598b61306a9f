"""The number that a reply gives for its answer."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from compress.numbers import NUMBERS, read_number, tidy
from runtime.rules.spelled import in_digits

_RANGE = re.compile(r"\s*(?:-|\u2013|\u2014|\bto\b|\bbis\b|\bor\b)\s*")
"""What stands between the ends of a range."""
_BETWEEN = re.compile(r"\bbetween\s+\S+\s+and\s+\S?$|\b(?:less|more|fewer|greater) than\s+\S?$", re.I)
"""What stands in front of the second of two ends, and of a bound."""
_SCALES = {
    "dozen": 12,
    "k": 1e3,
    "thousand": 1e3,
    "million": 1e6,
    "mio": 1e6,
    "m": 1e6,
    "billion": 1e9,
    "bn": 1e9,
    "mrd": 1e9,
}
_SCALE = re.compile(rf"[ ]?({'|'.join(_SCALES)})\b", re.I)
ANSWERS = (
    "answer", "result", "solution", "antwort", "lösung", "ergebnis", "réponse", "résultat", "respuesta", "resultado",
    "risposta", "risultato", "resposta", "antwoord", "odpowiedź", "wynik", "ответ", "cevap", "sonuç", "svar",
)  # fmt: skip
"""What an answer is called, in small letters."""
CALLED = rf"\b(?:{'|'.join(ANSWERS)}(?:et)?)\b"
IS = r"\b(?:is|equals|ist|lautet|est|es|è|é|är|er|would be|must be|should be)\b"
EASTERN_ANSWERS = ("答案", "答え", "正解", "解答", "정답", "답")
EASTERN = rf"(?:{'|'.join(EASTERN_ANSWERS)})(?:\s?(?:是|为|は|은|:))"
_ANSWER = re.compile(
    rf"(?:{CALLED}[\s*_]*(?:{IS}|[:=])[\s:=*_$]*|{EASTERN}\s*|####\s*|\\boxed\{{)"
    r"([^\n]*?)(?=\.(?:\s|$)|\n|$)",
    re.I,
)
_EQUALS = re.compile(r"=|\b(?:equals|gives|makes)\b")
_THAT_IS = re.compile(r"\b(?:which is|so)\b")
_IS_BEHIND = re.compile(r" is (?:the|my) (?:final |correct |right )?(?:answer|result|solution)\b")
_NAMED_BEHIND = re.compile(rf"(?:{NUMBERS.pattern})(?=[^.\n]{{0,20}}{_IS_BEHIND.pattern})")
_NOT_THAT = r"\bnot\s+\S{0,2}[\d.,]*\d"
_BESIDE = re.compile(rf"\([^()]*\)|{_NOT_THAT}")
_CORRECTED = re.compile(r"\b(?:wait|actually|correction|sorry|rather|no[,:])", re.I)
_OF_A_NAME = re.compile(r"[A-Za-z]\^?\{?$")
"""What stands in front of the digits of m^2 and of CO2."""
_ASIDE = re.compile(r"(\d\W{0,3}(?>(?:[^\W\d]+\s*){0,3}))\((?![^()]*=)[^()]*\)\W*$")
"""What the end of a text adds to its number: 42 euros (20 % of it tax)."""
_SUM_BEHIND = re.compile(rf"=\s*(?>{NUMBERS.pattern})(?:\s*[-+*/x^\u00d7\u00f7\u00b7]\s*(?>{NUMBERS.pattern}))++\W*$")
"""How a number came about: 36 = 6 x 6."""


def numeric(answer: Any, text: str) -> bool:
    """The number that the text calls its answer, or else its last one, equals the answer; a range is no number."""
    wanted, said = read_number(str(answer)), tidy(text)
    if wanted is None:
        return False
    if not NUMBERS.search(said):
        said = tidy(_parts_in_digits(in_digits(said)))
    return any(abs(value - wanted) <= 1e-6 * max(1.0, abs(wanted)) for value in _final(said))


_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_PART = re.compile(
    rf"(?:\b(\d+) +and +)?(?:\b(an?|\d+)[ -]+)?\b(halves|{'|'.join(_PARTS)})s?\b(?: (?:a|1?) *dozen|(?: of)? +(12)\b)?",
    re.I,
)


def _parts_in_digits(text: str) -> str:
    """``3 and a half`` as 3.5, ``2 thirds`` as 2/3, ``half a dozen`` as 6."""

    def put(match: re.Match[str]) -> str:
        name = match[3].casefold().replace("halves", "half")
        above = int(match[2]) if (match[2] or "").isdigit() else 1
        if match[0].casefold().rstrip().endswith(("dozen", "12")):
            return str(12 * above // _PARTS[name])
        return f"{match[1] or ''} {above}/{_PARTS[name]}".strip()

    return _PART.sub(put, text)


def _final(text: str) -> list[float]:
    """What the number that counts may mean: 5 million is 5000000, and 5 where millions were asked for."""
    marked = list(_ANSWER.finditer(text))
    if marked and not _CORRECTED.search(text, marked[-1].start(1)):
        part = _settled(marked[-1][1])
        found = _numbers(part)
        if found:
            return _read(part, found, 0)
    behind = list(_NAMED_BEHIND.finditer(text)) if _IS_BEHIND.search(text) else []
    if behind:
        return _read(text, behind, len(behind) - 1)
    text = _without_remark(text)
    text = _SUM_BEHIND.sub("", _ASIDE.sub(r"\1", re.sub(_NOT_THAT, " ", text)))
    found = _numbers(text)
    return _read(text, found, len(found) - 1) if found else []


_CHECK = re.compile(
    r"(?:let me|let's|let us|to) (?:double[- ]?check|check|verify)|\b(?:check|verification)\*{0,2}:", re.I
)
_REMARK = re.compile(r"\n\s*\*{0,2}(?:explanation|note|reasoning|remark|justification)\*{0,2}:", re.I)


def _without_remark(text: str) -> str:
    """What stands in front of a check of the answer, or of a remark behind a short one."""
    for pattern, longest in ((_CHECK, len(text)), (_REMARK, 80)):
        cut = pattern.search(text) if pattern is _REMARK or "heck" in text or "erif" in text else None
        if cut and NUMBERS.search(text, 0, cut.start()) and cut.start() <= longest:
            return text[: cut.start()]
    return text


def _settled(said: str) -> str:
    """What an answer comes to: the 42 of ``40 + 2 = 42``, of ``42 = 40 + 2`` and of ``42, which is 6 times 7``."""
    said = _SUM_BEHIND.sub("", _BESIDE.sub(" ", said))
    first, *rest = _THAT_IS.split(said)
    return _EQUALS.split(first if len(_numbers(first)) == 1 or not rest else rest[-1])[-1]


def _numbers(text: str) -> list[re.Match[str]]:
    """The numbers of a text, without those that belong to a name or a unit as long as there are others."""
    found = list(NUMBERS.finditer(text))
    return [one for one in found if not _OF_A_NAME.search(text, max(0, one.start() - 3), one.start())] or found


def _read(text: str, found: list[re.Match[str]], place: int) -> list[float]:
    pairs = pairwise(found[max(0, place - 1) : place + 2])
    if any(_RANGE.fullmatch(text[one.end() : other.start()]) for one, other in pairs):
        return []
    if _BETWEEN.search(text[: found[place].start()]):
        return []
    if re.match(r":\d", text[found[place].end() :]) or re.search(r"\d:$", text[: found[place].start()]):
        return []  # a time of day
    value, scale = read_number(found[place][0]), _SCALE.match(text, found[place].end())
    if value is None:
        return []
    return [value, value * _SCALES[scale[1].casefold()]] if scale else [value]
