"""Names of people that a reply addresses or signs with: capitalised, in one of a few places, and no common word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from .found import Found

_TITLES = "Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Herr|Frau|Monsieur|Madame|Mme|Señora|Señor"
_TITLE = rf"(?-i:{_TITLES})\.?"
_WORD = r"[^\W\d_]+(?:['\-][^\W\d_]+)*"
_NAME = rf"((?:{_TITLE}[ ])?{_WORD}(?:[ ]{_WORD}){{0,2}})"
_GREETING = (
    r"dear|hi(?: there)?|hello(?: there)?|hey(?: there)?|good (?:morning|afternoon|evening|day)|greetings"
    r"|welcome(?: back)?|thank you(?: (?:very|so) much)?|thanks(?: a lot| so much)?|many thanks|sorry|apologies|gladly"
    r"|certainly|of course|sure|congratulations|goodbye|bye|hallo|lieber?|guten (?:tag|morgen|abend)|sehr geehrter?"
    r"|danke|bonjour|ch[eè]re?|merci|hola|estimad[oa]|gracias|ciao|gentile|grazie|buongiorno|ol[aá]|prezad[oa]|hej"
    r"|salut|здравствуйте|привет|добр(?:ый день|ое утро|ый вечер)|уважаем(?:ый|ая)|дорог(?:ой|ая)|спасибо"
)
_COURTEOUS = (
    r"hi|hello|hey|dear|morning|afternoon|evening|sorry|apolog\w+|thanks?|welcome|gladly|certainly|sure|of course"
    r"|happy|glad|understand|patience|care|day|unfortunately|however|yes|no|okay|ok|great|well"
)
_CLAUSE = r"we|i|i'm|i've|i'll|i'd|you|your|our|my|it|this|that|there|thank|thanks|sorry|please|let|unfortunately"
_SIGN_OFF = (
    r"regards|wishes|best(?=,?[ ]*\n)|all the best|take care|warmly|respectfully|sincerely|faithfully|yours|cheers"
    r"|thanks|thank you"
    r"|gr[uü](?:ss|ß)e?n?|danke|cordialement|merci|saludos?|atentamente|gracias|saluti|grazie|atenciosamente|cumprimentos"
    r"|obrigad[oa]|groet(?:en)?|pozdrawiam|hälsningar|hilsen|с уважением"
)
_ADVERB = r"(?!(?:emi|sal|kel|mol|bil|pol|li|lil|hol|car|bever|kimber)ly,)[^\W\d_]+ly,"
_AHEAD, _PAST = r"(?<![^\W_])", r"(?![^\W_])"

_PLACES = tuple(
    (re.compile(pattern, re.I), whole)
    for pattern, whole in (
        (rf"{_AHEAD}(?:{_GREETING})[,:]?[ ]{_NAME}", False),
        (
            rf"{_AHEAD}(?:{_GREETING})[,:]?[ ]{_WORD}(?:[ ]{_WORD})?[ ](?:and|&|und|et|y)[ ]{_NAME}(?=[,!.:;\n]|\s*$)",
            True,
        ),
        (rf"{_AHEAD}(?:i'm|i am|this is) {_NAME} (?:from|with|at|of) ", False),
        (rf"{_AHEAD}(?=(?:{_TITLE})[ ]){_NAME}", False),
        (rf"{_AHEAD}(?:{_COURTEOUS}){_PAST}[^.!?\n,]{{0,120}}, {_NAME}(?=[.,;!?]|\s*$)", True),
        (rf"(?:\A\W*|[.!?]\s+)(?!{_ADVERB}){_NAME}, (?:{_CLAUSE}){_PAST}", True),
        (rf"{_AHEAD}my name is {_NAME}", False),
        (rf"{_AHEAD}(?:{_SIGN_OFF}),?\s+{_NAME}\W*\Z", True),
    )
)
"""(where a name stands, whether every word there must be a part of it)"""

_GROUP_WORDS = "team support service services desk care customer customers client clients department"
_COMMON_WORDS = """
a again all alright absolutely agreed also an and any anyone anybody apologies as at back because besides best but
buyer by cheers colleague colleagues company congratulations dear delivery do does done either everybody everyone
everything excellent first folks for friend friends from gentleman gentlemen gladly good great greetings guest guests
guys happy hello here hence hey hi how however i i'd i'll i'm i've if in indeed instead is it it's kind ladies lady let
let's ma'am madam many may maybe me meanwhile member members moreover much my next no not noted now of off oh ok okay
on once one or order orders otherwise our ours parcel partner perfect perhaps please reader refund refunds regards
returns right same shopper sincerely sir sirs so some somebody someone sorry still subscriber sure thank thanks that
that's the their them then there therefore these they this those thus to today tomorrow tonight too traveller under
understood unfortunately until up user users valued very visitor warm we we'd we'll we're we've welcome well what when
where which while who why will wish with yes yesterday yet you you're your yours inc ltd llc gmbh co morning afternoon
evening day night weekend week monday tuesday wednesday thursday friday saturday sunday january february march april
june july august september october november december
kunde kundin kunden zusammen damen herren ihr ihre sie wir dass das die der für
cliente clientes equipo todos tous toutes por para su pour votre notre
"""
_GROUPS = frozenset(_GROUP_WORDS.split())
"""With one of these it is no person's name: "Acme Support"."""
_UNFINISHED = "a an and as at because by for from if in is of or our the their to with your"
_NEVER_LAST = frozenset(_UNFINISHED.split())
_NO_NAMES = _GROUPS | frozenset(_COMMON_WORDS.split())


def words_of(text: str) -> Iterator[str]:
    """Every word of a ``plain`` text, case-folded and without accents."""
    return (_bare(word) for word in re.findall(r"[^\W\d_]+", text))


def _bare(word: str) -> str:
    spelled = unicodedata.normalize("NFKD", word.casefold())
    return "".join(char for char in spelled if not unicodedata.combining(char))


_MARKS = re.compile(r"[*`]+|(?<![^\W_])_+(?=[^\W_])|(?<=[^\W_])_+(?![^\W_])")


def names(text: str) -> Iterator[Found]:
    """Names after a greeting, thanks or an apology, after a title, where a sentence addresses somebody, after "my name
    is" and under the sign-off of a ``plain`` text. The key is the tuple of its words; as written, of a word that is no
    name."""
    text = _MARKS.sub("", text)
    for place, whole in _PLACES:
        start = 0
        while match := place.search(text, start):
            start = max(match.start(1), start + 1)
            phrase = re.sub(rf"^{_TITLE} ", "", match[1])
            parts = _name_words(phrase)
            if not parts and _is_left_over(match[1], text[match.end(1) :]):
                yield Found(match[1], match.span(1), (match[1],))
            elif parts and not (whole and len(parts) < len(phrase.split(" "))):
                key = tuple(word for part in parts for word in words_of(part))
                yield Found(" ".join(parts), match.span(1), key)


def _is_left_over(phrase: str, rest: str) -> bool:
    """Whether what stands in a name's place is a word that cannot end a phrase: "Sorry, To." is a name cut short."""
    return phrase.istitle() and phrase.casefold() in _NEVER_LAST and re.match(r"\s*(?:[.,;!?]|\Z)", rest) is not None


def _name_words(phrase: str) -> list[str]:
    """The leading words that are capitalised and not known otherwise; none where a group is addressed."""
    given, parts = phrase.split(" "), []
    if any(word.casefold() in _GROUPS for word in given):
        return []
    for word in given:
        bare = re.sub(r"'s$", "", word)
        if not bare[0].isupper() or bare.casefold() in _NO_NAMES:
            break
        parts.append(bare)
    return parts
