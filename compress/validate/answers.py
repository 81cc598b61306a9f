"""What one model said to every item: as the model wrote it, and as the rule guard let it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from compress.validate.items import Item
from compress.validate.runners import Completion, Progress, Runner
from runtime.guard import enforce
from runtime.rules import RuleBook


@dataclass(frozen=True)
class Guarded:
    """A reply after the rule guard, with what the guard did."""

    text: str
    interventions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score:
    """Per item: whether it is right, and each active rule's verdict by id."""

    accurate: tuple[bool, ...]
    rules: tuple[Mapping[str, bool], ...]

    def accuracy(self) -> float:
        """Share of right items."""
        return sum(self.accurate) / len(self.accurate)

    def kept(self, rules: set[str]) -> tuple[int, int]:
        """``(kept, checked)`` over the checks of ``rules``."""
        found = [passed for verdicts in self.rules for name, passed in verdicts.items() if name in rules]
        return sum(found), len(found)


def ask(
    runner: Runner, items: Sequence[Item], max_tokens: int, *, regroup: bool = False, progress: Progress
) -> list[Completion]:
    """The model's own greedy replies. The first-token times are dropped: they are no part of a proof."""
    prompts = [item.messages for item in items]
    replies = runner.complete(prompts, max_tokens, regroup=regroup, progress=progress)
    return [replace(reply, ttft_s=None) for reply in replies]


def score(book: RuleBook, items: Sequence[Item], replies: Sequence[tuple[str, bool]]) -> Score:
    """Judge ``(text, truncated)`` of every item; a reply that the limit cut is not right."""
    accurate, rules = [], []
    for item, (text, truncated) in zip(items, replies, strict=True):
        accurate.append(not truncated and item.accurate(book, text))
        rules.append({v.rule: v.passed for v in book.check(item.turn, text, truncated)})
    return Score(tuple(accurate), tuple(rules))


def said(replies: Sequence[Completion]) -> list[tuple[str, bool]]:
    """``(text, truncated)`` of model replies."""
    return [(reply.text, reply.truncated) for reply in replies]


def let_out(replies: Sequence[Guarded]) -> list[tuple[str, bool]]:
    """``(text, truncated)`` of guarded replies; the guard lets no cut reply out as it is."""
    return [(reply.text, False) for reply in replies]


def count_interventions(replies: Sequence[Guarded]) -> dict[str, int]:
    """On how many replies the guard did each kind of thing (``set``, ``retry``, ``template``, ``unsafe``)."""
    kinds = Counter(kind for reply in replies for kind in {text.split(":")[0] for text in reply.interventions})
    return dict(sorted(kinds.items()))


def to_json(replies: Sequence[Completion]) -> list[Any]:
    """Replies as JSON values."""
    return [[r.text, list(r.token_ids), r.truncated] for r in replies]


def from_json(values: Sequence[Any]) -> list[Completion]:
    """Read back what ``to_json`` gave."""
    return [Completion(text, tuple(ids), truncated) for text, ids, truncated in values]


def guard(
    runner: Runner,
    book: RuleBook,
    items: Sequence[Item],
    replies: Sequence[Completion],
    max_tokens: int,
    *,
    progress: Progress,
) -> list[Guarded]:
    """Every reply through the runtime's rule guard, with the retry that the runner would make."""
    grammar = book.grammar()
    sent = []
    for item, reply in zip(items, replies, strict=True):
        retry = partial(runner.retry, item.messages, grammar, max_tokens)
        out = enforce(book, item.turn, reply.text, retry if runner.retries else None, truncated=reply.truncated)
        sent.append(Guarded(out.text, out.interventions))
        progress(len(sent), len(items))
    return sent
