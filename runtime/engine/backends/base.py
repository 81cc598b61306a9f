"""What the scheduler asks of an inference engine: slots that hold sequences, and one `decode`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..chat import Chat

    Rows = NDArray[np.float32]


class Interrupted(Exception):
    """`Backend.decode` was stopped; what the slots hold is not known."""


class Span(NamedTuple):
    """Tokens to append to one slot's sequence in the next `decode`."""

    slot: int
    start: int
    """Position of the first token in the sequence."""
    tokens: Sequence[int]
    rows: int
    """For how many of the last tokens logits are wanted: 0, 1 or ``len(tokens)``."""


class Constraint(Protocol):
    """What a grammar allows next. One object per request."""

    def allow(self, row: Rows) -> Rows:
        """A copy of ``row`` [n_vocab] in which every token the grammar forbids is -inf."""

    def permits(self, token: int) -> bool:
        """Whether ``token`` may come next (cheaper than `allow`)."""

    def accept(self, token: int) -> None:
        """Move on by a permitted token."""

    def forced(self) -> list[int]:
        """Tokens that spell what must come next; empty where there is a choice, or where the library cannot tell."""

    @property
    def complete(self) -> bool:
        """Whether nothing may follow but the end."""

    def close(self) -> None:
        """Free native memory."""


class Backend(Protocol):
    """One loaded model with ``slots`` independent sequences. Used by one thread at a time, except `encode` and
    `piece`, which any thread may call."""

    name: str
    version: str
    n_vocab: int
    context: int
    """Tokens one sequence can hold."""
    slots: int
    memory_bytes: int
    """Weights and the KV cache of one full sequence."""
    batch: int
    """Most tokens in one `decode`."""
    chat: Chat
    """Chat templates and special tokens by name."""
    stops: frozenset[int]
    """Tokens that end a reply."""
    controls: tuple[str, ...]
    """Texts of the control tokens, which must not be forged by message content."""
    added: tuple[str, ...]
    """Texts of the other tokens that are matched in a text before it is split."""
    folds: bool
    """Whether the tokenizer takes characters for one another (full-width brackets for brackets, capitals for small
    letters), or leaves out such as are not seen."""
    grammars: bool
    """Whether `constraint` works."""
    drafts: bool
    """Whether several tokens of one sequence, with logits for each, may cost less than one after another."""

    @property
    def alike(self) -> int:
        """Tokens of a sequence, at most ``context``, up to which steps of several tokens may round as single ones."""

    clock: Callable[[], float]
    """Seconds by which steps are compared: the thread's processor time where the processor decodes, which other work on
    the machine does not stretch."""
    shares: bool
    """Whether `copy` works."""
    keeps: bool
    """Whether `save` and `restore` work."""
    cache: str
    """What the bytes of `save` depend upon besides the model: the engine's version, types and layout."""

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; control tokens written in it are recognised, none is added."""

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; empty for a control token."""

    def decode(self, spans: Sequence[Span]) -> Rows:
        """Append the spans (at most ``batch`` tokens in all); float32 logits [sum of rows, n_vocab] in their order.

        The array may be overwritten by the next call. Raises Interrupted when `stop` was called meanwhile.
        """

    def keep_threads(self) -> None:
        """Decode with the same threads from now on, whatever other programs do: replies stay the same."""

    def stop(self, *, on: bool) -> None:
        """Have `decode` end as soon as it can, until it is taken back. Any thread may call it."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Make ``target`` hold the first ``length`` tokens of ``source``."""

    def cut(self, slot: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of a slot."""

    def save(self, slot: int) -> memoryview:
        """Keys and values of all tokens of a slot."""

    def restore(self, slot: int, data: memoryview) -> bool:
        """Make ``slot`` hold what `save` gave; False (and the slot is empty) where the engine does not take it."""

    def constraint(self, grammar: str) -> Constraint:
        """Compile a grammar in llguidance's dialect or, with llama.cpp, in GBNF (root rule ``root``); UsageError when
        it does not parse or is not supported.

        Any thread may call it.
        """

    def close(self) -> None:
        """Free the model."""
