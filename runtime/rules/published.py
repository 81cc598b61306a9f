"""Words and sentences as IFEval's and IFBench's published verifiers cut them, which is not how ``text.py`` does.

Their counts decide what "at most 5 sentences" means in those suites, so they are kept apart from the rules' own, and
see the text as it was written. Sources: Zhou et al. 2023 (arXiv:2311.07911) and Pyatkin et al. 2025 (arXiv:2507.02833),
whose verifiers are under the Apache License 2.0; the Treebank tokens and Punkt (Kiss & Strunk 2006) are those of NLTK.
"""

from __future__ import annotations

import re
import string
from functools import lru_cache
from itertools import pairwise

from .published_words import AFTER_NUMBERS, OPENERS, PLAIN, SHORTENED, TITLED
from .text import compile_regex

PUNCTUATION = frozenset(string.punctuation)
_STRIP = str.maketrans("", "", string.punctuation)
EDGES = string.punctuation + " "
"""What is cut off both ends of a word."""


def bare_words(text: str) -> list[str]:
    """Runs between white space once ASCII punctuation is deleted: ``don't`` is ``dont``, ``a-b`` is ``ab``."""
    return text.translate(_STRIP).split()


def bare(text: str) -> str:
    """The text without ASCII punctuation."""
    return text.translate(_STRIP)


_ASCII_RUN = re.compile(r"\w+", re.A)
_WORD_RUN = (
    r"[\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}"
    r"\x{1f170}-\x{1f189}]+"
)
"""Word characters by UTS #18, as NLTK's tokenizers have them since they run on the regex package: marks and joiners
count, superscripts and fractions do not."""


def tokens(text: str) -> list[str]:
    """Runs of letters, marks, digits and underscores: what both suites count as words."""
    return _ASCII_RUN.findall(text) if text.isascii() else list(compile_regex(_WORD_RUN).findall(text))


# ── sentences by substitution (IFBench) ──────────────────────────────────────────────────────────

_DOT, _STOP = "\ue000", "\ue001"
"""A full stop that ends nothing; the end of a sentence. Private-use characters, so no text has them by accident."""
_STARTERS = (
    r"(Mr|Mrs|Ms|Dr|Prof|Capt|Cpt|Lt|He\s|She\s|It\s|They\s|Their\s|Our\s|We\s|But\s|However\s|That\s|This\s|Wherever)"
)
_STEPS = tuple(
    (re.compile(pattern), with_)
    for pattern, with_ in (
        (r"(Mr|St|Mrs|Ms|Dr)\.", rf"\1{_DOT}"),
        (r"\.(com|net|org|io|gov|edu|me)", rf"{_DOT}\1"),
        (r"([0-9])\.([0-9])", rf"\1{_DOT}\2"),
        (r"\.\.+", lambda dots: _DOT * len(dots[0]) + _STOP),
        (r"Ph\.D\.", f"Ph{_DOT}D{_DOT}"),
        (r"\s([A-Za-z])\. ", rf" \1{_DOT} "),
        (rf"([A-Z]\.[A-Z]\.(?:[A-Z]\.)?) {_STARTERS}", rf"\1{_STOP} \2"),
        (r"([A-Za-z])\.([A-Za-z])\.([A-Za-z])\.", rf"\1{_DOT}\2{_DOT}\3{_DOT}"),
        (r"([A-Za-z])\.([A-Za-z])\.", rf"\1{_DOT}\2{_DOT}"),
        (rf" (Inc|Ltd|Jr|Sr|Co)\. {_STARTERS}", rf" \1{_STOP} \2"),
        (r" (Inc|Ltd|Jr|Sr|Co)\.", rf" \1{_DOT}"),
        (r" ([A-Za-z])\.", rf" \1{_DOT}"),
        (r"\.\u201d", "\u201d."),
        (r'([.!?])"', r'"\1'),
        (r"([.!?])", rf"\1{_STOP}"),
    )
)


@lru_cache(maxsize=64)
def sentences(text: str) -> tuple[str, ...]:
    """IFBench's sentences: full stops, ``!`` and ``?`` end one, a few abbreviations and initials excepted."""
    marked = f" {text}  ".replace("\n", " ")
    for pattern, with_ in _STEPS:
        marked = pattern.sub(with_, marked)
    parts = [part.strip() for part in marked.replace(_DOT, ".").split(_STOP)]
    return tuple(parts[:-1] if not parts[-1] else parts)


# ── sentences by Punkt (IFEval) ──────────────────────────────────────────────────────────────────

_CLOSING = "\"')]}\u2018\u2019\u201c\u201d\u00ab\u00bb"
_NO_WORD = r"""[)";}\]*:@'({\[\u2018\u2019\u201c\u201d\u00ab\u00bb!?]"""
_MARK = re.compile(rf"[.!?](?=({_NO_WORD})|\s+(\S+))")
_MULTI = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)"
_PIECE = re.compile(
    rf"{_MULTI}|(?=[^(\"`{{\[:;&#*@)}}\]\-,])\S+?(?=\s|$|{_NO_WORD}|{_MULTI}|,(?=$|\s|{_NO_WORD}|{_MULTI}))|\S"
)
_REALIGN = re.compile(rf"[{re.escape(_CLOSING)}]+?(?:\s+|(?=--)|$)", re.M)
_NUMERIC = re.compile(r"-?[.,]?\d[\d,.\-]*\.?$")
_INITIAL = re.compile(r"[^\W\d]\.$")


_KNOWN = PLAIN | TITLED | OPENERS


