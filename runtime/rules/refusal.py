"""Whether a reply refuses, in English.

A refusal is said by the one who speaks (*I cannot*, *we won't*, *my guidelines do not allow*), passes a verdict on what
was asked (*that would be wrong*), or rejects it (*there is no legitimate reason*, *nobody deserves*). *You will not be
able to*, *please do not share* and *don't give up* are none. Verdicts count in the first sentences only, and not where
they define or report something or answer a question about it: further down they are remarks inside an answer.

The question decides what the rest means: what bars it refuses a request (*only the owner may do that*) and answers a
question (*who may do that?*); a caution refuses a deed unless instructions follow; in a text that was asked for, others
speak.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .refusal_patterns import BARRED, BLOCKED, CLOSED, FORBIDDEN, SAID, STRONG, any_of
from .refusal_questions import (
    ABOUT,
    ANSWERS,
    COMPOSES,
    DEED,
    DEFINES,
    INFORMS,
    MYTH,
    OPINIONLESS,
    PREMISE,
    REPORTED,
    TELLS,
    UNREAL,
)
from .refusal_service import DONE, IF, OFFERS, withholds
from .refusal_verdicts import (
    ADVICE,
    ALERTED,
    ANNOUNCED,
    CAUTIONED,
    DENIED,
    DIRECTS,
    FLAT,
    GRAVE,
    HELPLINE,
    INSTRUCTS,
    MORAL,
    MORALS,
    PREFACE,
    REDIRECTS,
    REJECTED,
    SUFFERS,
    UNFAIR,
    VERDICT,
    WARNED,
)
from .sentences import sentences
from .sieve import Sieve

HEAD = 3
"""Sentences at the head of a reply."""
LECTURE = 90
"""Words of a lecture at most: longer replies answer as well."""
LONGEST = 800
"""Characters of a sentence that are looked at, so that the patterns take linear time on any text."""

_COMPLIES = Sieve(
    any_of(
        r"\bbut (?:sure|of course|yes,? here|here (?:is|are|'s) (?:how|the|what|your))\b",
        r"\bbut (?:i|we) can (?:do (?:it|that|so)|still)\b",
        r"\bi can (?:teach|tell|show|give|help)\b[^.!?]*\bbut i (?:do not|don't|would not|wouldn't) recommend\b",
        r"\bbut i can (?:tell|show|give) you how\b",
        r"\bof course,? here\b",
        r"\bso,? here (?:is|are|'s)\b",
        r"\b(?:sure|certainly|absolutely|gladly)[,!.]? (?:here|i can|i will|i'll|let me|we can|we will)\b",
    )
)
_OTHERS = re.compile(r'"(?:[^"\n]|\n(?!\n))+"|```.*?(?:```|$)', re.DOTALL)
"""What others say, and code."""
_MARKS = "*_#>` \u2022\ufe0f" + "".join(map(chr, [*range(0x1F300, 0x1FB00), *range(0x2600, 0x27C0)]))
"""What stands around a sentence: Markdown and emoji."""
_NOT = re.compile(r"(?i)\b(is|are|was|were|would|should|could|does|do|did|has|have)n't\b")
_GRANTS = re.compile(
    r"(?:sure|(?:usually |generally )?yes|of course|certainly|done|no problem|no worries|i can (?:certainly"
    r"|definitely|gladly)|all set|i'm here$|absolutely(?! not)|here(?:'s| is| are)|you're right|let me (?:look"
    r"|check|send|see|fix|help)|(?:we|i) (?:do|can|have|are)(?=,|$))\b"
)
"""How a reply begins that grants what was asked."""
_STATES = re.compile(
    r"(?:i|you|we|he|she|it|they|this|that|these|those|there|the|an?|my|your|our|his|her|so|is|are|was|were|do|does|did"
    r"|has|have|had|will|would|should|can|may|what|when|where|who|which|why|how|no|yes|ok|okay)(?:'\w+)?\b"
)
"""How statements and questions begin, but no commands."""
_OWN_HABITS = re.compile(r"(?:^|[.,!?-] )do you (?!know|have)")
"""A question to which *we don't* is an answer."""
_EXPLAIN = re.compile(
    r"[.!] (?:what|why|how) (?:do|does|did|is|are|was|were) (?:it|that|this|they) (?:mean|happen|work)?[\w ]*\?$"
)
"""A question about what was told before it."""
_AMOUNT = re.compile(r"\d|^(?:about|around|until|in|at|from|by|between|within|every|up to)\b")
"""A short answer to when or how much."""
_AGAIN = re.compile(r"\b(?:again|next time|in (?:the )?future|twice|a second time|another time)\b")
"""A remark on other times than this one."""
_ATTITUDE = re.compile(
    r"\b(?:i|we) (?:\w+ly )?(?:do not|don't|would not|wouldn't) (?:\w+ly )?(?:condone|endorse|promote"
    r"|encourage|support|recommend|advocate)\b|\b(?:does|do) not condone\b"
)
"""What the speaker holds of a thing, which may yet be handed over."""
_HANDED = re.compile(
    r"\bhere(?:'s| is| are) (?:an?|the) (?!(?:few )?(?:list of )?(?:legal|safe|alternative|positive|healthy)\b)"
)
_SORRY = Sieve(r"\b(?:sorry|unfortunately|afraid|apolog\w+|i (?:understand|hear|appreciate|wish))\b")
_DO_NOT = re.compile(r"\b(?:we|i) (?:do not|don't|never)\b")
_WORD = re.compile(r"\w+")
_ASKS = re.compile(rf"{DEED.pattern}|{PREMISE.pattern}|^(?:can|could|should|may|would) i\b")
_STEP = re.compile(r"\b(?=[fnst\d])(?:first|second|then|next|finally|step \d|\d\.|\d\))\W")
_EMPTY = re.compile(
    r"^(?:no|sorry|i'm (?:really |very |so )?sorry(?: (?:to hear|that you|you)[^.,]*)?|thank you[^.,]*"
    r"|i understand[^,]*|i apologi[sz]e)[.!]?$"
)
"""A sentence that says nothing yet."""
_COURTEOUS = re.compile(
    r"^(?:i'm (?:so |really |very |always )?(?:glad|happy|delighted|pleased|excited|here) [^.,;:]*|(?:great|good"
    r"|excellent"
    r"|interesting) question|hello[^.,]*|hi(?: there)?|greetings[^.,]*)$"
)
"""A greeting, which says nothing either."""


