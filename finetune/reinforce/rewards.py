"""What a reply earns: every rule in force that it keeps, and the expected answer.

The checkers are those of the gate and of the runtime. Rewards are about training rows alone: a row whose question is
one of the evaluation's is refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import DataError, UsageError
from compress.numbers import read_number
from compress.validate.items import Item
from finetune.data.fingerprint import fingerprint
from runtime.rules import RuleBook, Turn

if TYPE_CHECKING:
    from finetune.reinforce.params import ReinforceParams

log = logging.getLogger(__name__)
Floats = NDArray[np.float64]
Row = dict[str, Any]
ANSWER = "expected answer"
"""Name of the reward that is no rule's."""
EPSILON = 1e-4
"""Added to deviations, as trl does."""


@dataclass(frozen=True)
class Rewards:
    """The rewards of a rule file, in a fixed order: its rules, then the expected answer; those of weight 0 are out."""

    book: RuleBook
    names: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, book: RuleBook, p: ReinforceParams) -> Rewards:
        """Raises UsageError where nothing is rewarded."""
        weight = {rule.id: 1.0 if rule.severity == "hard" else p.soft_weight for rule in book.rules}
        weight[ANSWER] = p.answer_weight
        kept = {name: value for name, value in weight.items() if value}
        if not kept:
            raise UsageError("nothing is rewarded: every weight is 0", next="raise soft_weight or answer_weight")
        return cls(book, tuple(kept), tuple(kept.values()))

    def judge(self, item: Item, text: str, truncated: bool) -> Floats:
        """1 for a reward that the reply earns, 0 for one that it does not, NaN for one that is not in force;
        float64 ``[rewards]``."""
        found = {verdict.rule: verdict.passed for verdict in self.book.check(item.turn, text, truncated)}
        if item.match:
            found[ANSWER] = not truncated and item.accurate(self.book, text)
        return np.array([float(found[name]) if name in found else np.nan for name in self.names])


def item_of(book: RuleBook, row: Row) -> Item:
    """A training row as a question with what is expected of the reply: the row's ``expected``; otherwise the fields of
    its own reply that are no free text, or the number behind ``####``; otherwise nothing (``match`` is empty)."""
    expected = row.get("expected") or derived(book, row["messages"][-1]["content"]) or {"answer": None, "match": ""}
    turn = Turn.from_row(row)
    name = str(row.get("id", ""))
    return Item(name, turn.messages, turn, expected["answer"], expected.get("match", "exact"), name)


def derived(book: RuleBook, reply: str) -> Mapping[str, Any] | None:
    """What a right reply shows of the answer, or None."""
    if book.contract is not None:
        fields = book.parse(reply).fields or {}
        free = {field.name for field in book.contract.fields if field.kind == "text"}
        answer = {name: value for name, value in fields.items() if name not in free}
        return {"answer": answer, "match": "json"} if answer else None
    final = reply.rpartition("####")[2]
    if final != reply and read_number(final) is not None:
        return {"answer": final.strip(), "match": "numeric"}
    return None


def require_apart(rows: Sequence[Row], evaluation: Path) -> None:
    """Raise DataError naming the first row that asks what an evaluation item asks (user turns, facts and sources)."""
    if not evaluation.is_file():
        return
    held: dict[bytes, tuple[int, Any]] = {}
    with open(evaluation, encoding="utf-8") as handle:
        for line, text in enumerate(handle, 1):
            row = json.loads(text)
            held.setdefault(fingerprint(row), (line, row.get("id")))
    both = [(row.get("id"), held[key]) for row in rows if (key := fingerprint(row)) in held]
    if both:
        (mine, (line, theirs)), more = both[0], len(both) - 1
        rest = f" (and {more} more such rows)" if more else ""
        what = f"training row {mine!r} asks what evaluation item {theirs!r} asks{rest}: rewards must not see it"
        raise DataError(evaluation, line, what, next="remove it from the training data, or set overlap: drop")


