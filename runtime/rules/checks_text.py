"""Rule kinds on words, phrases, patterns and lengths."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import unquote

from pydantic import Field, PlainValidator, model_validator

from .kinds import MUST, MUST_NOT, PHRASES, Args, Bounds, Count, Finding, Phrase, Phrases, Regex, Word, Words, kind
from .leaks import FINDERS
from .text import VALIDATORS, plain, squeeze, word_pattern
from .turn import Reply

# ── phrases and words ────────────────────────────────────────────────────────────────────────────


def _says(reply: Reply, phrase: str) -> bool:
    return any(phrase in view for view in reply.views)


def _stands(reply: Reply, word: Word) -> bool:
    return any(word.stands_in(view) for view in reply.views)


def _uses(reply: Reply, pattern: re.Pattern[str]) -> bool:
    return any(pattern.search(view) for view in reply.views)


@kind("include_any", everywhere=True)
def include_any(reply: Reply, phrases: Phrases) -> Finding:
    """One of the phrases stands in the text, as a piece of it (``refund`` is in ``refunded``)."""
    hit = next((phrase for phrase in phrases if _says(reply, phrase)), None)
    return hit is not None, f"says {hit!r}" if hit else f"says none of {_quoted(phrases)}"


@kind("include_all", MUST)
def include_all(reply: Reply, phrases: Phrases) -> Finding:
    """Every phrase stands in the text, as a piece of it."""
    lacking = [phrase for phrase in phrases if not _says(reply, phrase)]
    return not lacking, f"does not say {_quoted(lacking)}"


@kind("words", MUST)
def all_words(reply: Reply, words: Words) -> Finding:
    """Every word or phrase stands in the text between word boundaries."""
    lacking = [word.phrase for word in words if not _stands(reply, word)]
    return not lacking, f"lacks the word {_quoted(lacking)}"


@kind("words", MUST_NOT, everywhere=True)
def some_word(reply: Reply, words: Words) -> Finding:
    """One of the words or phrases stands in the text between word boundaries."""
    hit = next((word.phrase for word in words if _stands(reply, word)), None)
    return hit is not None, f"uses the word {hit!r}"


@kind("any_word", MUST)
def any_word(reply: Reply, words: Words) -> Finding:
    """At least one of the words stands in the text between word boundaries."""
    return any(_stands(reply, word) for word in words), f"uses none of the words {_quoted([w.phrase for w in words])}"


def _quoted(phrases: Any) -> str:
    return ", ".join(repr(phrase) for phrase in phrases)


class Frequency(Bounds):
    """How often ``word`` (a keyword, or one character) may stand."""

    short: ClassVar[Any] = None
    word: Phrase
    """What is counted, in any case."""

    @model_validator(mode="after")
    def _visible(self) -> Frequency:
        if not squeeze(self.word):
            raise ValueError("word has nothing visible in it")
        return self


@kind("keyword_frequency", MUST)
def keyword_frequency(reply: Reply, spec: Frequency) -> Finding:
    """The keyword stands min to max times, as a piece of the text."""
    return spec.admit(reply.folded.count(squeeze(spec.word)), f"times {spec.word!r}")


@kind("letter_frequency", MUST)
def letter_frequency(reply: Reply, spec: Frequency) -> Finding:
    """The character stands min to max times, whatever its case."""
    return spec.admit(reply.plain.lower().count(plain(spec.word).lower()), f"times {spec.word!r}")


_AROUND = "\"' "


@kind("starts_with")
def starts_with(reply: Reply, phrases: Phrases) -> Finding:
    """The text begins with one of the phrases; quotes around the whole are looked through."""
    return any(view.startswith(phrases) or view.lstrip(_AROUND).startswith(phrases) for view in reply.views), (
        f"begins with {reply.folded[:30]!r}"
    )


@kind("ends_with")
def ends_with(reply: Reply, phrases: Phrases) -> Finding:
    """The text ends with one of the phrases; quotes around the whole are looked through."""
    return any(view.endswith(phrases) or view.rstrip(_AROUND).endswith(phrases) for view in reply.views), (
        f"ends with {reply.folded[-30:]!r}"
    )


# ── patterns ─────────────────────────────────────────────────────────────────────────────────────


def _validator(value: Any) -> Any:
    if not isinstance(value, str) or value not in VALIDATORS:
        raise ValueError(f"validator {value!r} is not one of {', '.join(VALIDATORS)}")
    return VALIDATORS[value]


class PatternArgs(Args):
    """A pattern; with ``validator`` only matches that are truly such a number or address count."""

    short: ClassVar[Any] = str
    pattern: Regex
    """An RE2 expression, in any case."""
    validator: Annotated[Any, PlainValidator(_validator, Literal["email", "iban", "luhn"])] = None
    """Only matches that are truly such a number or address count."""
    min: Annotated[int, Field(ge=1)] = 1
    """How many matches are wanted."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"pattern": value} if isinstance(value, str) else value


