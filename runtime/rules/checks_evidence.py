"""Rule kinds on what a reply rests upon and how it speaks: citations, invention, tools, refusal, language, tone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from .emoji import EMOJI
from .finders import FINDERS, MIN_DIGITS, Evidence, first_invented
from .kinds import MUST, MUST_NOT, Args, Finding, OneOrMore, Regex, kind, listed
from .language import LANGUAGES, is_in
from .refusal import refuses
from .text import squeeze, word_pattern
from .turn import Reply

_QUOTE = re.compile(r'"([^"]{1,2000})"|\u300c([^\u300c\u300d]{1,2000})\u300d')
_MARK = re.compile(r"(?<![-*+] )[\[\u3010]\^?\s*([^\[\]\u3010\u3011\n]{1,200}?)\s*[\]\u3011](\()?")
_SOURCE = re.compile(r"^(?:see|sources?|refs?|references?|docs?|documents?|quellen?)(?::\s*|\s+)", re.I)
_NAME = re.compile(r"[A-Za-z0-9][\w.:\-]*")
_LEFT_OUT = re.compile(r"\s*\[?\.\.\.\]?\s*")


class CiteArgs(Args):
    """``cite: true`` or what is wanted of the citations."""

    short: ClassVar[Any] = Literal[True]
    min: Annotated[int, Field(ge=0)] = 1
    """At least so many different citations."""
    quote: bool = False
    """At least one passage in double quotation marks, and each such passage of 3 words or more is in a cited source."""
    pattern: Regex = None
    """What an id looks like where the system prompt names sources otherwise than ``[id] text``."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {} if value is True else value


@kind("cite", MUST)
def cite(reply: Reply, spec: CiteArgs) -> Finding:
    """At least ``min`` citations, each of a source that was retrieved or stands in the system prompt.

    Citations are the contract's ``citations`` list, or ``[id]`` marks in plain text.
    """
    known = {squeeze(name): text for name, text in reply.turn.documents.items()}
    if spec.pattern is not None:
        known |= {squeeze(m[0]): "" for m in spec.pattern.finditer(reply.turn.briefing)}
    cited = dict.fromkeys(_citations(reply, known))
    invented = [name for name in cited if name not in known]
    if invented:
        return False, f"cites {invented[0]!r}, which is not among the sources"
    if len(cited) < spec.min:
        return False, f"{len(cited)} citations (at least {spec.min})"
    return _quotes_found(reply, [known[name] for name in cited]) if spec.quote else (True, "cites known sources")


def _citations(reply: Reply, known: Mapping[str, str]) -> list[str]:
    """The ids that are cited, ``[K7]`` or ``[K7, K8]``; the text of a link is one only if it is known."""
    listed_ids = (reply.fields or {}).get("citations")
    if isinstance(listed_ids, list):
        return [squeeze(name) for name in listed_ids]
    found = []
    for mark in _MARK.finditer(reply.plain):
        ids = re.split(r"\s*[,;]\s*", _SOURCE.sub("", mark[1]))
        if all(_NAME.fullmatch(one) for one in ids) and (not mark[2] or squeeze(mark[1]) in known):
            found += [squeeze(one) for one in ids]
    return found


def _quotes_found(reply: Reply, texts: list[str]) -> Finding:
    found = (match[1] or match[2] for match in _QUOTE.finditer(reply.shown))
    quotes = [squeeze(quote).strip(" .,;:!?") for quote in found]
    sources = [squeeze(text) for text in texts]
    if not quotes:
        return False, "quotes nothing"
    absent = next((q for q in quotes if len(q.split()) >= 3 and not any(_holds(text, q) for text in sources)), None)
    real = any(_holds(text, q) for q in quotes for text in sources)
    if absent or not real:
        return False, f"the quote {(absent or quotes[0])[:40]!r} is not in a cited source"
    return True, "the quotes are in the sources"


def _holds(source: str, quote: str) -> bool:
    """Whether the quote stands in the source, at word boundaries; "..." in it stands for what was left out."""
    at = 0
    for part in filter(None, _LEFT_OUT.split(quote)):
        match = word_pattern([part.strip(" .,;:!?") or part]).search(source, at)
        if match is None:
            return False
        at = match.end()
    return at > 0


def _finders(value: Any) -> list[str]:
    unknown = [name for name in listed(value) if name not in FINDERS]
    if unknown:
        raise ValueError(f"unknown finder {unknown[0]!r} (known: {', '.join(sorted(FINDERS))})")
    return list(listed(value))


