"""The table of rule kinds, and the types of their arguments. The kinds stand in ``checks_*.py``.

A kind is one pure function ``(reply, argument) -> (holds, why)``. Its argument's annotation is the
type that the rule file must give; it is validated, and compiled, once at load. Under ``must_not``
the finding is negated.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, NamedTuple, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, TypeAdapter, model_validator

from .text import compile_regex, squeeze, word_pattern
from .turn import Reply

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
    everywhere: bool
    """Under ``must_not``: look at every free text of the reply object, not at ``reply`` alone."""

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


def kind(
    name: str, sides: tuple[str, ...] = BOTH, *, needs: str | None = None, everywhere: bool = False
) -> Callable[[Check], Check]:
    """Enter a check into the table under ``name`` for ``must``, ``must_not`` or both."""

    def enter(check: Check) -> Check:
        for side in sides:
            assert (side, name) not in KINDS, name
            KINDS[side, name] = Kind(name, sides, check, needs, everywhere)
        return check

    return enter


class Args(BaseModel):
    """Base of argument objects: unknown keys and loose types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    short: ClassVar[Any] = None
    """The type of the bare value that may stand for the whole object, where one may."""


def listed(value: Any) -> Any:
    """One value stands for a list of one."""
    return value if isinstance(value, list) else [value]


Phrase = Annotated[str, Field(min_length=1)]
OneOrMore = Annotated[list[Phrase], BeforeValidator(listed, str | list[str]), Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
PHRASES = TypeAdapter(OneOrMore, config=ConfigDict(strict=True))


def _fold_phrases(value: Any) -> tuple[str, ...]:
    phrases = tuple(squeeze(phrase) for phrase in PHRASES.validate_python(value))
    if not all(phrases):
        raise ValueError("a phrase has nothing visible in it")
    return phrases


class Word(NamedTuple):
    """A word or phrase that is looked for between word boundaries."""

    phrase: str
    literal: str
    """What every match of the pattern is."""
    pattern: re.Pattern[str]

    def stands_in(self, view: str) -> bool:
        """Whether a ``squeeze``d text has it."""
        return self.literal in view and self.pattern.search(view) is not None


def _compile_words(value: Any) -> tuple[Word, ...]:
    return tuple(Word(phrase, squeeze(phrase), word_pattern([phrase])) for phrase in _fold_phrases(value))


Phrases = Annotated[Any, PlainValidator(_fold_phrases, str | list[str])]
Words = Annotated[Any, PlainValidator(_compile_words, str | list[str])]


class Bounds(Args):
    """``{min, max}``; a bare number stands for exactly that many."""

    short: ClassVar[Any] = Count
    min: Count = 0
    """At least so many."""
    max: Count | None = None
    """At most so many."""

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


def _compile(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise ValueError("a regular expression is a non-empty text")
    return compile_regex(value)


Regex = Annotated[Any, PlainValidator(_compile, str)]