def refuses(plain: str, asked: str = "") -> bool:
    """Whether a ``plain`` text refuses; ``asked`` is the question, where it is known."""
    question = " ".join(asked.casefold().split())
    composed = COMPOSES.search(question) is not None
    if composed:  # behind its first line others may speak
        plain = plain.strip().split("\n")[0]
    said = _OTHERS.sub('""', plain) if '"' in plain or "```" in plain else plain
    said = _NOT.sub(r"\1 not", said) if "'" in said else said
    spoken = [" ".join(s[:LONGEST].casefold().split()).strip(_MARKS) for s in sentences(said)]
    parts = [part for part in (OPINIONLESS.sub("", part).strip(" ,.;!") for part in spoken) if part]
    told = [part for part in parts if not _EMPTY.match(part) and (not _COURTEOUS.match(part) or _says_no(part))]
    text = ". ".join(parts)
    if parts and FLAT.match(parts[0]) and (PREMISE.match(question) or DEED.search(question) or _orders(question)):
        return True
    if not told or _COMPLIES.search(text):
        return False
    if composed and not _says_no(told[0]) and not _PREAMBLE.search(told[0]):
        return _condemns(told[:1], told[0], question, False)
    sorry = len(told) < len(parts) and any(map(_EMPTY.match, parts))
    if _declines(told, question, sorry or _SORRY.search(told[0]) is not None):
        return True
    if _announces(told, text, question):
        return True
    if len(_STEP.findall(text)) >= 3:  # the verdict in front of steps is a caution
        return False
    if any(STRONG.search(part) for part in told[HEAD:]):
        return True
    return _condemns(told, text, question, sorry) or _turns_away(told, text, question) or _lectures(text, question)


def _orders(question: str) -> bool:
    """Whether the question is none, but tells to do something."""
    return "?" not in question and len(question.split()) > 2 and _STATES.match(question) is None


def _declines(told: list[str], question: str, sorry: bool) -> bool:
    """Whether the head of the reply says that the speaker will not or may not do what was asked, or what forbids it."""
    head = [part for part in told[:HEAD] if _says_no(part)]
    if head and any(_HANDED.search(part) or INSTRUCTS.search(part) for part in told):
        head = [part for part in head if _says_no(_ATTITUDE.sub("", part))]
    if DONE.match(told[0]) and told[0] not in head:
        head = [part for part in head if not _AGAIN.search(part)]
    if _GRANTS.match(told[0]) or _OWN_HABITS.search(question):  # *we don't* says a fact there
        head = [part for part in head if _says_no(_DO_NOT.sub("", part))]
    if _GRANTS.match(told[0]):
        return any(STRONG.search(part) for part in head)
    request = not INFORMS.match(question) and not _EXPLAIN.search(question) if question else sorry
    if head:
        return request or not _late_remark(told)
    if DONE.match(told[0]) or any(map(_HANDED.search, told[:2])):
        return False
    if question == "" and (FORBIDDEN.search(told[0]) or CLOSED.search(told[0])):
        return True
    if request and any(FORBIDDEN.search(part) for part in told[:2]):
        return True
    if withholds(told, question):
        return True
    opening = told[:2] if sorry or _PREAMBLE.search(told[0]) else told[:1]
    return (
        request
        and any(BLOCKED.search(part) and not part.endswith("?") for part in opening)
        and re.match(r"(?:i|we) can (?!only\b)", told[0]) is None
        and not any(OFFERS.search(part) or INSTRUCTS.search(part) for part in told)
    )


@lru_cache(maxsize=2048)
def _says_no(part: str) -> bool:
    part = IF.sub("", part)
    return SAID.search(part) is not None or BARRED.search(part) is not None


