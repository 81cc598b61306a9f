"""What one model said to every item: as the model wrote it, and as the rule guard let it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from compress.validate.items import Item
from compress.validate.kept import Kept, by_segment
from compress.validate.runner import Completion, Progress, Runner
from runtime.guard import TEMPLATE, enforce
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
    runner: Runner,
    items: Sequence[Item],
    max_tokens: int,
    kept: Kept,
    *,
    regroup: bool = False,
    stops: Iterable[int] | None = None,
    progress: Progress,
) -> list[Completion]:
    """The model's own greedy replies, segment by segment (``stops``: where segments end). What ``kept`` has is not
    asked again. The first-token times are dropped: they are no part of a proof."""
    prompts = [item.messages for item in items]
    runner.reserve(prompts, max_tokens)

    def some(begin: int, end: int) -> list[Any]:
        def tick(done: int, total: int) -> None:
            progress(begin + done, len(prompts))

        return to_json(runner.complete(prompts[begin:end], max_tokens, regroup=regroup, progress=tick))

    return from_json(list(by_segment(kept, len(prompts), some, stops)))


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
    kept: Kept,
    *,
    progress: Progress,
) -> list[Guarded]:
    """Every reply through the runtime's rule guard, with the retry that the runner would make; retries of a segment
    are decoded together."""
    grammar = book.grammar()

    def some(begin: int, end: int) -> list[Any]:
        part, said = items[begin:end], replies[begin:end]
        sent = [enforce(book, i.turn, r.text, truncated=r.truncated) for i, r in zip(part, said, strict=True)]
        again = [n for n, out in enumerate(sent) if any(done.startswith(f"{TEMPLATE}:") for done in out.interventions)]
        if runner.retries and again:
            asked = [part[n].messages for n in again]
            for n, second in zip(again, runner.retry_many(asked, grammar, max_tokens), strict=True):
                retry = partial(_give, second)
                sent[n] = enforce(book, part[n].turn, said[n].text, retry, truncated=said[n].truncated)
        progress(end, len(items))
        return [[out.text, list(out.interventions)] for out in sent]

    return guarded(by_segment(kept, len(items), some))


def _give(reply: tuple[str, bool]) -> tuple[str, bool]:
    return reply


def guarded(values: Iterable[Any]) -> list[Guarded]:
    """Read back ``[text, [intervention…]]``."""
    return [Guarded(text, tuple(done)) for text, done in values]
