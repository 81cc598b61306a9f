"""Requests to an agent: a short reply that begins with a no and grants nothing refuses, whatever is in the way."""

from __future__ import annotations

import re

from .refusal_patterns import any_of
from .refusal_verdicts import INSTRUCTS
from .sieve import Sieve

SHORT = 60
"""Words of a reply that only answers a request."""
IF = re.compile(r"(?:^|, )(?:if|when|unless|in case|should) (?!i\b|we\b)[^,.;]*,?")
"""A condition, in which nobody refuses."""
OFFERS = re.compile(
    r"\b(?:but|instead,?) (?:i|we)(?:'ve|'ll| have| will| can)\b|\b(?:i|we)(?:'ve| have)(?: \w+)? (?!checked|look"
    r"|review|conclu|spoke|ask|decid|refund(?!ed)|had)(?:\w+ed|sent|put|made|taken)\b|^(?:fixed|good news|extended"
    r"|cancelled|changed|moved|booked|updated|removed|added|sent)\b|^(?:i|we)(?:'ll| will) (?!not|never|have|need"
    r"|keep|leave|pass|be unable)"
)
"""What grants something after all."""
_DEEDS = (
    r"(?:waived|refunded|sent|booked|cancelled|changed|added|removed|updated|extended|moved|credited|activated|unlocked"
    r"|unblocked|reset|fixed|upgraded|issued|applied|made|placed|ordered|put|reserved|deleted|arranged|switched"
    r"|corrected"
    r"|enabled|transferred|resent|scheduled|reopened|adjusted|processed|matched|raised|lowered|installed|restored"
    r"|redirected|confirmed|registered|replaced|merged|set)"
)
DONE = re.compile(
    rf"(?:(?:sure|yes|certainly|of course|done|thank you|thanks)[,.:!] )?(?:(?:i|we)(?:'ve| have) (?:\w+ )?{_DEEDS}\b"
    rf"|(?:your|the|it|that|this|both|all)\b(?: [\w-]+){{0,4}}?(?:'s| is| are| has| have)(?: now| already"
    rf"| been){{0,3}} (?!reserved for (?!you)){_DEEDS}\b"
    rf"|(?:it|they|that)(?:'s|'re| is| are) (?:on (?:its|their|the) way|yours)\b|{_DEEDS}$|you're (?:now )?(?:booked"
    rf"|in|on|back)\b)"
)
"""What was asked for is done."""
_FULFILLED = re.compile(
    rf"\b(?:i|we)(?:'ve| have) (?:\w+ )?(?:{_DEEDS}|taken|given)\b|\b(?:has|have|'s) (?:now |already )?been {_DEEDS}\b"
)
_WISHES = re.compile(
    r"(?:(?:please|just|and|so) )*(?:(?:can|could|may|would|will) (?:i|we|you) (?:please |just )*|i(?:'d"
    r"| would) like to |i (?:want"
    r"|need) to )?(?:send|get|have|keep|bring|change|move|cancel|refund|book|ship|raise|add|remove|open|reset|unlock"
    r"|unblock|put|waive"
    r"|extend|deliver|upgrade|transfer|exchange|replace|return|order|delete|close|reserve|print|install|release|hand"
    r"|switch"
    r"|reconnect|compensate|seat|sell|insure|swap|pay|reverse|merge|activate|let|hold)\b|i(?:'d like| would like"
    r"| want| need) (?:an? |the |my )"
)
"""How one asks an agent to do something."""
_SAY = re.compile(r"(?:(?:please|just) )*(?:(?:can|could|would|will) you )?(?:give|tell|show|read)\b")
"""How one asks anybody, an agent too."""
_AGENT = re.compile(r"\b(?:we|us|our|afraid|sorry|unfortunately|sadly)\b")
_POLITE = re.compile(
    r"(?:congratulations|thank|thanks|i see|i (?:have|'ve) |we(?:'ve| have) (?:looked|checked|reviewed))\b"
)
_NEEDLESS = re.compile(
    r"\byou (?:do not|don't|won't|will not|needn't|need not)\b[^,.;]*|(?:^|[,;:] )(?:please )?(?:do not|don't"
    r"|never) [^,.;]*"
)
"""What one need not or should not do."""
_GRANTED = re.compile(
    r"\b(?:you|i|we)(?:'ll| can| may| will| could|'ve| have)\b|\b(?:yes|sure|done|fine|course|welcome|gladly"
    r"|certainly|happy)\b"
    rf"|\b{_DEEDS}\b"
)
"""What grants something in front of a no."""
NAY = Sieve(
    any_of(
        r"\b(?:not (?!only\b)|never|nobody|none|nothing|neither|cannot|unable)\b|n't\b",
        r"\bno (?!problem|worries|matter|need|charge|extra|cost|trouble|additional|later|doubt)\w+",
        r"\b(?:sadly|unfortunately|regrettably|afraid)\b",
        r"\bat most\b|\bout of (?:production|stock)\b|\bare (?:all )?taken\b|\bat (?:your|his|her"
        r"|their) own (?:expense|cost)\b",
        r"\b(?:sold out|discontinued|expired|exhausted|impossible|confidential|out of stock|prohibited|forbidden)\b",
        r"\bonly\b(?! need)",
        r"\b(?:above|over|beyond|below|outside|exceeds?|(?:less|more|longer|later) than) (?:the|our|your)\b",
    )
)
"""What says no to a request, where nothing in front of it grants it."""


def withholds(told: list[str], question: str) -> bool:
    """Whether a short reply to a request begins with a no, whatever it is that is in the way."""
    wishes = re.split(r"(?<=[.!?,;]) ", question)
    said = any(map(_SAY.match, wishes)) and any(map(_AGENT.search, told))
    if not said and not any(map(_WISHES.match, wishes)):
        return False
    if sum(len(part.split()) for part in told) > SHORT:
        return False
    if any(INSTRUCTS.search(part) or _FULFILLED.search(part) or OFFERS.search(part) for part in told):
        return False
    first = told[1] if _POLITE.match(told[0]) and len(told) > 1 else told[0]
    first = _NEEDLESS.sub("", IF.sub("", first))
    nay = NAY.search(first)
    if first.startswith("you ") and "but you can" in first:
        return False
    return nay is not None and _GRANTED.search(first[: nay.start()]) is None and DONE.match(first) is None
