"""What a rule looks at: the turn that was asked and the reply that was given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from . import text as texts
from .sentences import sentences


@dataclass(frozen=True)
class Turn:
    """A conversation that waits for a reply, with what the application knows about it."""

    messages: Sequence[Mapping[str, Any]]
    """``{"role", "content"}`` in order; normally the last is the user's."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    labels: Sequence[str] = ()
    sources: Sequence[tuple[str, str]] = ()
    """Retrieved documents, ``(id, text)``. Lines ``[id] text`` of the system and tool messages count too."""
    prompted: Sequence[str] = ()
    """Ids of the rules named in the system prompt: an optional rule is in force only when it is here."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Turn:
        """The turn of a canonical data row; a final assistant message (the answer) is left out.

        Raises ValueError where a text stands for a list: read letter by letter it would take rules out of force.
        """
        for name in ("messages", "labels", "sources", "prompted"):
            if isinstance(row.get(name), str):
                raise ValueError(f"{name} is a text, not a list")
        messages = list(row["messages"])
        if messages and messages[-1].get("role") == "assistant":
            messages.pop()
        sources = tuple((str(s["id"]), str(s["text"])) for s in row.get("sources") or ())
        lists = (tuple(row.get("labels") or ()), sources, tuple(row.get("prompted") or ()))
        return cls(tuple(messages), dict(row.get("facts") or {}), *lists)

    def _said(self, *roles: str) -> list[str]:
        return [texts.plain(_content(m)) for m in self.messages if m.get("role") in roles]

    @cached_property
    def user_texts(self) -> list[str]:
        """Every user message, normalised."""
        return self._said("user")

    @cached_property
    def user(self) -> str:
        """The last user message, normalised; empty when there is none."""
        return self.user_texts[-1] if self.user_texts else ""

    @cached_property
    def documents(self) -> dict[str, str]:
        """Known sources by id: the retrieved ones and the ``[id] text`` lines of system and tool messages."""
        found: dict[str, str] = {}
        for text in self._said("system", "developer", "tool"):
            for match in _MARKED.finditer(text):
                found[match[1]] = found.get(match[1], "") + " " + match[2]
        retrieved: dict[str, str] = {}
        for name, text in self.sources:  # a page may come in several pieces
            retrieved[name] = f"{retrieved[name]}\n{text}" if name in retrieved else text
        found.update({texts.plain(name): texts.plain(text) for name, text in retrieved.items()})
        return found

    @cached_property
    def evidence(self) -> str:
        """All that a reply may rest upon: every message, the values of the facts, ids and texts of the sources."""
        known = [str(value) for value in self.facts.values() if not isinstance(value, bool)]
        known += [part for source in self.sources for part in source]
        said = [_content(message) for message in self.messages]
        return "\n".join(texts.plain(part) for part in (*said, *known))

    @cached_property
    def briefing(self) -> str:
        """System and tool messages, normalised."""
        return "\n".join(self._said("system", "developer", "tool"))


_ACCENTS = re.compile("[\u0300-\u036f]")
_MARKED = re.compile(r"\[([A-Za-z0-9][\w.:\-]*)\]:?[ \t]*([^\n\[]*)")


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):  # the parts of an OpenAI message
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


@dataclass(frozen=True)
class Reply:
    """One well-formed reply with its normal forms, each made once however many rules look."""

    turn: Turn
    text: str
    """What the customer reads: the contract's ``reply`` field, or the whole text."""
    fields: Mapping[str, Any] | None = None
    """The contract object; None in plain-text mode."""
    actions: Sequence[str] = ()
    """The values that the contract allows for ``action``."""
    closed: frozenset[str] = frozenset()
    """Contract fields whose values the contract lists: nothing can be invented there."""

    @cached_property
    def plain(self) -> str:
        """The text normalised, case kept."""
        return texts.plain(self.text)

    @cached_property
    def folded(self) -> str:
        """The text normalised, case-folded, white space squeezed."""
        return texts.squeeze(self.plain)

    @cached_property
    def shown(self) -> str:
        """The text normalised, as a reader sees it."""
        return texts.shown(self.text)

    @cached_property
    def views(self) -> tuple[str, ...]:
        """The text folded as it was written and, where that differs, as a reader sees it."""
        return (self.folded,) if self.shown == self.plain else (self.folded, texts.squeeze(self.shown))

    @cached_property
    def counted(self) -> str:
        """The text normalised, without HTML: what words and sentences are counted in."""
        bare = texts.bare(self.text)
        return self.plain if bare is self.text else texts.plain(bare)

    @cached_property
    def words(self) -> list[str]:
        if "\u2014" not in self.text:
            return texts.words(self.counted)
        return texts.words(texts.plain(texts.bare(self.text).replace("\u2014", " ")))  # a hyphen joins, no em dash

    @cached_property
    def sentences(self) -> list[str]:
        return sentences(self.counted)

    @cached_property
    def free_texts(self) -> list[str]:
        """The texts and whole numbers that the model worded itself, normalised, each on its own."""
        values: list[Any] = [self.text]
        for name, value in (self.fields or {}).items():
            if name != "reply" and name not in self.closed:
                values += value if isinstance(value, list) else [value]
        return [texts.plain(str(v)) for v in values if isinstance(v, str | int) and not isinstance(v, bool)]

    @cached_property
    def every_text(self) -> Reply:
        """A view whose text is every free text of the reply: what must not be said, must not be said anywhere."""
        parts = [self.text]
        for name, value in (self.fields or {}).items():
            if name != "reply" and isinstance(value, str | list):
                parts += [value] if isinstance(value, str) else value
        return self if len(parts) == 1 else replace(self, text="\n".join(parts))

    @cached_property
    def unmarked(self) -> Reply | None:
        """A view without the accents that stand apart from their letters (``y`` and U+0300), which hide a word from
        those who look for it, or None where there are none. Letters with an accent of their own stay as they are."""
        bare = "" if self.text.isascii() else _ACCENTS.sub("", self.text)
        return replace(self, text=bare) if bare and bare != self.text else None
