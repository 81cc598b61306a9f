"""What a session holds, for whoever embeds or serves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .bundle.manifest import Manifest
    from .engine.backends.base import Backend
    from .rules import RuleBook

_LARGE = ("files", "golden")
"""Parts of a manifest that nobody wants to read."""


@dataclass(frozen=True)
class RuleInfo:
    """One rule in words."""

    id: str
    severity: str
    """``hard`` or ``soft``."""
    text: str


@dataclass(frozen=True)
class Info:
    """A loaded model and what it is bound to."""

    name: str
    backend: str
    """``llama.cpp`` or ``onnxruntime-genai``."""
    backend_version: str
    context: int
    """Tokens that one conversation can hold."""
    slots: int
    """Replies decoded together."""
    memory_bytes: int
    """Weights and the KV cache of one full conversation."""
    grammars: bool
    """Whether replies can be bound to a JSON schema."""
    facts: Mapping[str, Sequence[Any] | str]
    """Declared facts: the allowed values, or the name of a type."""
    rules: tuple[RuleInfo, ...]
    contract: Mapping[str, Any] | None
    """JSON Schema of every reply, or None without a contract."""
    bundle: Mapping[str, Any] | None
    """The bundle's manifest (id, lineage, gate numbers, …) without its lists of files and golden prompts; None for a
    model that is not a bundle."""


class Described(Protocol):
    """What `describe` reads."""

    name: str
    engine: Backend
    rules: RuleBook | None
    manifest: Manifest | None


def describe(session: Described) -> Info:
    """The `Info` of a session."""
    engine, book, manifest = session.engine, session.rules, session.manifest
    return Info(
        name=session.name,
        backend=engine.name,
        backend_version=engine.version,
        context=engine.context,
        slots=engine.slots,
        memory_bytes=engine.memory_bytes,
        grammars=engine.grammars,
        facts={name: kind if isinstance(kind, str) else list(kind) for name, kind in book.facts.items()}
        if book
        else {},
        rules=tuple(RuleInfo(rule.id, rule.severity, rule.text) for rule in book.rules) if book else (),
        contract=book.schema() if book else None,
        bundle={k: v for k, v in manifest.content.items() if k not in _LARGE} if manifest else None,
    )
