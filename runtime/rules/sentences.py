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
    (?=[.!?\u061f\u06d4\u0964\u0965\u1362\u1367\u17d4\u104b\u0589\u0f0d\u0f0e;\u3002\uff61\n:])  # the first of each
    (?:
      (?:(?<![.!?])[.!?\u061f\u06d4\u0964\u0965\u1362\u1367\u17d4\u104b\u0589\u0f0d\u0f0e]+
         | (?<=[\u0370-\u03ff\u1f00-\u1fff]);)  # what Greek asks with
      [{_CLOSERS}]*(?:[ ]?\[\^?[^\[\]\n]{{1,20}}\](?!\())*(?=\s|$)
    | [\u3002!?\uff61]*\u3002[\u3002!?\uff61{_CLOSERS}]*  # Chinese and Japanese write no space behind
    | [\u061f\u06d4\u0964\u0965\u1362\u1367\u17d4\u104b\u0589]+(?=[^\W\d_])
    | [!?]+(?:["'\u300d\u300f]*(?=[\u3040-\u30ff\u3400-\u9fff])|["\u300d\u300f]?(?=["\u300c\u300e][\u3040-\u9fff]))
    | (?<=[^\W\d_])[!?]+(?=[A-Z\u00c0-\u00de])  # the space was forgotten
    | (?<=[a-z][a-z])\.(?=[A-Z][a-z']*[ ,])
    | (?<=[^\s]\s)[:;]'?-?[()DPp/|](?=\s+[A-Z\u00c0-\u00de])  # a smiley
    | \n\s*\n
    | (?<=```)\n
    | \n(?=[ \t]*{_ENTRY_MARK}[ \t]+\S)  # the next entry of a list
    )
    """,
    re.X,
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.S)
_ENTRY = re.compile(rf"(?:^|\n)[ \t]*[*_]*{_NUMERAL}$")
_ASKED = re.compile(
    r"(?:I|[A-Z]\w+) (?:asked|said|cried|wondered|replied|exclaimed|shouted|whispered|called|thought)\b"
)
_OPENS = re.compile(r"\s*(?:after|around|at|before|between|by|from|on|until) (?:\S+ ){0,3}\S+$", re.I)
"""A sentence that has not said anything yet: At 5 a.m."""
_RANKED = frozenset("das die der des ein eine einem einen einer ihr ihre jede jeder jedes unser unsere".split())  # noqa: SIM905
"""What stands in front of an ordinal of German: die 7. Versammlung."""
_SAID_EAST = re.compile("[\u4e00-\u9fff]{1,4}[\u8bf4\u8aaa\u95ee\u554f\u9053]")
_ELIDED = re.compile(r"^(?:[ldn]|qu|dell|nell|all|sull)'(?=\w)")  # l'art. 3
_DAY = re.compile(r"\d\d?\.\d\d?")
_DOTTED = re.compile(r"[^\W\d_]{1,2}(?:\.[^\W\d_]{1,3})+")
_ABBREVIATIONS = frozenset(
    """
    abzgl adm allg anm apdo appt aprox arch arq asst av avda avv bijv bl.a blz bspw bzgl bzw ca capt cf cfr cie col
    comm cía d.h dept det dhr dipl dir dl dott dpto dr dra dras drs e.g ee eg egr ehem eig ej eng env esim ev evang
    evtl exkl exma exmo expte f.eks fa fr geb gegr gem gen geom ggf godz gov gral hab hon hr hrn hrsg i.e ie inc
    incl ing inkl insb inż jhd jr kath lic lt ltda mah maj max med mevr mgr mlle mlles mme mmes monatl mr mrs ms mt
    mwst např np p.ej p.p.s p.s pres prof profa puh rep rev s.a sen sgt sig sigg sog sogen sok spett spp sr sra sras
    srta st sta ste str t.ex tgl tlf tzn tzv tzw tägl tél u.a ud uds ul usf vd vds vgl viz vs wg ww z.b z.t zb zgl
    zt zzgl örn акад вул корп млн млрд напр обл пр проф св см ср стр тис тов тыс ул डॉ प्रो श्री
    """.split()  # noqa: SIM905
)
_BEFORE_NUMBERS = frozenset(
    """
    abb abr abs ago apr apt art aug bd bl cap ch chap dec dez dic déc ed ene eq eqs exp feb fig figs févr id jan
    janv juil jul jun kap kl mar n no nos nov nr nro num n° nó núm oct okt ott p pag para pos pp pág ref rm s sec
    sect sep sept tab tel ver vol zz τηλ гл рис стр табл тел नं रु
    """.split()  # noqa: SIM905
)
"""Abbreviations in front of a number; elsewhere they may be words (No.)."""
_BEFORE_SMALL = frozenset(
    """
    a.m aa apod approx atd ave bldg blvd bros cm co corp deg ecc est etc etc.pp ff fl ft hrs inc jr kg lb lbs ltd
    max mil min mins mm mo msg osv oz p.m qty rd sek sp sq stb std temp usw uu wk wks yd yds yr yrs дн коп мес мин
    нед руб сек шт
    """.split()  # noqa: SIM905
)
"""What ends a sentence where a capital follows."""
_BEFORE_HOURS = frozenset(
    """
    monday tuesday wednesday thursday friday saturday sunday mon tue wed thu fri sat sun january february march
    april june july august september october november december est edt cst cdt mst mdt pst pdt gmt utc bst cet cest
    ist
    """.split()  # noqa: SIM905
)
"""What may follow a.m. and p.m. within a sentence."""
_DAYS = frozenset("Di Do Fri Mi Mo Mon Sa Sat So Sun Thu Thurs Tue Tues Wed".split())  # noqa: SIM905
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
    januar jänner februar märz april mai juni juli august september oktober november dezember jan feb mär apr jun
    jul aug sep sept okt nov dez maj januari februari augusti advent auflage bundesliga fc geburtstag halbjahr jahr
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
    titled = "\u300a" in text
    for end in _END.finditer(text):
        inside = any(first < end.start() < last for first, last in code) or (titled and _in_title(text, end.start()))
        head = text[start : end.start()] if end.start() - start < 400 else f"- {text[end.start() - 400 : end.start()]}"
        if inside or _goes_on(head, end[0], text[end.end() : end.end() + 40]):
            continue
        found.append(text[start : end.end()])
        start = end.end()
    found.append(text[start:])
    return tuple(sentence.strip() for sentence in found if first_word(sentence))


def _in_title(text: str, place: int) -> bool:
    """Whether it is inside a Chinese book title."""
    near = max(0, place - 100)
    return text.rfind("\u300a", near, place) > text.rfind("\u300b", near, place)


def _goes_on(head: str, mark: str, tail: str) -> bool:
    """Whether the ``mark`` between ``head`` and ``tail`` ends no sentence."""
    after = tail.lstrip()
    small = after[:1].islower()
    if after[:2] in ('" ', "' ") and after[2:3].islower():
        return True  # French sets quotation marks apart
    stop = mark.rstrip("\"')]*_")
    if stop.strip(".") == "" and (len(stop) > 1 or head[-1:].isspace()):
        return small or after[:1] == "." or head[-1:] == "["  # I wait ... and wait
    if stop == ".":
        return (small and mark[-1] in "\"')") or _abbreviated(head, after, small)
    if mark[-1] in "\u300d\u300f":
        return after.startswith(("\u3068", "\u3063\u3066"))  # what was said, with the particle that quotes it
    asked = stop[-1:] in ("!", "?") and mark[-1] in "\"'"
    if asked and _SAID_EAST.match(after):
        return True
    return asked and (small or (head.lstrip()[:1] in ("'", '"') and _ASKED.match(after) is not None))  # "Why?" he asked


def _abbreviated(head: str, after: str, small: bool) -> bool:
    before = head.rsplit(None, 2)
    raw = before[-1] if before else ""
    if "-" in raw or "/" in raw:
        raw = re.split(r"(?<=\.)-|(?<=\d)/(?!.*/)", raw)[-1]  # Mon.-Fri., $5/mo.
    last = _ELIDED.sub("", raw.lstrip("(\"'[*_").casefold())
    number = after[:1].isdigit()
    entry = len(last) <= 4 and _ENTRY.search(head) is not None
    word = before[-2] if len(before) > 1 else ""  # in front of it
    if last.isdigit() and len(last) <= 2:
        return small or entry or _following(after) in _ORDERED or word.casefold() in _RANKED
    if small and _DAY.fullmatch(last):
        return True
    if last in ("a.m", "p.m") and _OPENS.match(head):
        return True
    if last in _BEFORE_SMALL or raw in _DAYS:
        return small or number or _following(after) in (_BEFORE_HOURS if last in ("a.m", "p.m") else _BEFORE_SMALL)
    if entry or last in _ABBREVIATIONS:
        return True
    if last in _BEFORE_NUMBERS and (number or len(last) > 1):
        return number or (small and len(before) > 1)
    if len(last) == 1 and (word[-1:].isdigit() or word[-1:] == ":"):
        return small  # 5 V, size: M
    if last == "i":  # i. d. R., Albert I. Jones
        return len(_following(after)) == 1 or (word.istitle() and _following(after) not in _STARTERS)
    if (len(last) == 1 and last.isalpha()) or _DOTTED.fullmatch(last):
        return small or _following(after) not in _STARTERS
    return small and len(last) > 1 and not last.strip("ivxlc")  # Ludwig XIV. went


def _following(after: str) -> str:
    return first_word(after).casefold()
