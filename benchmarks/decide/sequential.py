"""How many items stopping early saves, and what it does to the errors.

python benchmarks/decide/sequential.py [--rounds 500] [--clusters]

Of every case: how often PASS, how often FAIL, the mean share of the items that was asked; and the verdicts of the test
of all items at once. Cases at the margin show the errors.
``--clusters``: the errors alone, of items that stand in clusters (``clusters.py``) and come in random order.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from clusters import SHAPES, TRUTHS, draw

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress.validate.clusters import Clustering
from compress.validate.score_test import BETTER, WORSE, significant
from compress.validate.sequential import plan_looks, sequential_verdict

CASES = (
    ("the same replies", 0.0, 0.0),
    ("equal, 0.5 % flips", 0.0025, 0.0025),
    ("equal, 1 % flips", 0.005, 0.005),
    ("equal, 2 % flips", 0.01, 0.01),
    ("better by the margin, 1 % flips back", None, 0.005),
    ("at the margin, no flips back", 1, 0.0),
    ("at the margin, 1 % back", 1, 0.01),
    ("at the margin, 5 % back", 1, 0.05),
    ("twice the margin worse, 1 % back", 2, 0.01),
    ("three times the margin worse, 1 % back", 3, 0.01),
    ("five times the margin worse, 1 % back", 5, 0.01),
)


@cache
def look(n, b, c, margin, last):
    return sequential_verdict([(n, b, c)], margin, complete=last)


@cache
def at_once(n, b, c, margin):
    return 1 if significant(n, b, c, -margin, BETTER) else -1 if significant(n, b, c, -margin, WORSE) else 0


def run(rng, items, margin, b, c, rounds):
    ends, verdicts, fixed, asked = plan_looks(items), [], [], []
    for _ in range(rounds):
        d = rng.random(items)
        lost, won = np.cumsum(d < b), np.cumsum((d >= b) & (d < b + c))
        for end in ends:
            found = look(end, int(lost[end - 1]), int(won[end - 1]), margin, end == items)
            if found:
                break
        verdicts.append(found)
        asked.append(end / items)
        fixed.append(at_once(items, int(lost[-1]), int(won[-1]), margin))
    shares = [np.mean(np.array(kind) == side) for kind in (verdicts, fixed) for side in (1, -1)]
    return shares, float(np.mean(asked))


def clustered(rng, rounds):
    """Errors in the shapes and truths of ``clusters.py``, the design effect taken anew at every look."""
    print("| clusters | margin | truth | PASS at the margin |")
    print("|---|---:|---|---:|")
    for shape in ("5-to-10", "60x10", "120x10", "geometric"):
        at = np.repeat(np.arange(len(SHAPES[shape])), SHAPES[shape])
        for margin, both, (icc, how) in product((0.02, 0.05), (0.0, 0.01), TRUTHS):
            passed = 0
            for values in draw(rng, SHAPES[shape], icc, how, (margin + both, both), rounds):
                order = rng.permutation(len(at))
                passed += stream(values[order], at[order], margin) == BETTER
            print(f"| {shape} | {100 * margin:g} | ICC {icc:g} {how}, {100 * both:g} % back | {passed / rounds:.3f} |")


def stream(values, clusters, margin):
    """The verdict on items that come one by one."""
    for end in plan_looks(len(values)):
        some = values[:end]
        deff = round(Clustering.of(some, clusters[:end]).effect(margin), 2)
        counts = (round(count / deff, 3) for count in (end, int((some < 0).sum()), int((some > 0).sum())))
        found = look(*counts, margin, end == len(values))
        if found:
            return found
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--clusters", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    if options.clusters:
        clustered(rng, options.rounds)
        return
    print("| items | margin | case | PASS | FAIL | items asked | PASS, all | FAIL, all |")
    print("|---:|---:|---|---:|---:|---:|---:|---:|")
    for items, margin in ((600, 0.02), (1000, 0.02), (2000, 0.02), (300, 0.05), (1000, 0.05)):
        for name, lost, back in CASES:
            b, c = (back, back + margin) if lost is None else (lost, back) if lost < 1 else (lost * margin + back, back)
            shares, asked = run(rng, items, margin, b, c, options.rounds)
            early, late = (" | ".join(f"{share:.3f}" for share in some) for some in (shares[:2], shares[2:]))
            print(f"| {items} | {100 * margin:g} | {name} | {early} | {100 * asked:.0f} % | {late} |", flush=True)


if __name__ == "__main__":
    main()
