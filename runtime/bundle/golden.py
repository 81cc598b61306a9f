"""Golden prompts: a few conversations with the tokens that this very model gives, checked wherever it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..engine.template import STILL
from ..errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .manifest import Manifest

    Messages = Sequence[Mapping[str, str]]

TIE = 0.25
"""Logits closer than this may change places under another CPU's rounding; a broken model differs by far more."""


class Answerer(Protocol):
    """What a self-test needs of a session."""

    engine: Any
    """Its ``stops`` are the tokens that end a reply."""

    def encode_chat(self, messages: Messages, *, now: Any = None) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn, at the time ``now``."""

    def complete_many(self, prompts: Sequence[Messages], *, max_tokens: int = 256) -> Sequence[Any]:
        """Greedy replies with ``text`` and ``token_ids``."""

    def logits(self, ids: Sequence[int]) -> Any:
        """float32 ``[len(ids), vocab]``: row i scores the token after ``ids[: i + 1]``."""


def make_golden(session: Answerer, prompts: Sequence[Messages], *, max_tokens: int = 48) -> list[dict[str, Any]]:
    """The manifest's ``golden`` entries: each prompt alone, greedy."""
    entries = []
    for messages in prompts:
        (reply,) = session.complete_many([messages], max_tokens=max_tokens)
        entries.append(
            {
                "messages": [dict(message) for message in messages],
                "max_tokens": max_tokens,
                "token_ids": reply.token_ids,
                "text": reply.text,
            }
        )
    return entries


def self_test(session: Answerer, manifest: Manifest) -> tuple[int, int]:
    """Answer the golden prompts: ``(answered, of these differing only by rounding)``.

    Raises ArtifactError naming the first prompt whose tokens differ where the model was not in two minds.
    """
    rounding = 0
    for number, entry in enumerate(manifest.content["golden"], 1):
        (reply,) = session.complete_many([entry["messages"]], max_tokens=entry["max_tokens"])
        if reply.token_ids == entry["token_ids"]:
            continue
        if not _tied(session, entry, reply.token_ids):
            raise ArtifactError(
                f"self-test: golden prompt {number} of {manifest.folder} "
                f"gave {reply.text!r}, expected {entry.get('text')!r}",
                next="check the backend's version against 'backend' in manifest.json, or package the model anew",
            )
        rounding += 1
    return len(manifest.content["golden"]), rounding


def _tied(session: Answerer, entry: Any, found: list[int]) -> bool:
    """Whether the first differing token was about as likely as the expected one."""
    expected = entry["token_ids"]
    same = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), None)
    if same is None:
        same = min(len(expected), len(found))
    row = session.logits(session.encode_chat(entry["messages"], now=STILL) + expected[:same])[-1]
    wanted = [expected[same]] if same < len(expected) else sorted(session.engine.stops)
    return bool(max(row[token] for token in wanted) >= row.max() - TIE)
