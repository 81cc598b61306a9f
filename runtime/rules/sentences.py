"""Where the sentences of a ``plain`` text end, after the rules of UAX #29 with what they leave to the language:
abbreviations, initials, ordinals, lists, quotations and code.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .text import first_word

_NUMERAL = r"(?:\d{1,3}\\?|[a-zA-Z]|[ivx]{2,4})"
_ENTRY_MARK = rf"(?:[*+\-\u2022\u2023\u25aa\u25cf\u25e6]|\({_NUMERAL}\)|{_NUMERAL}\)|(?![A-Z]){_NUMERAL}\.)"
_CLOSERS = "\"')\\]*_\u300d\u300f\u3011"
_END = re.compile(
    rf"""
    (?=[.!?\u061f\u06d4\u0964\u0965\u1362\u17d4\u104b\u0589\u0f0d\u0f0e;\u3002\uff61\n])  # the first of each
    (?:
      (?:[.!?\u061f\u06d4\u0964\u0965\u1362\u17d4\u104b\u0589\u0f0d\u0f0e]+  # Latin, Arabic, Urdu, Hindi, Tibetan …
         | (?<=[\u0370-\u03ff\u1f00-\u1fff]);)  # what Greek asks with
      [{_CLOSERS}]*(?:[ ]?\[\^?[^\[\]\n]{{1,20}}\](?!\())*(?=\s|$)
    | [\u3002!?\uff61]*\u3002[\u3002!?\uff61{_CLOSERS}]*  # Chinese and Japanese write no space behind
    | [!?]+(?=[\u3040-\u30ff\u3400-\u9fff])
    | (?<=[^\W\d_])[!?]+(?=[A-Z\u00c0-\u00de])  # the space was forgotten
    | (?<=[a-z][a-z])\.(?=[A-Z][a-z']*[ ,])
    | \n\s*\n
    | (?<=```)\n
    | \n(?=[ \t]*{_ENTRY_MARK}[ \t]+\S)  # the next entry of a list
    )
    """,
    re.X,
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.S)
_ENTRY = re.compile(rf"(?:^|\n)[ \t]*{_NUMERAL}$")
_ASKED = re.compile(
    r"(?:I|[A-Z]\w+) (?:asked|said|cried|wondered|replied|exclaimed|shouted|whispered|called|thought)\b"
)
_ELIDED = re.compile(r"^(?:[ldn]|qu|dell|nell|all|sull)'(?=\w)")  # l'art. 3
_DOTTED = re.compile(r"[^\W\d_]{1,2}(?:\.[^\W\d_]{1,3})+")
_ABBREVIATIONS = frozenset(
    """
    abzgl adm allg anm apdo aprox arch arq asst av avda avv bijv bl.a blz bspw bzgl bzw ca capt cf cfr col comm cía
    d.h dept det dhr dipl dir dl dott dpto dr dra dras drs e.g eg egr ehem eig eng env esim ev evang evtl exkl exma
    exmo expte f.eks fr geb gegr gen geom ggf godz gov gral hon hr hrn hrsg i.e ie inc incl ing inkl insb inż jhd jr
    kath lic lt ltda mah maj max mevr mgr mlle mlles mme mmes monatl mr mrs ms mt mwst např np p.ej p.p.s p.s pres
    prof profa puh rep rev s.a sen sgt sig sigg sog sogen sok spett spp sr sra sras srta st sta ste str t.ex tlf tzn
    tzv tzw tägl tél u.a ud uds usf vd vds vgl viz vs wg ww z.b z.t zb zgl zzgl örn акад вул корп млн млрд напр обл
    пр проф св см ср стр тис тов тыс ул डॉ प्रो श्री
    """.split()  # noqa: SIM905
)
_BEFORE_NUMBERS = frozenset(
    """
    abb abs apr apt art aug bd bl cap ch chap dec eq eqs exp feb fig figs id jan jul jun kap kl mar n no nos nov nr nro
    num nó núm oct p pag pág para pos pp ref s sec sect sep sept tab tel ver vol zz стр рис табл гл тел
    """.split()  # noqa: SIM905
)
"""Abbreviations in front of a number; elsewhere they may be words (No.)."""
_BEFORE_SMALL = frozenset(
    """
    a.m p.m etc usw etc.pp ff co corp inc ltd min max std sek est approx jr bros руб шт коп atd apod stb osv ecc
    """.split()  # noqa: SIM905
)
"""What ends a sentence where a capital follows."""
_STARTERS = frozenset(
    """
    a an and are at but can could did do does for he here how i if in is it its my no now once or our please she so
    thank thanks that the their then there these they this those to we what when where which who why will would yes
    you your
    """.split()  # noqa: SIM905
)
"""Words that begin a sentence behind an abbreviation which may end one (the U.S. It is)."""
_ORDERED = frozenset(
    """
    januar jänner februar märz april mai juni juli august september oktober november dezember jan feb mär apr jun jul
    aug sep sept okt nov dez maj januari februari augusti advent auflage bundesliga fc geburtstag halbjahr jahr
    jahrestag jahrhundert jh kapitel klasse lebensjahr liga mal monat obergeschoss og platz quartal rang reihe runde
    semester stelle stock stunde stufe tag teil ug weihnachtstag weltkrieg woche etage
    """.split()  # noqa: SIM905
)
"""What follows a German ordinal: 3. Mai, 2. Stock, 19. Jahrhundert."""


def sentences(text: str) -> list[str]:
    """Sentences of a ``plain`` text.

    They end at the full stops, question and exclamation marks of the scripts listed, at blank lines, behind a block of
    code and where the next entry of a list begins; not behind an abbreviation, an initial, a list's number or an
    ordinal before a month, nor inside code.
    """
    return list(_split(text))


@lru_cache(maxsize=64)
def _split(text: str) -> tuple[str, ...]:  # several rules ask for those of one reply
    found, start = [], 0
    code = [span.span() for span in _CODE.finditer(text)] if "`" in text else []
    for end in _END.finditer(text):
        inside = any(first < end.start() < last for first, last in code)
        if inside or _goes_on(text[start : end.start()], end[0], text[end.end() : end.end() + 40]):
            continue
        found.append(text[start : end.end()])
        start = end.end()
    found.append(text[start:])
    return tuple(sentence.strip() for sentence in found if first_word(sentence))


def _goes_on(head: str, mark: str, tail: str) -> bool:
    """Whether the ``mark`` between ``head`` and ``tail`` ends no sentence."""
    after = tail.lstrip()
    small = after[:1].islower()
    stop = mark.rstrip("\"')]*_")
    if stop == ".":
        return (small and mark[-1] in "\"'") or _abbreviated(head, after, small)
    if stop.strip(".") == "" and head[-1:].isspace():
        return small  # I wait ... and wait
    asked = stop[-1:] in ("!", "?") and mark[-1] in "\"'"
    return asked and (small or _ASKED.match(after) is not None)  # "Why?" he asked


def _abbreviated(head: str, after: str, small: bool) -> bool:
    before = head.rsplit(None, 1)
    last = _ELIDED.sub("", before[-1].lstrip("(\"'[*_").casefold()) if before else ""
    number = after[:1].isdigit()
    entry = len(last) <= 4 and _ENTRY.search(head) is not None
    if last.isdigit() and len(last) <= 2:
        return small or entry or _following(after) in _ORDERED
    if last in _BEFORE_SMALL:
        return small or number or _following(after) in _BEFORE_SMALL
    if entry or last in _ABBREVIATIONS:
        return True
    if last in _BEFORE_NUMBERS:
        return number or (small and len(before) > 1)
    if (len(last) == 1 and last.isalpha() and last != "i") or _DOTTED.fullmatch(last):
        return small or _following(after) not in _STARTERS
    return small and len(last) > 1 and not last.strip("ivxlc")  # Ludwig XIV. went


def _following(after: str) -> str:
    return first_word(after).casefold()
