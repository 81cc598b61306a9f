"""Whether a reply is right by what a row expects of it (``match``)."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from compress.numbers import NUMBERS, read_number, tidy
from compress.validate import classifier
from runtime.rules.refusal import refuses
from runtime.rules.spelled import in_digits
from runtime.rules.text import plain, shown, squeeze, word_pattern

_RANGE = re.compile(r"\s*(?:-|\u2013|\u2014|\bto\b|\bbis\b|\bor\b)\s*")
"""What stands between the ends of a range."""
_BETWEEN = re.compile(r"\bbetween\s+\S+\s+and\s+\S?$", re.I)
_SCALES = {"k": 1e3, "thousand": 1e3, "million": 1e6, "mio": 1e6, "m": 1e6, "billion": 1e9, "bn": 1e9, "mrd": 1e9}
_SCALE = re.compile(rf"[ ]?({'|'.join(_SCALES)})\b", re.I)
_ANSWER = re.compile(
    r"(?:\b(?:answer|result|solution)\b(?:[\s*_]*(?:\bis\b|\bwould be\b|[:=]))[\s:=*_$]*|####\s*|\\boxed\{)"
    r"([^\n]*?)(?=\.(?:\s|$)|\n|$)",
    re.I,
)
_EQUALS = re.compile(r"=|\b(?:equals|gives|makes|which is|so)\b")
_NOT_THAT = r"\bnot\s+\S{0,2}[\d.,]*\d"
_BESIDE = re.compile(rf"\([^()]*\)|{_NOT_THAT}")
_CORRECTED = re.compile(r"\b(?:wait|actually|correction|sorry|rather|no,)", re.I)


def exact(answer: Any, text: str) -> bool:
    """The same text but for case, spaces, the shape of quotes and dashes, Markdown or quotation marks around it, and a
    full stop at the end."""
    return _bare(str(answer)) == _bare(text)


def _bare(text: str) -> str:
    folded = squeeze(shown(text))
    core = folded.strip("\"' ").rstrip(".!").strip("\"' ")
    return core or folded


def contains(answer: Any, text: str) -> bool:
    """Every wanted phrase (of a list in the list, any) stands in the text, at word boundaries."""
    parts = answer if isinstance(answer, list) else [answer]
    wanted = [word_pattern(map(str, part if isinstance(part, list) else [part])) for part in parts]
    bare = shown(text)
    said = {squeeze(text)} if bare == text else {squeeze(text), squeeze(bare)}
    return all(any(pattern.search(view) for view in said) for pattern in wanted)


def numeric(answer: Any, text: str) -> bool:
    """The number that the text calls its answer, or else its last one, equals the answer; a range is no number."""
    wanted, said = read_number(str(answer)), tidy(text)
    if wanted is None:
        return False
    if not NUMBERS.search(said):
        said = in_digits(said)
    return any(abs(value - wanted) <= 1e-6 * max(1.0, abs(wanted)) for value in _final(said))


def _final(text: str) -> list[float]:
    """What the number that counts may mean: 5 million is 5000000, and 5 where millions were asked for."""
    marked = list(_ANSWER.finditer(text))
    if marked and not _CORRECTED.search(text, marked[-1].end()):
        part = _EQUALS.split(_BESIDE.sub(" ", marked[-1][1]))[-1]
        found = list(NUMBERS.finditer(part))
        if found:
            return _read(part, found, 0)
    text = re.sub(_NOT_THAT, " ", text)
    found = list(NUMBERS.finditer(text))
    return _read(text, found, len(found) - 1) if found else []


def _read(text: str, found: list[re.Match[str]], place: int) -> list[float]:
    pairs = pairwise(found[max(0, place - 1) : place + 2])
    if any(_RANGE.fullmatch(text[one.end() : other.start()]) for one, other in pairs):
        return []
    if _BETWEEN.search(text[: found[place].start()]):
        return []
    value, scale = read_number(found[place][0]), _SCALE.match(text, found[place].end())
    if value is None:
        return []
    return [value, value * _SCALES[scale[1].casefold()]] if scale else [value]


_OPENING = re.compile(r"\s*[*_(\[\"'`]*([A-Za-z])[)\]*_\"'`]*(?=[.:,)\-]|\s*$|\s*\n)")
_NAMED = re.compile(
    r"\b(?:answer|option|choice|choose|chose|pick|select|letter)\b(?:\s+(?:is|would be|must be|option|choice|letter))*"
    r"[\s:=*_]*([(\[\"'*_]*)([A-Z])(?![A-Za-z'])",
    re.I,
)
_SAID = re.compile(r"\b(?:it's|it is|i'd say|that's|that is)\s+()([B-HJ-Z])(?![A-Za-z'])", re.I)
_MARKED = re.compile(r"[(\[]([A-Z])[)\]]|\*\*([A-Z])\*\*|\\boxed\{([A-Z])\}")
_ALONE = re.compile(r"(?<![A-Za-z0-9_'])([A-Z])(?![A-Za-z0-9_'])")
_WORDS = re.compile(r"\bI\b(?!\s*[.:,)]\s*$)|\bA(?=\s+[a-z])")
"""Capital letters that are English words."""
_LETTER = r"[(\[*]*[A-Z][)\]*]*(?![\w'])"
_DENIED = re.compile(
    rf"\b[Nn]either (?:option |answer )?{_LETTER}(?:,? (?:or|nor) (?:option |answer )?{_LETTER})+"
    rf"|(?:\bnot|n't|\bcannot|\bnever|\brather than|\binstead of|\bover)(?: be)?(?: option| answer)? {_LETTER}"
    rf"|(?<![\w']){_LETTER}(?:(?:,| and| or|, and|, or) {_LETTER})*"
    rf"(?: is| are)?(?: not\b| wrong\b| incorrect\b| false\b|n't\b)"
)
_SEVERAL = re.compile(
    rf"(?<![\w']){_LETTER} (?:and|or|and/or) {_LETTER}\W*$|\b[Bb]oth {_LETTER} and {_LETTER}"
    rf"|(?<![\w']){_LETTER} and {_LETTER} are\b"
)


def choice(answer: Any, text: str) -> bool:
    """The label that the text opens with (``B``, ``(B)``, ``B.``), or that it calls its answer, or that it marks, or
    else its last capital letter that stands alone and is no word. What it denies (``not A``) does not count."""
    return label(text) == str(answer).strip(" ().").upper()


def label(text: str) -> str | None:
    """The label that a reply chooses."""
    text = _DENIED.sub(" ", plain(text))
    opening = _OPENING.match(text)
    if opening and (opening[1].isupper() or len(text.strip(" \n()[].*_\"'`")) == 1):
        return opening[1].upper()
    named = sorted((m for pattern in (_SAID, _NAMED) for m in pattern.finditer(text)), key=lambda match: match.end())
    letters = [letter for match in named if (letter := _letter(match))]
    if letters:
        return letters[-1]
    marked = [next(filter(None, match.groups())) for match in _MARKED.finditer(text)]
    if marked:
        return marked[-1]
    if _SEVERAL.search(text):
        return None
    alone = _ALONE.findall(_WORDS.sub(" ", text))
    return alone[-1] if alone else None


def _letter(match: re.Match[str]) -> str | None:
    """The letter that was named; a small one only where it stands in brackets or last."""
    bracketed, last = match[1][:1] in ("(", "["), not match.string[match.end() :].strip(" .)\n")
    return match[2].upper() if match[2].isupper() or bracketed or last else None


def instructions(answer: Any, text: str) -> bool:
    """Every instruction of IFEval or IFBench that the answer names is followed."""
    from runtime.rules.instructions import not_followed

    return not not_followed(answer, text)


def lacks(answer: Any, text: str) -> bool:
    """None of the words or phrases stands in the text, at word boundaries."""
    return not word_pattern(answer if isinstance(answer, list) else [answer]).search(squeeze(text))


def refusal(answer: Any, text: str, asked: str = "") -> bool:
    """The text refuses where ``refuse`` is wanted, and does not where ``answer`` is; ``asked`` is the question."""
    return refuses(plain(text), plain(asked)) == (answer == "refuse")


SCORERS: dict[str, Callable[[Any, str], bool]] = {
    "choice": choice,
    "classifier": classifier.holds,
    "contains": contains,
    "exact": exact,
    "instructions": instructions,
    "lacks": lacks,
    "numeric": numeric,
    "refusal": refusal,
}