def _opens(word: str) -> bool | None:
    """Whether a word begins a sentence, by its first letter; None when that cannot be told."""
    if word in ";:,.!?" or word[0].islower():
        return False
    return True if word[0].isupper() and word.lower() in PLAIN else None


def _breaks(token: str, following: str) -> bool:
    """Whether a sentence ends between two pieces (Kiss & Strunk 2006, section 4)."""
    if token in (".", "!", "?"):
        return True
    if not token.endswith("."):
        return False
    kind, next_kind = token[:-1].lower(), following.lower()
    begins, upper = _opens(following), following[0].isupper()
    short = kind in SHORTENED or kind.split("-")[-1] in SHORTENED
    if token.endswith(".."):  # a capital on a word that is neither common nor shortened is taken for a beginning
        return upper and (next_kind not in TITLED or next_kind in OPENERS) and "'" not in following
    if _INITIAL.fullmatch(token):
        name = upper and next_kind not in _KNOWN and kind not in "abi"  # A., B. and I. number parts of an outline
        return not short and begins is not False and not name
    if short:
        return begins is True or (upper and next_kind in OPENERS)
    return not (_NUMERIC.match(token) and (begins is False or next_kind in AFTER_NUMBERS))


def _holds_break(context: str) -> bool:
    found = [piece for line in context.split("\n") for piece in _PIECE.findall(line)]
    return any(_breaks(one, other) for one, other in pairwise(found))


def _candidates(text: str) -> list[tuple[re.Match[str], int]]:
    """Marks that may end a sentence, with the start of their word: of several in one word the last."""
    kept: list[tuple[re.Match[str], int]] = []
    start = stop = 0
    for mark in _MARK.finditer(text):
        before = text[stop : mark.start()]
        space = max(before.rfind(char) for char in string.whitespace)
        start = stop + space + 1 if space > 0 else start
        if kept and start < stop:
            kept.pop()
        kept.append((mark, start))
        stop = mark.start()
    return kept


@lru_cache(maxsize=64)
def punkt(text: str) -> tuple[str, ...]:
    """Sentences as NLTK's English Punkt model finds them, but for the capitals that the model learned by heart."""
    pieces, begin = [], 0
    for mark, word in _candidates(text):
        if _holds_break(text[word : mark.end()] + (mark[1] or text[mark.end() : mark.end(2)])):
            pieces.append((begin, mark.end()))
            begin = mark.start(2) if mark[2] else mark.end()
    pieces.append((begin, len(text.rstrip())))
    return tuple(_realigned(text, pieces))


def _realigned(text: str, pieces: list[tuple[int, int]]) -> list[str]:
    """Closing quotes and brackets belong to the sentence before them."""
    found, moved = [], 0
    for place, (begin, end) in enumerate(pieces):
        begin += moved
        moved = 0
        if place + 1 < len(pieces):
            after, stop = pieces[place + 1]
            closing = _REALIGN.match(text[after:stop])
            if closing:
                end, moved = after + len(closing[0].rstrip()), closing.end()
        if text[begin:end]:
            found.append(text[begin:end])
    return found


# ── Treebank tokens (NLTK's word_tokenize) ───────────────────────────────────────────────────────

_TREEBANK = tuple(
    (re.compile(pattern), with_)
    for pattern, with_ in (
        (r"([\u00ab\u201c\u2018\u201e]|`+)", r" \1 "),
        (r'^"', "``"),
        (r"(``)", r" \1 "),
        (r"([ (\[{<])(\"|'')", r"\1 `` "),
        (r"(?i)(?<!\w)(')(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", r"\1 "),
        (r"([^.])(\.)([\])}>\"'\u00bb\u201d\u2019 ]*)\s*$", r"\1 \2 \3 "),
        (r"([:,])([^\d])", r" \1 \2"),
        (r"([:,])$", r" \1 "),
        (r"\.{2,}", r" \g<0> "),
        (r"[;@#$%&]", r" \g<0> "),
        (r"[\u2012-\u2015]", r" \g<0> "),
        (r"([^.])(\.)([\])}>\"']*)\s*$", r"\1 \2\3 "),
        (r"[?!]", r" \g<0> "),
        (r"([^'])' ", r"\1 ' "),
        (r"[*]", r" \g<0> "),
        (r"[\]\[(){}<>]", r" \g<0> "),
        (r"--", " -- "),
        (r"^|$", " "),
        (r"([\u00bb\u201d\u2019])", r" \1 "),
        (r"''", " '' "),
        (r'"', " '' "),
        (r"\s+", " "),
        (r"([^' ])('[sS]|'[mM]|'[dD]|') ", r"\1 \2 "),
        (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
        (r"(?i)\b(can)(not)\b", r" \1 \2 "),
        (r"(?i)\b(d)('ye)\b", r" \1 \2 "),
        (r"(?i)\b(gim|lem)(me)\b", r" \1 \2 "),
        (r"(?i)\b(gon)(na)\b", r" \1 \2 "),
        (r"(?i)\b(got)(ta)\b", r" \1 \2 "),
        (r"(?i)\b(more)('n)\b", r" \1 \2 "),
        (r"(?i)\b(wan)(na)(?=\s)", r" \1 \2 "),
        (r"(?i) ('t)(is|was)\b", r" \1 \2 "),
    )
)


@lru_cache(maxsize=64)
def treebank(text: str) -> tuple[str, ...]:
    """Penn Treebank tokens, sentence by sentence: punctuation apart, ``don't`` as ``do n't``."""
    found: list[str] = []
    for sentence in punkt(text):
        for pattern, with_ in _TREEBANK:
            sentence = pattern.sub(with_, sentence)
        found += sentence.split()
    return tuple(found)
