"""The label of the option that a reply chooses."""

from __future__ import annotations

import re
from typing import Any

from compress.validate.final_number import ANSWERS, CALLED, EASTERN, EASTERN_ANSWERS, IS
from runtime.rules.text import plain

_OPENING = re.compile(r"\s*[*_(\[\"'`]*([A-Za-z])[)\]*_\"'`]*(?=[.:,)\-]|\s+-\s|\s*$|\s*\n)")
_LABEL = r"[\s:=*_]{0,20}([(\[\"'*_]{0,6})([A-Z])(?![\w'])"
_ANSWERED = re.compile(
    rf"(?:{CALLED}[\s*_]*(?:(?:{IS}|[:=-])(?:\s+(?:option|choice|letter|la|die|het|a))*|\n)|{EASTERN}){_LABEL}",
    re.I,
)
_NAMED = re.compile(
    rf"(?:{CALLED}|\b(?:option|choice|choose|chose|pick|select|letter)\b)"
    rf"(?:\s+(?:{IS}|option|choice|letter))*{_LABEL}",
    re.I,
)
_CUES = (*ANSWERS, *EASTERN_ANSWERS, "option", "choice", "choose", "chose", "pick", "select", "letter")
_SAID = re.compile(r"\b(?:it's|it is|i'd say|that's|that is)\s+()([B-HJ-Z])(?![\w'])", re.I)
_PRAISED = re.compile(
    r"(?<![\w'])()([A-Z])[)\]*]{0,4} (?:is|to be|seems|looks|must be)(?: (?:the|most|clearly|probably)){0,2}"
    r" (?:answer|best|correct|likely|only|right|true)\b"
)
_JOINED = re.compile(r"[)\]*]*\s*(?:/|&|\b(?:and|or|und|oder|et|ou|y|o|e)\b)\s*[(\[*]*[A-Z](?![\w'])")
"""Another label beside it."""
_REVISED = re.compile(
    r"\b(?:wait|actually|correction|sorry|no)\b[\s,.!:;-]*(?:(?:actually|wait|no|it's|it is|it should be|i meant?"
    r"|make that|the answer is|rather)\b[\s,:]*)*[(\[*]*([A-Z])(?![\w'])(?!(?<=A)\s+[a-z])",
    re.I,
)
"""What takes an answer back and gives another."""
_LISTED = re.compile(r"\s*[(*]*A[).:\]*]+[^\n]*\n\s*[(*]*B[).:\]*]")
"""The options said again in front of the answer."""
_MARKED = re.compile(r"[(\[]([A-Z])[)\]]|\*\*([A-Z])\*\*|\\boxed\{([A-Z])\}")
_ALONE = re.compile(r"(?<![A-Za-z0-9_'])([A-Z])(?![A-Za-z0-9_'])")
_WORDS = re.compile(
    r"\bI\b(?!\s*[.:,)]\s*$)|\bA(?=\s+[a-z])"
    r"|\b(?:appendix|blood type|class|figure|grade|group|hepatitis|phase|plan|size|team|type|vitamin) [A-Z]\b",
    re.I,
)
"""Capital letters that are English words or parts of a name."""
_LETTER = r"[(\[*]{0,4}[A-Z][)\]*]{0,4}(?![\w'])"
_DENIED = re.compile(
    rf"\b[Nn]either (?:option |answer )?{_LETTER}(?:,? (?:or|nor) (?:option |answer )?{_LETTER}){{1,25}}"
    r"|(?:\b[Nn]ot|n't|\bcannot|\bnever|\binstead of|\bover|\bexcept"
    rf"|\b(?:[Aa]ll|[Aa]ny|[Aa]nything|[Ee]verything)(?: options?)? but)(?: be)?(?: option| answer)? {_LETTER}"
    rf"|\bthan(?: option)? {_LETTER}(?:(?:,| and| or|, and|, or) {_LETTER}(?! is\b)){{0,25}}"
    rf"|(?<![\w']){_LETTER}(?:(?:,| and| or|, and|, or) {_LETTER}){{0,25}}"
    rf"(?: is| are)?(?: not\b| wrong\b| incorrect\b| false\b|n't\b)"
)
_DENYING = ("either", "ot", "n't", "never", "instead", "over", "xcept", "but", "than", "wrong", "incorrect", "false")
"""One of these stands in each match."""
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
    text = plain(text)
    lone = _ALONE.search(text) is not None
    if lone:
        text = _DENIED.sub(" ", text) if any(word in text for word in _DENYING) else text
        revised = [match[1] for match in _REVISED.finditer(text) if match[1].isupper()]
        if revised:
            return revised[-1]
    opening = None if _LISTED.match(text) else _OPENING.match(text)
    if opening and (opening[1].isupper() or len(text.strip(" \n()[].*_\"'`")) == 1):
        return opening[1].upper()
    small = text.casefold()
    called = any(cue in small for cue in _CUES)
    for patterns in ((_ANSWERED,), (_PRAISED, _SAID, _NAMED)) if called else ((_PRAISED, _SAID),):
        named = sorted((m for pattern in patterns for m in pattern.finditer(text)), key=lambda match: match.end())
        letters = [(letter, match.end()) for match in named if (letter := _letter(match))]
        if letters:
            return None if _JOINED.match(text, letters[-1][1]) else letters[-1][0]
    marked = [next(filter(None, match.groups())) for match in _MARKED.finditer(text)]
    if marked:
        return marked[-1]
    if not lone or _SEVERAL.search(text):
        return None
    alone = _ALONE.findall(_WORDS.sub(" ", text))
    return alone[-1] if alone else None


def _letter(match: re.Match[str]) -> str | None:
    """The letter that was named; a small one only where it stands in brackets or last."""
    bracketed, last = match[1][:1] in ("(", "["), not match.string[match.end() :].strip(" .)\n")
    return match[2].upper() if match[2].isupper() or bracketed or last else None