FinderName = Annotated[str, Field(json_schema_extra={"enum": sorted(FINDERS)})]


class InventsArgs(Args):
    """A list of finders, or what is looked for in detail."""

    short: ClassVar[Any] = FinderName | list[FinderName]
    find: Annotated[Any, PlainValidator(_finders, FinderName | list[FinderName])] = Field(default_factory=list)
    """Of amounts, dates, emails, links, names, numbers, percentages, phones and times."""
    patterns: Annotated[list[Regex], BeforeValidator(listed, str | list[str])] = Field(default_factory=list)
    """Expressions of your own: what they find, or their first group if they have one, must stand in the evidence."""
    min_digits: Annotated[int, Field(ge=2)] = MIN_DIGITS
    """From how many digits on a plain number counts."""
    allow: OneOrMore | None = None
    """What may be named at any time, such as your own address."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"find": value} if isinstance(value, str | list) else value

    @model_validator(mode="after")
    def _something(self) -> InventsArgs:
        if not self.find and not self.patterns:
            raise ValueError("give find, patterns or both")
        return self


@kind("invents", MUST_NOT)
def invents(reply: Reply, spec: InventsArgs) -> Finding:
    """Something is named that stands neither in the conversation nor in the facts or the sources, in any spelling."""
    evidence = Evidence("\n".join([reply.turn.evidence, *(spec.allow or ())]))
    for text in reply.free_texts:
        new = first_invented(text, evidence, spec.find, spec.min_digits, spec.patterns)
        if new:
            return True, f"{new} is not in the conversation, the facts or the sources"
    return False, "names nothing new"


@kind("tool_order", MUST, needs="tools")
def tool_order(reply: Reply, names: Annotated[list[str], Field(min_length=2)]) -> Finding:
    """The contract's ``tools`` holds all of these in this order; others may stand between."""
    rest = iter((reply.fields or {})["tools"])
    lacking = next((name for name in names if name not in rest), None)
    return lacking is None, f"{lacking!r} is missing or out of order"


@kind("refuse")
def refuse(reply: Reply, wanted: Literal[True]) -> Finding:
    """The reply refuses: ``action: refuse`` where the contract has it, otherwise a phrase of refusal in the text."""
    action = (reply.fields or {}).get("action")
    if isinstance(action, str) and "refuse" in reply.actions:
        return action == "refuse", f"action is {action!r}"
    refused = refuses(reply.plain, reply.turn.user)
    return refused, "refuses" if refused else "does not refuse"


def _languages(value: Any) -> tuple[str, ...]:
    codes = tuple(listed(value))
    unknown = [code for code in codes if code not in LANGUAGES]
    if unknown or not codes:
        raise ValueError(
            f"unknown language {unknown[0] if unknown else value!r} (known: {', '.join(sorted(LANGUAGES))})"
        )
    return codes


Code = Annotated[str, Field(json_schema_extra={"enum": sorted(LANGUAGES)})]


Codes = Annotated[Any, PlainValidator(_languages, Code | list[Code])]


@kind("language", MUST)
def language(reply: Reply, codes: Codes) -> Finding:
    """The text is in one of the languages, judged by its script and its commonest words; "OK." is in any."""
    return any(is_in(reply.plain, code) for code in codes), f"not in {' or '.join(codes)}"


@kind("language", MUST_NOT)
def shown_language(reply: Reply, codes: Codes) -> Finding:
    """The text has words of one of the languages, and no more of another."""
    hit = next((code for code in codes if is_in(reply.plain, code, doubt=False)), None)
    return hit is not None, f"is in {hit}"


