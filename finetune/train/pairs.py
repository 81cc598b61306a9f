"""Replies that are wanted and replies that are not: from the data, or made from the rule file."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from compress.errors import DataError, UsageError
from compress.stage import Job
from finetune.data import augment
from finetune.train.rows import Row, read_rows, training_rows
from runtime.rules import load_rules

log = logging.getLogger(__name__)
LABEL_RANGE = (0.0, 1.0)
BREAKS = "breaks"
"""Key of a mutated row: the one rule that its reply breaks."""


def read_pairs(job: Job[Any]) -> tuple[list[tuple[Row, Row]], dict[str, Any]]:
    """(conversation with the chosen reply, the same with the rejected one) in a fixed random order; and counts."""
    rows = read_rows(job)
    given = [row for row in rows if isinstance(row.get("rejected"), str)]
    way = job.params.pairs
    if way == "given" or (way == "auto" and given):
        if not given:
            what = "no training row has a rejected reply"
            raise DataError("training data", None, what, next="give chosen and rejected, or set pairs: mutations")
        made = [(row, answered(row, row["rejected"])) for row in given]
        same = sum(good["messages"][-1] == bad["messages"][-1] for good, bad in made)
        made = [pair for pair in made if pair[0]["messages"][-1] != pair[1]["messages"][-1]]
        if not made:
            what = "chosen and rejected are the same in every row"
            raise DataError("training data", None, what, next="check the columns")
        _left_out(len(rows) - len(given), len(rows), "have no rejected reply")
        _left_out(same, len(rows), "have the same reply as chosen and as rejected")
        counts: dict[str, Any] = {"pairs": len(made), "equal_pairs": same}
    else:
        made, counts = mutated(job)
    random.Random(job.seed).shuffle(made)
    return made, counts


def answered(row: Row, reply: str) -> Row:
    """The conversation with another last reply."""
    return {**row, "messages": [*row["messages"][:-1], {"role": "assistant", "content": reply}]}


def mutated(job: Job[Any]) -> tuple[list[tuple[Row, Row]], dict[str, Any]]:
    """Good replies and mutations that break one rule each; of a row's mutations the one whose rule is rarest so far.

    Raises UsageError without a rule file, DataError naming the rules if no mutation breaks exactly one.
    """
    if job.rules is None:
        what = "there are no rejected replies in the data and no rule file to make them from"
        hint = "give rows with chosen and rejected, or name a rule file under rules:"
        if any(row.get("label") is not None for row in read_rows(job)):
            hint += "; replies with a label are learnt by finetune.kto and finetune.ulma"
        raise UsageError(what, next=hint)
    book = load_rules(job.rules)
    rows, counts = training_rows(job)
    by_rule: Counter[str] = Counter()
    made: list[tuple[Row, Row]] = []
    rng = random.Random(job.seed)
    for row in rows:
        found = augment.negatives(book, row)
        if found:
            rule = min(found, key=lambda name: (by_rule[name], rng.random()))
            by_rule[rule] += 1
            made.append((row, {**answered(row, found[rule]), BREAKS: rule}))
    if not made:
        what = f"no reply of {len(rows)} can be changed so that it breaks one rule alone"
        raise DataError("training data", None, what, next="give fixtures that break each rule, or rejected replies")
    return made, {**counts, "pairs": len(made), "pairs_by_rule": dict(sorted(by_rule.items()))}


def read_examples(job: Job[Any], *, pairwise: bool) -> tuple[list[list[tuple[Row, float]]], dict[str, Any]]:
    """Pairs of (conversation, label), the chosen one (1) first; or, unless ``pairwise``, single ones of rows that have
    a ``label`` and no rejected reply."""
    labelled = [] if pairwise or job.params.pairs == "mutations" else _labelled(read_rows(job))
    if not labelled:
        made, counts = read_pairs(job)
        return [[(good, 1.0), (bad, 0.0)] for good, bad in made], counts
    graded = getattr(job.params, "labels", "binary") == "continuous"
    between = next(((row, label) for row, label in labelled if not graded and label not in LABEL_RANGE), None)
    if between is not None:
        what = f"row {between[0].get('id')!r} has the label {between[1]:g}, and this method knows wanted (1) or not (0)"
        hint = "mend the label, or use finetune.ulma with labels: continuous"
        raise DataError("training data", None, what, next=hint)
    values = {label for _, label in labelled}
    if len(values) == 1:
        what = f"every reply has the label {values.pop():g}: there is nothing to tell apart"
        raise DataError("training data", None, what, next="give replies of both kinds")
    random.Random(job.seed).shuffle(labelled)
    counts = {"replies": len(labelled)}
    if not graded:
        wanted = sum(label == LABEL_RANGE[1] for _, label in labelled)
        counts |= {"wanted": wanted, "unwanted": len(labelled) - wanted}
    return [[reply] for reply in labelled], counts


def _labelled(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    if any(isinstance(row.get("rejected"), str) for row in rows):
        return []
    found = [(row, _label(row)) for row in rows if row.get("label") is not None]
    if found:
        _left_out(len(rows) - len(found), len(rows), "have no label")
    return found


def _left_out(count: int, rows: int, why: str) -> None:
    if count:
        log.warning("%d of %d training rows are left out: they %s", count, rows, why)


def _label(row: Mapping[str, Any]) -> float:
    value = row["label"]
    low, high = LABEL_RANGE
    if isinstance(value, str) or not isinstance(value, bool | int | float) or not low <= float(value) <= high:
        what = f"row {row.get('id')!r} has the label {value!r}, not true, false or a number from {low:g} to {high:g}"
        raise DataError("training data", None, what, next="mend the label")
    return float(value)


def held_apart(prompts: Sequence[str], count: int, seed: int) -> set[str]:
    """The prompts of at least ``count`` examples that are not trained on. Raises DataError for too few of them."""
    sizes = Counter(prompts)
    order = sorted(sizes)
    random.Random(f"held out {seed}").shuffle(order)
    held: set[str] = set()
    while order and sum(sizes[key] for key in held) < count:
        held.add(order.pop())
    if count and not order:
        what = f"{len(prompts)} pairs of {len(sizes)} prompts are too few to keep {count} out"
        raise DataError("training data", None, what, next="lower held_out")
    return held


def prompt_of(row: Row) -> str:
    """What a reply answers."""
    return json.dumps([[m["role"], m["content"]] for m in row["messages"][:-1]])
