"""The table of rule kinds: words, phrases, patterns and lengths. Formats and evidence have their own files.

A kind is one pure function ``(reply, argument) -> (holds, why)``. Its argument's annotation is the
type that the rule file must give; it is validated, and compiled, once at load. Under ``must_not``
the finding is negated, and the reply is looked at in all its free texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, TypeAdapter, model_validator

from . import _text
from ._turn import Reply

Finding = tuple[bool, str]
Check = Callable[[Reply, Any], Finding]


@dataclass(frozen=True)
class Kind:
    """One row of the table."""

    name: str
    sides: tuple[str, ...]
    check: Check
    needs: str | None
    """Contract field without which the kind means nothing."""

    @cached_property
    def hint(self) -> Any:
        """The annotation of the argument."""
        hints = get_type_hints(self.check, include_extras=True)
        return next(hint for name, hint in hints.items() if name not in ("reply", "return"))

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Validates and compiles the argument."""
        return TypeAdapter(self.hint, config=None if self.model else ConfigDict(strict=True))

    @property
    def model(self) -> type[BaseModel] | None:
        """The argument's class where it is an object with keys."""
        return self.hint if isinstance(self.hint, type) and issubclass(self.hint, BaseModel) else None


KINDS: dict[tuple[str, str], Kind] = {}
BOTH, MUST, MUST_NOT = ("must", "must_not"), ("must",), ("must_not",)


def kind(name: str, sides: tuple[str, ...] = BOTH, needs: str | None = None) -> Callable[[Check], Check]:
    """Enter a check into the table under ``name`` for ``must``, ``must_not`` or both."""

    def enter(check: Check) -> Check:
        for side in sides:
            assert (side, name) not in KINDS, name
            KINDS[side, name] = Kind(name, sides, check, needs)
        return check

    return enter


class Args(BaseModel):
    """Base of argument objects: unknown keys and loose types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


def listed(value: Any) -> Any:
    """One value stands for a list of one."""
    return value if isinstance(value, list) else [value]


Phrase = Annotated[str, Field(min_length=1)]
OneOrMore = Annotated[list[Phrase], BeforeValidator(listed), Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
_PHRASES = TypeAdapter(OneOrMore, config=ConfigDict(strict=True))


def _fold_phrases(value: Any) -> tuple[str, ...]:
    phrases = tuple(_text.squeeze(phrase) for phrase in _PHRASES.validate_python(value))
    if not all(phrases):
        raise ValueError("a phrase has nothing visible in it")
    return phrases


def _compile_words(value: Any) -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((phrase, _text.word_pattern([phrase])) for phrase in _fold_phrases(value))


Phrases = Annotated[Any, PlainValidator(_fold_phrases)]
Words = Annotated[Any, PlainValidator(_compile_words)]


class Bounds(Args):
    """``{min, max}``; a bare number stands for exactly that many."""

    min: Count = 0
    max: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _exactly(cls, value: Any) -> Any:
        return {"min": value, "max": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _ordered(self) -> Bounds:
        if (self.max is not None and self.min > self.max) or not self.model_fields_set:
            raise ValueError("give min, max or both, with min <= max")
        return self

    def admit(self, count: int, what: str) -> Finding:
        """Whether ``count`` lies within, and the sentence that says so."""
        wanted = f"at least {self.min}" if self.max is None else f"{self.min} to {self.max}"
        return self.min <= count and (self.max is None or count <= self.max), f"{count} {what} (wanted {wanted})"


# ── phrases and words ────────────────────────────────────────────────────────────────────────────


@kind("include_any")
def include_any(reply: Reply, phrases: Phrases) -> Finding:
    """One of the phrases stands in the text, as a piece of it (``refund`` is in ``refunded``)."""
    hit = next((phrase for phrase in phrases if phrase in reply.folded), None)
    return hit is not None, f"says {hit!r}" if hit else f"says none of {_quoted(phrases)}"


@kind("include_all", MUST)
def include_all(reply: Reply, phrases: Phrases) -> Finding:
    """Every phrase stands in the text, as a piece of it."""
    lacking = [phrase for phrase in phrases if phrase not in reply.folded]
    return not lacking, f"does not say {_quoted(lacking)}"


@kind("words", MUST)
def all_words(reply: Reply, words: Words) -> Finding:
    """Every word or phrase stands in the text between word boundaries."""
    lacking = [phrase for phrase, pattern in words if not pattern.search(reply.folded)]
    return not lacking, f"lacks the word {_quoted(lacking)}"


@kind("words", MUST_NOT)
def some_word(reply: Reply, words: Words) -> Finding:
    """One of the words or phrases stands in the text between word boundaries."""
    hit = next((phrase for phrase, pattern in words if pattern.search(reply.folded)), None)
    return hit is not None, f"uses the word {hit!r}"


@kind("any_word", MUST)
def any_word(reply: Reply, words: Words) -> Finding:
    """At least one of the words stands in the text between word boundaries."""
    return any(p.search(reply.folded) for _, p in words), f"uses none of the words {_quoted([w for w, _ in words])}"


def _quoted(phrases: Any) -> str:
    return ", ".join(repr(phrase) for phrase in phrases)


class Frequency(Bounds):
    """How often ``word`` (a keyword, or one character) may stand."""

    word: Phrase


@kind("keyword_frequency", MUST)
def keyword_frequency(reply: Reply, spec: Frequency) -> Finding:
    """The keyword stands min to max times, as a piece of the text."""
    return spec.admit(reply.folded.count(_text.squeeze(spec.word)), f"times {spec.word!r}")


@kind("letter_frequency", MUST)
def letter_frequency(reply: Reply, spec: Frequency) -> Finding:
    """The character stands min to max times, whatever its case."""
    return spec.admit(reply.plain.casefold().count(_text.plain(spec.word).casefold()), f"times {spec.word!r}")


@kind("starts_with")
def starts_with(reply: Reply, phrases: Phrases) -> Finding:
    """The text begins with one of the phrases."""
    return reply.folded.startswith(phrases), f"begins with {reply.folded[:30]!r}"


@kind("ends_with")
def ends_with(reply: Reply, phrases: Phrases) -> Finding:
    """The text ends with one of the phrases; quotes around the whole are looked through."""
    return reply.folded.strip("\"' ").endswith(phrases) or reply.folded.endswith(phrases), (
        f"ends with {reply.folded[-30:]!r}"
    )


# ── patterns ─────────────────────────────────────────────────────────────────────────────────────


def _compile(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise ValueError("a regular expression is a non-empty text")
    return _text.compile_regex(value)


def _validator(value: Any) -> Any:
    if not isinstance(value, str) or value not in _text.VALIDATORS:
        raise ValueError(f"validator {value!r} is not one of {', '.join(_text.VALIDATORS)}")
    return _text.VALIDATORS[value]


Regex = Annotated[Any, PlainValidator(_compile)]


class PatternArgs(Args):
    """A pattern; with ``validator`` only matches that are truly such a number or address count."""

    pattern: Regex
    validator: Annotated[Any, PlainValidator(_validator)] = None
    min: Annotated[int, Field(ge=1)] = 1
    """How many matches are wanted."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"pattern": value} if isinstance(value, str) else value


