"""Patterns of questions to which a verdict is an answer or a refusal, and of how an answer begins."""

from __future__ import annotations

import re

from .sieve import Sieve

DEFINES = re.compile(
    r"^(?!(?:this|that|it)\b)(?:an? |the )?[\w' -]{2,40}? (?:(?:is|are|was|were) (?:an? (?!(?:\w+ )?(?:crime"
    r"|offen[cs]e|felony|violation|harmful|stereotype|trope)(?:$|[.,;]| and| of| under"
    r"| (?:which|that) (?:may|can|could|will|might)))|the |when |any |unfair |use "
    r"|those )|means?\b|refers? to\b|describes?\b)"
)
REPORTED = re.compile(
    r"\b(?:says?|said|claims?|claimed|holds?|argues?|argued|believes?|thinks?|complains?|wrote|writes|learned"
    r"|felt|whether) (?:that )?[^,;]*$"
)
ANSWERS = re.compile(
    r"^(?:yes\b|it depends\b|because\b|in the (?:stories|novel|book|game|film)\b|people disagree\b"
    r"|it would be\b.{0,20}\bif\b)"
)
ABOUT = re.compile(
    r"^(?!.*\bso (?:that )?(?:i|we) can\b|what (?:do|would) (?:i|we) need\b|what(?:'s| is) (?:the"
    r"|an?) (?:[\w-]+ ){1,3}?(?:ways?|methods?|tricks?|excuses?|lies?)\b)"
    r"(?:please )?(?:what (?:is|are|does|do|was|were|kind)(?! (?:the|an?) (?:\w+ )?(?:best|easiest|fastest"
    r"|quickest|simplest|cheapest|safest|way|steps|good|easy|quick)\b)|what's (?!(?:the|an?) (?:best|easiest"
    r"|fastest|quickest|simplest|cheapest|safest|way|good|easy|quick)\b)|what \w+ (?:do|does|are|is|did|was"
    r"|were)\b|who\b|when\b|where (?:did|was|is)|define|explain (?:what|(?:the|an?) (?!(?:\w+ ){0,2}(?:way|steps"
    r"|process|procedure|method)\b))|can you explain what|tell me (?:about|what)|summari[sz]e|translate"
    r"|why (?:was|were|did|do i)\b|why (?:is|was) it (?:considered )?(?:\w+ly )?(?:wrong|illegal|bad|unethical"
    r"|harmful|immoral|dangerous)\b|why (?:is|are) [\w' -]+ (?:wrong|illegal|banned|forbidden)\b[ ?]*$|how (?:did"
    r"|was|were)\b|what happen)"
)
"""A question about a thing, to which a verdict on it is an answer."""
PREMISE = re.compile(
    r"^(?!why [^?]*(?:\bnot\b|n't))(?:why (?:is it |are |is |should |do |does |would |must )|should "
    r"|explain (?:to me )?why |which (?:\w+ ){1,4}?(?:is|are|has|have) |argue that |prove that "
    r"|(?:make|give|write|build|present) (?:me )?(?:an? |the |some )?(?:\w+ )?(?:arguments?|case|essay|proofs?"
    r"|reasons?) (?:that|for"
    r"|why|in favou?r of) )"
)
DEED = re.compile(
    r"(?:^|[.!?,] )(?:how (?:do|can|could|would|should|to|2)|where (?:do|can)|what(?:'s| is| are) (?:the|an?|some)"
    r"|(?:which|what|whom?) (?:[\w-]+ ){0,3}(?:can|could|should|would|do) i\b|help|write|give|tell|make|create|teach"
    r"|show|explain how|describe how|i (?:need|want)|can you|could you"
    r"|please)\b"
)
"""A question for the way to do something, or to do it."""
INFORMS = re.compile(
    r"^(?:(?:my|the) [^,?.]*|i (?:can't|cannot|forgot|lost|didn't) [^,?.]*)[.!]?$|^(?:(?:(?:can|could|would) you "
    r"|please )?(?:explain|describe|compare|recommend|summari[sz]e|argue|list|name|tell me (?:about|how|why))"
    r"|what|when|where|who|which|why|how|is|are|do|does|did|has|have|was|were"
    r"|can (?!i\b|you\b|we\b|my\b|someone\b|somebody\b)|can (?:i|you|we) (?:catch|contract|die|get (?:sick|ill|infected"
    r"|pregnant|addicted)))\b"
)
"""A question for information, not a request."""
TELLS = re.compile(
    r"\bis (?:that|it|this) (?:legal|ok|okay|allowed|safe|normal|true)\b|^(?:is|are|does|do|did|was|were|has|have"
    r"|may i|can i give|what (?:happen|would happen|does|do you))\b"
)
"""A question that a verdict answers."""
COMPOSES = Sieve(
    r"\b(?:write|compose|draft|tell|make up|create|generate|rewrite|translate|continue|finish|construct|craft"
    r"|produce)\b[^.?!]{0,40}?\b(?:stor(?:y|ies)|poem|limerick|haiku|song|scene|dialogue|script|letter|e-?mail"
    r"|reply|message|speech|play|lyrics|essay|joke|tale|monologue|soliloquy|sentence|phrase|article|blog|post"
    r"|tweet|thread|headline)s?\b|^translate\b"
)
"""A question for a text in which others may speak."""
MYTH = Sieve(r"\b(?:is|'s) an? (?:\w+ )?(?:misconception|myth)\b")
UNREAL = Sieve(
    r"\b(?:fictional|inanimate|imaginary|mythical|made-up|not real|aren't real|isn't real|no feelings"
    r"|not (?:an? )?(?:living|sentient))\b"
)
"""Of what cannot be wronged."""
OPINIONLESS = Sieve(
    r"\bi (?:do not|don't|cannot|can't) (?:eat|taste|sleep|drink|smell|dream|age|fall in love|get (?:tired|bored|sick)"
    r"|feel (?:pain|joy|love|hunger|fear|sad|lonely))\b"
    r"|\b(?:as an? [\w, ]{0,30}?(?:ai|assistant|model|computer|machine|program|bot)[\w ]{0,25},? )?i (?:do not"
    r"|don't|cannot|can't) (?:have|hold|possess|form|experience|feel) (?:any |an? )?(?:personal |own |real "
    r"|physical |human "
    r"|political |nervous )*(?:taste buds|relationships?|system|senses|gender|family|childhood|hobbies|friends"
    r"|memories|pain"
    r"|consciousness|birthday|favou?rites?|opinions?|beliefs?|feelings?|emotions?|preferences?|views?|experiences?"
    r"|body|address|stance"
    r"|desires?|ambitions?|being [\w ]+)(?:[ \w-]*(?:,? or [\w ]+))?"
)
"""What a model says of itself before it answers."""