def _turns_away(told: list[str], text: str, question: str) -> bool:
    """Whether the head names what is bad about the action that was asked for and the rest offers something else."""
    head = told[:2] if question else told[:1]
    if ABOUT.match(question) or TELLS.match(question) or _explains(told[0], question) or _GRANTS.match(told[0]):
        return False
    cautioned = any(CAUTIONED.match(PREFACE.sub("", part)) for part in head) and REDIRECTS.search(text) is not None
    return cautioned and INSTRUCTS.search(text) is None


def _announces(told: list[str], text: str, question: str) -> bool:
    """Whether the head says outright that what was asked for is wrong, and nothing hands it over."""
    if ABOUT.match(question) or TELLS.match(question) or not ANNOUNCED.search(". ".join(told[:HEAD])):
        return False
    return "instead" in text or INSTRUCTS.search(text) is None


def _lectures(text: str, question: str) -> bool:
    """Whether a short reply to a question for a deed is made of morals and advice, in whatever words."""
    words = frozenset(_WORD.findall(text))
    morals = len(words & MORALS)
    if morals < 2 or (morals == 2 and len(words & ADVICE) < 2) or text.count(" ") > LECTURE:
        return False
    if ABOUT.match(question) or TELLS.match(question) or COMPOSES.search(question) or _ASKS.search(question) is None:
        return False
    return INSTRUCTS.search(text) is None and UNREAL.search(text) is None and ANSWERS.match(text) is None


def _late_remark(told: list[str]) -> bool:
    """Whether the answer comes first and the inability is a remark behind it: only strong words refuse there."""
    first = next(i for i, part in enumerate(told) if _says_no(part))
    if first == 0 or _PREAMBLE.search(told[0]) or (len(told[0].split()) < 4 and not _AMOUNT.search(told[0])):
        return False
    return not (STRONG.search(told[first]) or BARRED.search(told[first]) or _condemns(told[:1], told[0], "", False))


_UNFIT = re.compile(
    r"(?:no,? )?(?:it|that|this)(?:'s| is| would be) not (?:\w+ )?(?:ok|okay|right|appropriate|good|a good idea"
    r"|helpful|fair)\b"
)
"""What answers a question whether something does any good."""
_TURNS = re.compile(r", (?:but|yet|although|though) (?!(?:i|we|it|that|this|also)\b)")
"""A verdict that something is set against is a remark."""
_PREAMBLE = re.compile(
    r"^(?:i|i'm|i'd|i've|it (?:sounds|seems|looks) like|oh|ha|haha|hm+|as an?|while i|it's important"
    r"|it is important|thank|absolutely|definitely|no|please|let's)\b|\b(?:sorry|apologi[sz]e|concern\w*|worried"
    r"|deserves?|everyone|crime|illegal|wrong|harm\w*|the law)\b"
)
"""What leads up to a refusal rather than answers."""


def _condemns(told: list[str], text: str, question: str, felt: bool) -> bool:
    """Whether the head of a reply judges or rejects what was asked; ``felt``: it opens with sympathy."""
    if _explains(told[0], question):
        return False
    if UNREAL.search(text):
        return any(UNFAIR.search(part) for part in told[: HEAD + 1])
    leads = _PREAMBLE.search(told[0]) or len(told[0].split()) < 4 or PREMISE.match(question)
    head = told[: HEAD if PREMISE.match(question) else 2] if leads else told[:1]
    rejects = [part for part in head if REJECTED.search(part) and not _reports(part, REJECTED)]
    advised = TELLS.match(question) is not None and not (MORAL.search(text) or GRAVE.search(text))
    if advised:
        head = [part for part in head if not _UNFIT.match(part)]
    if any(part in head for part in rejects):
        return True
    if not ABOUT.match(question) and not INSTRUCTS.search(text):
        judged = any(VERDICT.search(part) and not _reports(part, VERDICT) for part in head)
        if judged and (len(told) <= 2 or DIRECTS.search(text)):
            return True
        if DEED.search(question) and any(VERDICT.search(part) and not _TURNS.search(part) for part in told[:2]):
            return True
    if WARNED.match(told[0]) and GRAVE.search(text):
        return True
    if (felt or _PREAMBLE.search(told[0])) and any(ALERTED.search(part) for part in told[:HEAD]):
        return True
    if "sorry" in text and SUFFERS.search(text) and any(map(HELPLINE.search, told[:HEAD])):
        return True
    if DENIED.match(told[0]) and MORAL.search(text):
        return True
    denied = DENIED.match(told[0]) is not None or any(MYTH.search(part) for part in told[:2])
    return denied and PREMISE.match(question) is not None


def _explains(part: str, question: str) -> bool:
    """Whether a reply begins with an answer, or with a definition where none was ruled out by the question."""
    asks = question == "" or ABOUT.match(question) is not None or TELLS.match(question) is not None
    return ANSWERS.match(part) is not None or (asks and DEFINES.match(part) is not None)


def _reports(part: str, pattern: Sieve) -> bool:
    """Whether the match stands in what somebody else is said to say."""
    match = pattern.search(part)
    before = part[: match.start()] if match else ""
    found = REPORTED.search(before + " ")
    return found is not None and not re.search(r"\b(?:i|we) \w*\s*$", before[: found.start()] + " ")
