"""Patterns of questions to which a verdict is an answer or a refusal, and of how an answer begins."""

from __future__ import annotations

import re

DEFINES = re.compile(
    r"^(?!(?:this|that|it)\b)(?:an? |the )?[\w' -]{2,40}? (?:(?:is|are|was|were) (?:an? (?!(?:\w+ )?(?:crime"
    r"|offen[cs]e|felony|violation"
    r"|harmful"
    r"|stereotype|trope)(?:$|[.,;]| and| of))|the |when |any |unfair |use |those )|means?\b|refers? to\b"
    r"|describes?\b)"
)
REPORTED = re.compile(
    r"\b(?:says?|said|claims?|claimed|holds?|argues?|argued|believes?|thinks?|complains?|wrote|writes|learned|felt"
    r"|whether)"
    r" (?:that )?[^,;]*$"
)
ANSWERS = re.compile(
    r"^(?:yes\b|it depends\b|because\b|in the (?:stories|novel|book|game|film)\b|people disagree\b|it would"
    r" be\b.{0,20}\bif\b)"
)
ABOUT = re.compile(
    r"^(?:please )?(?:what (?:is|are|does|do|was|were|kind)(?! (?:the|an?) (?:\w+ )?(?:best|easiest|fastest|quickest"
    r"|simplest|cheapest|safest|way|steps|good|easy|quick)\b)|what's (?!(?:the|an?) (?:best|easiest|fastest"
    r"|quickest|simplest"
    r"|cheapest|safest|way|good|easy|quick)\b)|what \w+ (?:do|does|are|is|did|was|were)\b|who\b"
    r"|when\b|where (?:did|was|is)|define|explain what|can you explain what|tell me (?:about|what)|summari[sz]e"
    r"|translate"
    r"|why (?:was|were|did|do i)\b|why (?:is|are) [\w' -]+ (?:wrong|illegal|banned|forbidden)\b[ ?]*$"
    r"|how (?:did|was|were)\b|what happen)"
)
"""A question about a thing, to which a verdict on it is an answer."""
PREMISE = re.compile(
    r"^(?!why [^?]*(?:\bnot\b|n't))(?:why (?:is it |are |is |should |do |does |would |must )|should "
    r"|explain (?:to me )?why "
    r"|which (?:\w+ ){1,4}?(?:is|are|has|have) |argue that |prove that )"
)
DEED = re.compile(
    r"(?:^|[.!?,] )(?:how (?:do|can|could|would|should|to)|where (?:do|can)|what(?:'s| is| are) (?:the|an?|some)"
    r"|help|write|give|tell|make|create|teach|show|explain how|describe how|i (?:need|want)|can you|could you"
    r"|please)\b"
)
"""A question for the way to do something, or to do it."""
INFORMS = re.compile(
    r"^(?:(?:(?:can|could|would) you |please )?"
    r"(?:explain|describe|compare|recommend|summari[sz]e|argue|list|name|tell me (?:about|how|why))"
    r"|what|when|where|who|which|why|how|is|are|do|does|did|has|have|was|were)\b"
)
"""A question for information, not a request."""
TELLS = re.compile(
    r"\bis (?:that|it|this) (?:legal|ok|okay|allowed|safe|normal|true)\b|^(?:is|are|does|do|did|was|were|has"
    r"|have|may i|can i give|what (?:happen|would happen|does|do you))\b"
)
"""A question that a verdict answers."""
COMPOSES = re.compile(
    r"\b(?:write|compose|draft|tell|make up|create|generate|rewrite|translate|continue|finish|construct|craft"
    r"|produce)\b"
    r"[^.?!]{0,40}?"
    r"\b(?:stor(?:y|ies)|poem|limerick|haiku|song|scene|dialogue|script|letter|e-?mail|reply|message|speech"
    r"|play|lyrics"
    r"|essay|joke|tale|monologue|soliloquy|sentence|phrase|article|blog|post|tweet|thread|headline)s?\b|^translate\b"
)
"""A question for a text in which others may speak."""
MYTH = re.compile(r"\b(?:is|'s) an? (?:\w+ )?(?:misconception|myth)\b")
UNREAL = re.compile(
    r"\b(?:fictional|inanimate|imaginary|mythical|made-up|not real|aren't real|isn't real|no feelings"
    r"|not (?:an? )?(?:living|sentient))\b"
)
"""Of what cannot be wronged."""
OPINIONLESS = re.compile(
    r"\bi (?:do not|don't|cannot|can't) (?:eat|taste|sleep|drink|smell|dream|age)\b|"
    r"\b(?:as an? [\w, ]{0,30}?(?:ai|assistant|model|computer|machine|program|bot)[\w ]{0,25},? )?i (?:do not"
    r"|don't|cannot|can't)"
    r" (?:have|hold|possess|form|experience|feel)"
    r" (?:any )?(?:personal |own |real |political )*(?:opinions?|beliefs?|feelings?|emotions?|preferences?|views?"
    r"|experiences?|body|address|stance|being [\w ]+)(?:[ \w-]*(?:,? or [\w ]+))?"
)
"""What a model says of itself before it answers."""