_POLITE = word_pattern(
    ["please", "thank you", "thanks", "sorry", "apologise", "apologize", "apologies", "happy to", "glad to", "gladly",
     "welcome", "appreciate", "appreciated", "kindly", "understand", "pleased to", "pleasure", "of course", "certainly",
     "danke", "dank", "bitte", "gern", "gerne", "entschuldigung", "entschuldigen sie", "merci", "s'il vous plaît",
     "s'il te plaît", "désolé", "désolée", "excusez", "volontiers", "gracias", "por favor", "lo siento", "disculpe",
     "con gusto", "grazie", "per favore", "prego", "scusi", "mi dispiace", "obrigado", "obrigada", "desculpe",
     "bedankt", "alstublieft", "tack", "takk", "kiitos", "dziękuję", "proszę", "děkuji", "prosím", "köszönöm",
     "kérem", "mulțumesc", "vă rog", "teşekkür", "lütfen", "спасибо", "пожалуйста", "извините", "дякую", "ευχαριστώ",
     "παρακαλώ", "謝謝", "谢谢", "请", "抱歉", "ありがとう", "申し訳", "ください", "감사", "죄송",
     "شكرا", "धन्यवाद", "कृपया"]
)  # fmt: skip
_RUDE = word_pattern(
    ["you fool", "you fools", "dumbass", "asshole", "bastard", "bullshit", "fuck off", "piss off",
     "your own fault", "are you deaf", "are you blind", "are you dense", "sod off", "jackass", "stupid",
     "idiot", "idiots", "idiotic", "shut up", "dumb", "moron", "morons", "nonsense", "ridiculous",
     "calm down", "your fault", "stop whining", "not my problem", "not our problem", "deal with it", "get lost",
     "you people", "pathetic", "go to hell", "screw you", "loser", "imbecile", "dumm", "dummkopf", "blöd",
     "halt den mund", "halt die klappe", "arschloch", "stupide", "imbécile", "tais-toi", "idiota", "estúpido",
     "cállate", "stupido"]
)  # fmt: skip
_SHRUG = re.compile(r"(?:^|[.!?,] )(?:whatever(?: you say)?|get a life|grow up)(?:[.!]|$)|^whatever, ")
"""Rude where the sentence ends behind it."""
_NOT_RUDE = re.compile(
    r"\bdumb(?:[ -]?waiters?|[ -]?bells?|struck)\b|\bshut up (?:shop|the (?:house|shop|store))\b|\bno-nonsense\b"
    r"|\bnot your (?:own )?fault\b"
)
"""Rude words that mean something else."""
_CALLS = re.compile("!(?![=\\[])|[\u2755\u2757]")
"""What exclaims; != and the mark of a picture do not."""
_ACRONYMS = frozenset(
    ["ASAP", "ASCII", "BIOS", "HDMI", "HTML", "HTTP", "HTTPS", "IBAN", "IMEI", "ISBN", "JPEG", "JSON", "NASA", "NATO",
     "NTSC", "PDFS", "PSD2", "SEPA", "SMTP", "UNESCO", "UTF8", "VOIP", "WLAN", "YAML"]
)  # fmt: skip
_TWO_CAPITALS = re.compile("[A-Z][A-Z]")
_CAPITALS = re.compile(r"[^\W\d_a-z]{2,}(?: [^\W\d_a-z]{2,})+")


def _not_shouting(reply: Reply) -> bool:
    """Neither two long words in capitals nor a run of capitals that is a sentence, nor two marks in a row."""
    if reply.plain.isascii() and not _TWO_CAPITALS.search(reply.plain):
        return "!!" not in reply.plain
    loud = [word for word in reply.words if len(word) >= 4 and word.isalpha() and word.isupper()]
    runs = [run for run in _CAPITALS.findall(reply.plain) if run.isupper() and len(run) > 10]
    return sum(word not in _ACRONYMS for word in loud) < 2 and not runs and "!!" not in reply.plain


def _rude(reply: Reply) -> bool:
    view = reply.views[-1]
    if _SHRUG.search(view):
        return True
    return _RUDE.search(view) is not None and _RUDE.search(_NOT_RUDE.sub(" ", view)) is not None


_TONES: dict[str, Callable[[Reply], bool]] = {
    "calm": lambda reply: _CALLS.search(reply.plain) is None,
    "no_emoji": lambda reply: reply.text.isascii() or EMOJI.search(reply.text) is None,
    "no_shouting": _not_shouting,
    "not_rude": lambda reply: not _rude(reply),
    "polite": lambda reply: _POLITE.search(reply.views[-1]) is not None and not _rude(reply),
}
Tone = Literal["calm", "no_emoji", "no_shouting", "not_rude", "polite"]


@kind("tone", MUST)
def tone(
    reply: Reply, wanted: Annotated[list[Tone], BeforeValidator(listed, Tone | list[Tone]), Field(min_length=1)]
) -> Finding:
    """Every one of: polite (a courteous word, no rude one), not_rude, no_shouting, calm (no !), no_emoji."""
    missed = next((name for name in wanted if not _TONES[name](reply)), None)
    return missed is None, f"is not {missed}".replace("is not no_", "has ").replace("is not not_rude", "is rude")
