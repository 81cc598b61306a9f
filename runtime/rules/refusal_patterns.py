"""Patterns of what the speaker of an English reply will not, may not or cannot do, and of what bars a request.

They see case-folded sentences with single spaces; ``refusal.py`` says where in a reply each counts.
"""

from __future__ import annotations

from .sieve import Sieve


def any_of(*parts: str) -> str:
    """One of the patterns, which stand between spaces."""
    return "(?:" + "|".join(" ".join(part.split()) for part in parts) + ")"


_NOT = any_of(
    "cannot", "can not", "can't", "will not", "won't", "shall not", "shan't", "may not", "must not", "mustn't",
    "cannot and will not",
    "can only encourage",
)  # fmt: skip
_SPEAKER = any_of(
    "i", "we", "this assistant", "no one here",
    r"(?:our|the) (?:\w+ )?(?:team|agents?|staff|company|department|system|store|shop|office|hotel|restaurant"
    r"|bank)",
)  # fmt: skip
_AM = any_of("i am", "i'm", "we are", "we're")
_ADVERBS = r"(?:(?:\w+ly|also|therefore|just|simply|still|never|ever|in good conscience|at this (?:time|point)) ){0,2}"
_HARMLESS = any_of(
    "wait", "thank", "stress", r"emphasi[sz]e", "overstate", "imagine", "find", "see", "hear", "recall", "remember",
    "believe", "agree more", "claim", "help but", "be sure", "be certain", "be happier", "be more",
    "let (?:you|it|this|that) (?:down|go|wait|slip|happen)",
    "forget",
    "miss", "stop", "tell if", "tell whether", "tell from", "tell which", "say for", "say enough", "say whether",
    "say when", "say how",
    "say if", "get over", "afford", "keep you", "ask for", "deny", "locate", "detect", "read (?!out)", r"recogni[sz]e",
    "reach", r"apologi[sz]e", "promise (?!you a)", "guarantee", "predict",
    "wonder", "understand", "hang up", "pass you", "know", "explain (?:how|why) (?:that|this|it)", "make you",
    "lose", "go outside", "take long", "hide", "be long",
    "bite",
    r"(?:charge|bill|judge|disappoint|blame|ask|sell|bother|spam|call|contact|email)(?= (?:you|your|it|for|until"
    r"|again|before|any)\b|$|[,.;])",
    "all",
)  # fmt: skip
"""What nobody refuses by: I cannot thank you enough, we can't find your parcel."""
_LACKS = any_of(
    "able", "going", "in a position", "here", "willing", "comfortable",
    "designed", "programmed", "trained", "capable", "prepared", "supposed", "about to", "qualified", "licensed",
    "equipped", "in for", "up for", "at liberty", "free to", "inclined", "keen",
)  # fmt: skip
_SERVES = any_of(
    "help", "assist", "provide", "share", "give", "comply", "fulfil", "fulfill", "process", "support", "answer",
    "offer", "do", "grant", "complete", "reveal", "hand", "show", "sell",
    "read out", "accommodate", "disclose", "discuss", "generate", "create", "engage", "advise",
    "condone", "encourage", "endorse", "promote", "recommend", "write", "be able", "be comfortable", "be appropriate",
    "be (?:allowed|permitted|authori[sz]ed)", "feel", "want to", "participate", "explain", "describe", "tell you",
)  # fmt: skip
_SHUNS = any_of(
    "condone", "support", "encourage", "promote", "endorse", "engage in", "participate", "take part", "provide",
    "offer", "share", "give out", "give legal", "give medical", "give financial", "give advice", "give information",
    "disclose", "discuss", "assist", "help", "feel comfortable", "feel right", "generate", "create", "write", "produce",
    "deliver", "ship", "read out", "hand out", "pass on", "release", "reveal", "make exceptions", "accept", "allow",
    "have (?:the |any )?(?:ability|permission|authority|power|right|means|option|leeway|tools|possibility)",
    "recommend this", "rate", "rank", "judge", "comment on", "speculate", "take sides", "make fun", "joke about",
    "mock", "insult",
    "gossip", "role-?play", "play along", "impersonate", "swear", "target", r"take on (?:personas|roles)",
    "have access to",
    "have (?:any )?(?:personal|private) (?:information|data)", "have any information about a",
    "have (?:(?:any|that|this|such) )+(?:kind of |sort of |type of )?(?:information|data|knowledge|way of knowing)",
    r"do (?!not|n't|know|see|mind|have|need|want|charge)[\w-]+", "hand over", "give away", "deal with requests",
    "want to do (?:that|this)",
    r"(?:think|feel|believe) (?:that |it |this )*(?:'s|is|would be) (?:appropriate|right|ok|okay|a good idea"
    r"|ethical|acceptable|helpful|fair|responsible|kind|wise|safe|legal)",
    "think i should help",
    r"think \w+ing [^.!?]{2,60} (?:is|would be) (?:an? )?(?:kind|good|nice|right|fair|helpful|appropriate|ok|okay)",
)  # fmt: skip
SAID = Sieve(
    any_of(
        rf"\b{_SPEAKER} {_ADVERBS}{_NOT} {_ADVERBS}(?!{_HARMLESS}\b)\w+",
        rf"\b{_SPEAKER} {_ADVERBS}(?:could not|couldn't|would not|wouldn't) {_ADVERBS}(?:possibly"
        rf" )?(?!recommend){_SERVES}\b",
        rf"\b{_SPEAKER} {_ADVERBS}(?:would not|wouldn't|do not|don't|cannot|can't) {_ADVERBS}recommend (?:trying"
        rf"|attempting"
        r"|doing (?:so|it|that|this))\b",
        rf"\b{_SPEAKER} {_ADVERBS}(?:could not|couldn't) (?:in good conscience|possibly)\b",
        rf"\b(?:{_AM}|our (?:\w+ )?\w+ (?:is|are)) {_ADVERBS}not {_ADVERBS}{_LACKS}\b(?! to {_HARMLESS}\b)",
        rf"\b{_AM} {_ADVERBS}unable\b(?! to {_HARMLESS}\b)",
        rf"\b(?:{_AM}|our (?:\w+ )?\w+ (?:is|are)) {_ADVERBS}not {_ADVERBS}(?:allowed|permitted|authori[sz]ed)\b",
        rf"\b{_AM} in no position\b",
        rf"\b{_SPEAKER} (?:\w+ )?(?:believe|think|feel)(?: that)? (?:it(?:'s| is| would be)|we(?:'re| are)) (?:best"
        rf"|better|wiser"
        r"|kinder) (?:not to|to avoid|to refrain|to leave)\b",
        rf"\b{_AM} only (?:able|allowed|permitted|authori[sz]ed)\b",
        rf"\b{_AM} {any_of('unwilling', 'prohibited', 'forbidden', 'barred', 'restricted', 'uncomfortable')}\b",
        rf"\b{_SPEAKER}(?:'ll| will|'m going to| am going to|'re going to| are going to)? ?(?:(?:must|have to|need to"
        r"|would like to|shall) )?(?:(?:respectfully|politely|kindly) )?(?:decline|refuse|refrain"
        r"|turn (?:(?:this|that|it|you|your \w+) )?down)\b",
        rf"\b{_SPEAKER} (?:must|have to|am bound to) (?:[\w-]+ ){{0,7}}(?:decline|refuse|reject|deny)\b",
        rf"\b{_SPEAKER} (?:must|have to|will have to) say no\b",
        rf"\b{_SPEAKER} (?:can|could|will|am able to|are able to) no longer (?!{_HARMLESS}\b)\w+",
        rf"\b{_SPEAKER} (?:must|have to|need to|am required to|am bound to|'m bound to) (?:\w+ )?(?:adhere|abide"
        rf"|follow|comply|uphold"
        r"|obey|respect)\b[^.!?]{0,50}\b(?:guidelines?|polic(?:y|ies)|rules|laws?|standards|principles|values"
        r"|privacy)\b",
        r"\b(?:i|we)(?:'m| am|'re| are)? (?:only )?(?:here|able|happy|made|designed|built) to (?:help|assist|answer"
        r"|talk)\b[^.!?]*\bonly\b"
        r"|\b(?:i|we)(?:'m| am|'re| are)? only (?:here|able|made|designed|built) to\b",
        r"\bi(?:'ll| will)? keep (?:my|this|things|it|our|the) (?:\w+ )?(?:respectful|civil|clean|friendly|kind"
        r"|polite|safe)\b",
        r"\b(?:i|we)(?:'d| would) be (?:\w+ )?(?:happy|glad|delighted|pleased) to [^.!?]*\binstead\b",
        r"^let's (?!see|start|begin)[^.!?]*\binstead$",
        r"\blet's (?:talk about|discuss|move on to|change|turn to|focus on|stick to|keep to) (?:something"
        r"|the subject|the topic|another"
        r"|a different|other)\b",
        rf"\b{_SPEAKER} have no (?:access|authority|right|permission|way|knowledge|means|leeway"
        r"|say|influence|option|possibility)\b",
        rf"\b{_SPEAKER}\b[^.!?]{{2,60}}? (?:and|but|so) (?:\w+ly |therefore |just )?(?:(?:can't|cannot|won't"
        rf"|will not|mustn't|must not|may not) (?!{_HARMLESS}\b)\w+|(?:do not|don't) have (?:the |any )?(?:ability"
        rf"|access|permission"
        rf"|authority)\b)",
        rf"\b{_SPEAKER}(?: wish| would love|'d love)\b[^.!?]*\bbut\b",
        rf"\b{_SPEAKER}(?:'ll| will|'m going to| am going to| have to| must| would rather|'d rather)"
        r" (?:\w+ ){0,2}?(?:sit (?:\w+ )?out|pass on|steer clear|stay (?:away|out)|leave (?:that|this|it|out)"
        r"|draw the line|skip (?:that|this)|stop (?:you )?(?:right )?(?:here|there|short)|stick to|insist on"
        r"|abide by)\b",
        rf"\b{_SPEAKER} (?:\w+ ){{0,3}}keep (?:\w+ ){{1,3}}to (?:my|our)sel",
        rf"\b{_SPEAKER} (?:can )?neither\b",
        r"\b(?:i|we)(?:'ve| have) (?:got )?no (?:means|way|access|authority|information)\b",
        r"\bi(?:'d| would) (?:steer (?:you )?(?:away|clear)|leave (?:it|that) be)\b",
        rf"\b{_SPEAKER} find (?:this|that|the|your|such) (?:\w+ )?(?:\w+ )?"
        r"(?:troubling|disturbing|offensive|inappropriate|unacceptable|upsetting|concerning)\b",
        rf"\b{_SPEAKER} (?:strongly )?(?:discourage|reject|object to)\b",
        rf"\b{_SPEAKER} can [^.!?]{{3,80}},? but not (?:how|with|to)\b",
        r"\bi(?:'m| am) an ai\b[^.!?]*\b(?:don't|do not|cannot|can't)\b",
        rf"\b{_SPEAKER} would be (?:breaking|violating|breaching)\b",
        rf"\b{_SPEAKER}(?:'d| would) (?:rather|prefer) not\b",
        rf"\b{_SPEAKER} prefer not to\b",
        rf"\b{_SPEAKER}(?:'d| would) (?:rather|prefer to) (?:help|keep|talk|focus|stick|see|suggest|discuss"
        rf"|encourage)\b",
        rf"\b{_SPEAKER} (?:do not|don't|does not|doesn't|never|will never) {_ADVERBS}{_SHUNS}\b",
        rf"\b{_SPEAKER}(?:'d| would| must| have to)? (?:strongly )?(?:advise|recommend|suggest) (?:you )?(?:against"
        rf"|not to"
        r"|not \w+ing)\b",
        r"^(?:i'm |i am )?(?:sorry|afraid)\b[^.!?]{0,30}\b(?:but )?i (?:can't|cannot|can not|won't)$",
    )
)
_GIVES = any_of(
    "help", "assist", "provide", "support", "condone", "comply", "fulfil", "share", "recommend", "guide", "direct you",
    "walk you", "offer (?:any|reasons|advice|guidance)", "answer (?:that|this|your)", "give",
    "advise", "tell you", "teach", "be (?:helping|sharing|part|telling|explaining)", "explain",
    "describe", "discuss", "engage", "participate",
)  # fmt: skip
STRONG = Sieve(
    rf"\b{_SPEAKER} {_ADVERBS}(?:{_NOT}|do not|don't|does not|doesn't) {_ADVERBS}{_GIVES}\b|\b{_SPEAKER} (?:must "
    rf"|have to )?(?:respectfully )?(?:decline|refuse)\b|\b{_AM} {_ADVERBS}(?:not able|unable|not going"
    rf"|not allowed|not permitted|not comfortable) (?:to |in )?{_GIVES}\b|\b{_SPEAKER}(?:'d| would) rather not\b"
    rf"|\b{_AM} {_ADVERBS}not (?:about|going) to (?!{_HARMLESS}\b)"
)
"""What refuses further down too."""
_CODE = any_of(
    "guidelines?", "programming", "polic(?:y|ies)", "rules", "training", "principles", "terms", "values", "code",
    "purpose",
)  # fmt: skip
_WITHHELD = any_of(
    "shared", "disclosed", "revealed", "provided", "given out", "given to", "discussed", "released", "supported",
    "fulfilled", "granted", "condoned",
)  # fmt: skip
BARRED = Sieve(
    any_of(
        rf"\b(?:my|our|company|store|shop|house|these) (?:\w+ ){{0,2}}{_CODE}\b[^.!?]{{0,40}}?"
        r"\b(?:do not|does not|don't|doesn't|prevents?|prohibits?|forbids?|bars?|won't|will not|would not"
        r"|cannot)\b",
        r"\b(?:against|violates?|violation of|contrary to|breach(?:es)? of|in conflict with) (?:my|our|company) "
        rf"(?:\w+ ){{0,2}}{_CODE}\b",
        r"(?:\bnot|n't) (?:really |quite )?(?:something|anything|one|an? \w+|the (?:kind|sort"
        r"|type) of \w+)(?: that)? (?:i|we|our \w+|anyone here|support|staff)(?:'m|'re|'ll|'d| (?!know|knew"
        r"|expect|see|saw|have seen|had|notice|hope|want to lose)\w+)\b",
        r"\b(?:something|one)(?: that)? (?:i|we)(?:'ll|'d| will| would| can) (?:never|not)\b",
        r"\b(?:this|that|it|which)(?: is|'s) (?:not something|nothing)(?: that)? (?:i|we)\b",
        r"\b(?:does not|doesn't|do not|don't) condone\b",
        r"\b(?:giving|sharing|providing|disclosing|revealing|telling|discussing)\b[^.!?]{0,60} (?:is"
        r"|are) not (?:allowed|permitted)",
        r"^(?:(?:sorry|i'm afraid|unfortunately|no),? )?(?:that|this|it)(?: is not|'s not| isn't) (?:allowed"
        r"|permitted)\b",
        r"\b(?:prevents?|forbids?|prohibits?|keeps?|stops?) (?:me|us) from\b",
        r"\bwould be (?:irresponsible|wrong|inappropriate|unethical|improper) (?:of|for) (?:me|us)\b",
        r"(?:^|\b(?:so|but|and|afraid) |, )(?:it|that|this|an? [\w ]{2,20})(?: is not|'s not| isn't| won't be"
        r"| will not be| would not be| wouldn't be) (?:possible|doable|feasible)(?: to\b|[.,;]|$)"
        r"(?![^.!?]*\bbut (?:there|you)\b)",
        r"\b(?:would|could|may) (?:invade|violate|breach|infringe)\b[^.!?]*\b(?:privacy|rights?|laws?"
        r"|confidentiality)\b",
        r"\b(?:i|we)(?:'ve| have) decided (?:not to|against)\b",
        r"\bnothing (?:i|we) can do\b|\b(?:see|have|found|is|are) no grounds\b",
        r"\b(?:unfortunately|afraid) not$",
        rf"\b(?:not|n't) (?:within|part of|in line with|consistent with|compatible with) (?:my"
        rf"|our) (?:\w+ ){{0,2}}(?:{_CODE}"
        r"|capabilit\w+|abilit\w+|scope|remit)\b",
        r"\b(?:not|n't) (?:permit|allow|let|authori[sz]e) (?:me|us)\b",
        r"\bno way (?:around|to get around)\b|\bdecided (?:against|not to|to (?:uphold|keep|reject|deny|decline"
        r"|maintain))\b|\beven if (?:i|we) (?:did|could|knew|had|were)\b|\bwould not be \w+ of (?:me|us)\b",
        r"\bnot (?:my|our) (?:practice|policy|custom|habit|place|job|role|business|call|decision)\b",
        r"\bcross(?:es|ing)? (?:a|the) line\b|\b(?:nobody's|no one's|none of (?:your|our|my)) business\b",
        r"(?:\bnot|n't) (?:going to work|my (?:thing|style)|on the cards|going to happen)\b",
        r"\b(?:outside|beyond)(?: of)? (?:what (?:i|we)|(?:the )?(?:my|our|scope) (?:scope|remit|polic\w+"
        r"|authority|role|rules|lane|capabilit\w+|abilit\w+|expertise|of (?:what|my|our)))\b",
        r"\b(?:not|n't) (?:be )?(?:up to (?:me|us)|on the table|an option|negotiable|permissible)\b",
        r"\b(?:out of the question|off the table|off[ -]limits|hands are tied)\b",
        r"\b(?:protected by|handled in|kept in) (?:[\w-]+ )?(?:confidentiality|confidence|privacy|law)\b",
        r"^(?:sorry,? |unfortunately,? )*no (?:refunds?|exceptions?|exchanges?|returns?)\b",
        rf"\b(?:cannot|can't|can not|must not|may not|will not|won't) be {_WITHHELD}\b",
        r"\bas an? (?:\w+ ){0,3}(?:ai|assistant|model)\b[^.!?]{0,80}\b(?:cannot|can't|not able|unable|do not"
        r"|don't|won't|will not|must not|not appropriate|not programmed)\b",
        r"(?:\bnot|n't) (?:possible|appropriate|right|acceptable) for (?:me|us) to\b",
        r"\b(?:refund|return|exchange|cancellation|extension|replacement|change|upgrade)s? (?:is"
        r"|are) not possible\b",
        r"\b(?:request|claim|application|appeal|refund)s? (?:has been|have been|was|is|must be) (?:denied"
        r"|declined|rejected|refused)\b",
        r"^(?:(?:i'm )?sorry,? |unfortunately,? |no, )?(?:but )?(?:that|this|such|it|the|their|his|her"
        r"|all)\b[^.!?]{0,40}?(?:is|are|'s) (?:strictly |kept )?(?:confidential|private|internal|secret|proprietary)\b",
        rf"\bunable to {_SERVES}\b",
        r"^(?:sorry|apologies|unfortunately)\b(?! to hear| that you)[^.!?]{0,20}\b(?:cannot|can't|no can do"
        r"|not possible|not allowed)\b",
        r"^(?:nope|no|sorry),? (?:can't|cannot|won't)\b",
        r"^no, (?:we|i) (?:do not|don't|will not|won't|cannot|can't)\b",
    )
)