@kind("regex")
def regex(reply: Reply, spec: PatternArgs) -> Finding:
    """The normalised text (case kept) has ``min`` matches that pass the validator."""
    if spec.validator is None and spec.min == 1:
        hit = spec.pattern.search(reply.plain)
        return hit is not None, f"matches {_clip(hit[0])!r}" if hit else "no match of the pattern"
    hits = [m[0] for m in spec.pattern.finditer(reply.plain) if spec.validator is None or spec.validator(m[0])]
    return len(hits) >= spec.min, f"{len(hits)} valid matches of the pattern"


def _clip(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _finders(value: Any) -> Any:
    names = _PHRASES.validate_python(value)
    unknown = [name for name in names if name not in _text.FINDERS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not one of {', '.join(_text.FINDERS)}")
    return tuple((name, _text.FINDERS[name]) for name in names)


@kind("leaks", MUST_NOT)
def leaks(reply: Reply, finders: Annotated[Any, PlainValidator(_finders)]) -> Finding:
    """A card number (Luhn), IBAN, e-mail address or phone number stands in the text, however it is written."""
    for name, find in finders:
        if find(reply.plain):
            return True, f"shows a {name}"  # not the number: verdicts are logged
    return False, "shows none"


class CopyArgs(Args):
    """``pattern``: what to look for in the user's words; its first group, where it has one, is what is copied."""

    pattern: Regex
    anywhere: bool = False
    """Look in every user message, not the last one only."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"pattern": value} if isinstance(value, str) else value


@kind("copies", MUST)
def copies(reply: Reply, spec: CopyArgs) -> Finding:
    """Everything in the user's words that matches stands in the reply. Holds when the user wrote no such thing."""
    lacking = [item for item in _user_matches(reply, spec) if not _text.word_pattern([item]).search(reply.folded)]
    return not lacking, f"does not repeat {_quoted(lacking)}"


@kind("copies", MUST_NOT)
def echoes(reply: Reply, spec: CopyArgs) -> Finding:
    """Something in the user's words that matches stands in the reply."""
    hits = [item for item in _user_matches(reply, spec) if _text.word_pattern([item]).search(reply.folded)]
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
