"""What turning rules into training data buys: the same base, rows and steps with ``augment`` and without, rule by rule.

    python benchmarks/train/augment.py BASE DATA RULES OUT [--rows 600,4800] [--steps 400]

BASE: the model before tuning. DATA: a folder with train.jsonl and eval.jsonl. ``finetune.sft`` trains from BASE on the
first ROWS training rows, once with ``augment: true`` (named rules permuted and dropped, optional rules switched on and
off) and once with ``augment: false``. Asked are all items of eval.jsonl as they are, and each once more with every
optional rule switched the other way: the same customer, another house rule. Raw greedy replies in the runtime.

Per rule: share of replies that keep it without and with, and the difference (Tango, 95 % on each side).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from asked import answer, difference, judge, points, run_stage, share, subset


def switched(book: Any, item: Any) -> Any:
    """The item with the optional rules switched."""
    from compress.validate.items import with_system
    from runtime.rules import Turn

    prompted = tuple(rule.id for rule in book.optional if rule.id not in item.turn.prompted)
    said = tuple(message for message in item.messages if message["role"] != "system")
    turn = with_system(book, Turn(said, item.turn.facts, item.turn.labels, item.turn.sources, prompted))
    return replace(item, id=f"{item.id}-switched", messages=turn.messages, turn=turn)


def kept(rules: Any, name: str) -> np.ndarray:
    """Whether each reply keeps the rule, NaN where it is not in force."""
    return np.array([float(verdicts[name]) if name in verdicts else np.nan for verdicts in rules])


def compare(title: str, book: Any, items: Any, without: Any, with_: Any) -> None:
    """Print what one set of items shows."""
    print(f"\n{title}, n = {len(items)}")
    print(
        f"  accuracy: {share(without.right)} -> {share(with_.right)}, {points(difference(without.right, with_.right))}"
    )
    print(f"  hard rules broken: {share(without.broke)} -> {share(with_.broke)}, "
          f"{points(difference(without.broke, with_.broke))}")  # fmt: skip
    for rule in book.rules:
        a, b = kept(without.rules, rule.id), kept(with_.rules, rule.id)
        if not np.isnan(a).all():
            optional = ", optional" if rule.optional else ""
            print(f"  {rule.id} ({rule.severity}{optional}): {share(a)} -> {share(b)}, {points(difference(a, b))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "data", "rules", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--rows", default="600,4800")
    parser.add_argument("--method", default="qlora")
    for name, value in (("steps", 400), ("rank", 32), ("batch", 16)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    from compress.validate.items import load_items
    from runtime.rules import load_rules

    book = load_rules(given.rules)
    items = load_items(given.data / "eval.jsonl", book)
    both = [*items, *(switched(book, item) for item in items)]
    for rows in map(int, given.rows.split(",")):
        data = subset(given.data, rows, given.out / f"data-{rows}")
        found = []
        for augment in (False, True):
            place = given.out / f"{rows}-{'with' if augment else 'without'}"
            params = {"method": given.method, "rank": given.rank, "batch": given.batch, "steps": given.steps}
            took = run_stage("finetune.sft", {**params, "augment": augment}, given.base, data, given.rules, place)
            replies = answer(place / "out", both, place)
            n = len(items)
            found.append([judge(book, items, replies[:n]), judge(book, both[n:], replies[n:])])
            print(f"{rows} rows, {given.steps} steps, augment {augment}: {took.cpu:.0f} s of processors", flush=True)
        compare(f"{rows} rows: as the evaluation is", book, items, found[0][0], found[1][0])
        compare(f"{rows} rows: optional rules switched", book, both[len(items) :], found[0][1], found[1][1])


if __name__ == "__main__":
    main()