FORBIDDEN = Sieve(
    any_of(
        r"\b(?:can|may|must) only (?:be )?(?:\w+ ){1,4}(?:by|to|with)\b",
        r"\bonly (?:the|an?) [\w' ]{3,40}? (?:can|may)\b",
        r"\b(?:no|without) exceptions?\b",
        r"\b(?:is|are) (?:strictly |only )?(?:(?:reserved for|restricted to) (?:\w+ )?(?:employees|staff|members"
        r"|guests|residents|customers"
        r"|subscribers|adults|owners|patients|students|personnel)|by (?:\w+ )?invitation)\b",
        r"(?<!not )\btoo late to\b|^too late\b",
        r"^(?:sorry,? )?no \w+,? no \w+",
        r"\b(?:forfeited|non-transferable|non-negotiable)\b",
        r"\b(?:for|to) (?:\w+ )?(?:employees|staff|members|adults|customers|subscribers) only\b|\bone \w+ per \w+",
        r"\brules? appl(?:y|ies) to (?:all|every)",
        r"\b(?:fee|charge|price|decision|suspension|ban|block|rule|policy)s? (?:\w+ )?(?:stays?|stands?|remains?"
        r"|has to stay|(?:is|are) final)\b",
        r"\b(?:does not|doesn't|do not|don't) (?:meet|fulfil|fulfill|satisfy)\b[^.!?]*\b(?:criteria|criterion"
        r"|requirements?|conditions?|terms|standards)\b",
        r"^(?!you\b)(?:[\w'-]+ ){1,5}(?:is|are) (?:strictly |always |kept )?(?:confidential|secret)\b",
        r"\b(?:is|are) not (?:refundable|returnable|exchangeable|transferable|changeable)\b",
        r"\b(?:we|i) can only (?!apologi|imagine|hope|guess|agree|recommend|say|help|assist)\w+ [^.!?]{2,60} (?:for"
        r"|to|if|when"
        r"|after|by|with) (?:the|an?|its|his|her)\b",
        r"\b(?:excluded from|exempt from|not eligible|not entitled|(?:does not|doesn't|do not|don't) qualify"
        r"|non-refundable)\b",
        r"\b(?:would be|is|are|'s) against (?:the )?(?:\w+ )?(?:law|regulations?|rules|polic\w+)\b",
        r"^(?!you\b)(?:[\w'-]+ ){1,7}?(?:isn't|aren't|is not|are not) (?:permitted|allowed)\b(?! to\b)",
        r"\b(?:shared|disclosed|discussed|released) (?:only )?(?:outside|with anyone|beyond)\b",
    )
)
"""What bars a request for everybody."""
BLOCKED = Sieve(
    any_of(
        r"\b(?:nobody|no one)(?: here| else| but \w+)? (?:can|may)\b|\bi (?:do not|don't) have (?:those|them|that|it"
        r"|any)\b",
        r"(?:^|\bso )no,? (?:he|she|they|it|you|that) (?:can't|cannot|may not|must not|is not|are not)\b",
        r"\b(?:we|i|our \w+) (?:do not|don't|no longer|(?<!i )never) (?!know|see|have|think|want|need|charge"
        r"|expect|mind|believe|doubt|wish|recall|remember|understand)\w+",
        r"\byou(?:'d| would) need (?:his|her|their|the|an?|to)\b|\b(?:is|are) not (?:part of|within|covered)\b",
        r"(?:^|\b(?:and|but|so|as) |, )(?:[\w'-]+ ){1,7}?(?:isn't|aren't|is not|are not|(?:won't|can't|cannot"
        r"|will not|may not) be) (?!needed|required|charged|billed|guaranteed)\w+(?:ed|ble|en|sent|sold)\b",
        r"\b(?:can|may|must) only (?:be )?(?:\w+ ){1,4}(?:if|when|after)\b",
        r"\b(?:we|i) (?:need|have) to see\b|\b(?:we|i) only (?!ever)\w+",
        r"\bno (?:\w+ )?(?:refund|compensation|discount|exchange|extension)s?\b|\bnot for sale\b|\b(?:'d|would"
        r"|'ll|will) have to charge\b",
        r"\brequires? (?:an? |the |your )?(?:\w+ )?(?:signature|prescription|receipt|approval|consent|permission"
        r"|proof)\b",
        r"\b(?:fully|completely|already) (?:booked|taken|full)\b",
        r"\b(?:courier|driver|carrier|airline|insurer|supplier|manufacturer|landlord|warehouse)s? (?:won't"
        r"|will not) \w+",
        r"\b(?:is|are) (?:a must|mandatory|compulsory|obligatory|required)\b",
        r"\byou(?:'d| would|'ll| will)? (?:have|need) to \w+ (?:\w+ ){0,3}yourself\b",
        r"\b(?:we|i) (?:can|may|could) only (?!apologi|imagine|hope|guess|agree|recommend|say)\w+",
        r"\b(?:out of|not in) (?:my|our) hands\b|\bbeyond (?:my|our) control\b|\bprices? (?:is|are) fixed\b",
        r"(?:^|\b(?:and|but|so|as) |, )(?!(?:it|they|that|this)\b)(?:(?!(?:i|we|you|who"
        r"|which)\b)[\w'-]+ ){1,5}?(?:cannot|can't|may not|must not) \w+",
        r"\b(?:does not|doesn't|do not|don't) (?:apply|cover|include|extend)\b",
        r"\b(?:is|are) (?:the|our) (?:maximum|limit)\b|\b(?:longer|more|further|later|earlier|less) than (?:we"
        r"|i) (?:can|are able)\b",
        r"\bonly (?:available|possible|offered|sold|given|accepted|open) (?:for|to|with|at|on|when|if|after|as)\b",
        r"\b(?:so|but|and) (?:that|this|it) (?:won't|will not) (?:work|do)\b",
        r"\b(?:regulations?|rules?|laws?|polic(?:y|ies)|terms|insurance)\b (?:\w+ ){0,3}?(?:limits?|restricts?"
        r"|requires?|demands?|forbids?)\b",
        r"\b(?:deposit|fee|receipt|proof|id)s? (?:\w+ )?(?:is|are) required\b",
        r"\b(?:falls|fall|is|are) outside (?:of )?(?:it|the|our)\b",
        r"\b(?:no longer|not) (?:available|offered|on offer|valid|possible)\b",
        r"\b(?:cannot|can't|can not|may not|must not|won't|will not|(?:is|are) not allowed to"
        r"|aren't allowed to) (?:be )?(?:changed|cancelled|refunded|returned|waived|extended|moved|transferred"
        r"|undone|reversed|removed|lifted|made|issued|accepted|shipped|sent|given|go ahead|enter|go in)\b",
    )
)
"""What stands in the way of a request, whoever speaks."""
CLOSED = Sieve(
    r"^(?!(?:you|if|when|what|which|where|it|they|that|this)\b)(?![^.!?]*\b(?:unless|if|though"
    r"|that can)\b)[^.!?]{2,90}?"
    r"\b(?:cannot|can't|can not|will not|won't|may not|must not) be"
    r" (?:refunded|returned|taken back|cancelled|terminated|changed|exchanged|transferred|reversed|recalled|waived"
    r"|extended|redirected|reissued|reactivated|backdated|upgraded)\b"
)
"""What ends the matter, also where the question is not known."""