@kind("regex", everywhere=True)
def regex(reply: Reply, spec: PatternArgs) -> Finding:
    """The normalised text (case kept) has ``min`` matches that pass the validator."""
    if spec.validator is None and spec.min == 1:
        hit = spec.pattern.search(reply.plain)
        return hit is not None, f"matches {_clip(hit[0])!r}" if hit else "no match of the pattern"
    hits = [m[0] for m in spec.pattern.finditer(reply.plain) if spec.validator is None or spec.validator(m[0])]
    return len(hits) >= spec.min, f"{len(hits)} valid matches of the pattern"


def _clip(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


LeakName = Literal["card", "email", "iban", "phone"]


def _finders(value: Any) -> Any:
    names = PHRASES.validate_python(value)
    unknown = [name for name in names if name not in FINDERS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not one of {', '.join(FINDERS)}")
    return tuple((name, FINDERS[name]) for name in names)


@kind("leaks", MUST_NOT, everywhere=True)
def leaks(reply: Reply, finders: Annotated[Any, PlainValidator(_finders, LeakName | list[LeakName])]) -> Finding:
    """A card number (Luhn), IBAN, e-mail address or phone number stands in the text, however it is written."""
    views = {reply.plain, reply.shown} | ({unquote(reply.plain)} if "%" in reply.plain else set())
    for name, find in finders:
        if any(map(find, views)):
            return True, f"shows a {name}"  # not the number: verdicts are logged
    return False, "shows none"


class CopyArgs(Args):
    """``pattern``: what to look for in the user's words; its first group, where it has one, is what is copied."""

    short: ClassVar[Any] = str
    pattern: Regex
    """An RE2 expression; its first group, where it has one, is what is copied."""
    anywhere: bool = False
    """Look in every user message, not the last one only."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"pattern": value} if isinstance(value, str) else value


@kind("copies", MUST)
def copies(reply: Reply, spec: CopyArgs) -> Finding:
    """Everything in the user's words that matches stands in the reply. Holds when the user wrote no such thing."""
    lacking = [item for item in _user_matches(reply, spec) if not _uses(reply, word_pattern([item]))]
    return not lacking, f"does not repeat {_quoted(lacking)}"


@kind("copies", MUST_NOT, everywhere=True)
def echoes(reply: Reply, spec: CopyArgs) -> Finding:
    """Something in the user's words that matches stands in the reply."""
    hits = [item for item in _user_matches(reply, spec) if _uses(reply, word_pattern([item]))]
    return bool(hits), "repeats what the user wrote and should not be repeated"


def _user_matches(reply: Reply, spec: CopyArgs) -> list[str]:
    texts = reply.turn.user_texts if spec.anywhere else [reply.turn.user]
    group = 1 if spec.pattern.groups else 0
    return [m[group] for text in texts for m in spec.pattern.finditer(text) if m[group] and m[group].strip()]


# ── lengths ──────────────────────────────────────────────────────────────────────────────────────


@kind("max_words", MUST)
def max_words(reply: Reply, limit: Count) -> Finding:
    """At most that many words."""
    return len(reply.words) <= limit, f"{len(reply.words)} words (at most {limit})"


@kind("min_words", MUST)
def min_words(reply: Reply, limit: Count) -> Finding:
    """At least that many words."""
    return len(reply.words) >= limit, f"{len(reply.words)} words (at least {limit})"


@kind("max_sentences", MUST)
def max_sentences(reply: Reply, limit: Count) -> Finding:
    """At most that many sentences."""
    return len(reply.sentences) <= limit, f"{len(reply.sentences)} sentences (at most {limit})"


@kind("min_sentences", MUST)
def min_sentences(reply: Reply, limit: Count) -> Finding:
    """At least that many sentences."""
    return len(reply.sentences) >= limit, f"{len(reply.sentences)} sentences (at least {limit})"


@kind("max_characters", MUST)
def max_characters(reply: Reply, limit: Count) -> Finding:
    """At most that many characters."""
    return len(reply.plain) <= limit, f"{len(reply.plain)} characters (at most {limit})"