def passes(values: Floats) -> NDArray[np.bool_]:
    """Which replies earn every reward in force, bool ``[...]``; ``values`` ``[..., rewards]``."""
    return np.asarray(np.nan_to_num(values, nan=1.0).min(axis=-1) == 1)


def advantages(values: Floats, weights: Sequence[float]) -> Floats:
    """Advantages of replies within their groups, float64 ``[groups, samples]``.

    ``values`` ``[groups, samples, rewards]``, NaN where a reward is not in force. Each reward is normalised alone
    within a group, (r − mean) / (deviation + ε), so that a rule which is seldom broken weighs as much as one that often
    is; then the weighted sums are divided by their deviation over the groups that have any (Liu et al. 2026, GDPO).
    """
    centred = values - values.mean(axis=1, keepdims=True)
    single = np.nan_to_num(centred / (values.std(axis=1, ddof=1, keepdims=True) + EPSILON))
    total = single @ np.asarray(weights)
    told = informative(total)
    scale = total[told].std(ddof=1) if told.any() else 1.0
    return np.asarray(total / (scale + EPSILON))


def informative(total: Floats) -> NDArray[np.bool_]:
    """Groups in which some reply is worth more than another, bool ``[groups]``."""
    return np.asarray(np.ptp(total, axis=1) > 0)


def constant(names: Sequence[str], values: Floats) -> tuple[list[str], list[str]]:
    """(names of rewards that every reply earns, names of those that none does), of ``values`` ``[replies, rewards]``;
    one that is never in force is in neither."""
    seen = [column[~np.isnan(column)] for column in values.T]
    kept = [name for name, column in zip(names, seen, strict=True) if len(column) and column.min() == 1]
    broken = [name for name, column in zip(names, seen, strict=True) if len(column) and column.max() == 0]
    return kept, broken


def constant_facts(names: Sequence[str], values: Floats) -> dict[str, list[str]]:
    """``never_broken`` and ``always_broken``, where there are any."""
    kept, broken = constant(names, values)
    found = {"never_broken": kept, "always_broken": broken}
    return {name: rules for name, rules in found.items() if rules}


def told(names: Sequence[str], values: Floats) -> str:
    """Which rewards are constant and in how many replies they were in force, in words."""
    force = dict(zip(names, (~np.isnan(values)).sum(axis=0).tolist(), strict=True))
    sides = zip(("never broken", "always broken"), constant(names, values), strict=True)
    parts = [
        f"{how}: {', '.join(f'{name} ({force[name]} replies)' for name in found)}" for how, found in sides if found
    ]
    if not any(force.values()):
        return "no rule is in force"
    return "; ".join(parts) or "no single rule is constant"


def tell_of_broken(names: Sequence[str], values: Floats) -> None:
    """Warn of rewards that no reply earns, which teach nothing."""
    _, broken = constant(names, values)
    if broken:
        said = "of %d replies none earns %s: it teaches nothing; check the rule, or the replies"
        log.warning(said, len(values), ", ".join(broken))


def require_varied(names: Sequence[str], values: Floats, varied: bool, cut: int = 0) -> None:
    """Raise UsageError naming the constant rewards unless some tell one reply from another (``varied``); ``cut``: how
    many replies the token limit ended, which earn nothing."""
    if varied:
        return
    passed = passes(values)
    same = "those to one prompt are worth the same"
    if passed.all() or not passed.any():
        same = f"{'every one' if passed.all() else 'none'} keeps all rules"
    what = f"of {len(values)} replies {same}, so there is nothing to learn ({told(names, values)})"
    longer = f"; max_tokens cut {cut} of them: raise it" if cut else ""
    raise UsageError(what, next=f"raise temperature or samples, give harder prompts, or mend the rules{longer}")


def broken_counts(names: Sequence[str], values: Floats) -> dict[str, int]:
    """Reward -> replies that do not earn it, of ``values`` ``[replies, rewards]``, where there are any."""
    counts = {name: int((column == 0).sum()) for name, column in zip(names, values.T, strict=True)}
    return {name: count for name, count in counts.items() if count}
