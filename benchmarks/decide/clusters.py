"""Type I error and power of the paired test where items stand in clusters, with the design effect of the gate.

python benchmarks/decide/clusters.py [--rounds 1000] [--shape 5-to-10 …] [--back 0 0.01 …]

A cell is a shape of clusters, a margin, flips beyond the margin, an intra-cluster correlation (ICC) and a way to be
correlated: *copy* (each item takes its cluster's outcome with probability sqrt(ICC)), *dirichlet* (a cluster has rates
of its own), *block* (a share ICC of the clusters moves as one, the rest not at all together). Truth lies exactly at the
margin, so that every PASS is an error. ``fixed 0.5`` and ``fixed 1`` are the design effect with half and one imagined
cluster whatever the margin, ``none`` takes the items for independent.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from math import sqrt
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress.validate.clusters import Clustering
from compress.validate.score_test import BETTER, significant

SHAPES = {
    "pairs": [2] * 200,
    "1-to-4": np.random.default_rng(7).integers(1, 5, 140).tolist(),
    "5-to-10": np.random.default_rng(7).integers(5, 11, 50).tolist(),
    "60x10": [10] * 60,
    "120x10": [10] * 120,
    "60x20": [20] * 60,
    "geometric": np.random.default_rng(7).geometric(0.2, 90).tolist(),
    "zipf": [max(1, 60 // k) for k in range(1, 61)] + [1] * 60,
    "giant": [40] + [1] * 300 + [3] * 30,
    "5x80": [80] * 5,
    "20x20": [20] * 20,
    "two-count": [100, 50] + [1] * 100,
}
FEW = ("5x80", "20x20", "two-count")
TRUTHS = (
    (0.0, "copy"),
    *((icc, how) for icc in (0.1, 0.3) for how in ("copy", "dirichlet", "block")),
    (1.0, "copy"),
)
RULES = ("gate", "fixed 0.5", "fixed 1", "none")


def draw(rng, sizes, icc, how, rates, rounds):
    """int8 ``[rounds, items]`` of -1 (baseline only), 1 (candidate only), 0."""
    at, shape = np.repeat(np.arange(len(sizes)), sizes), (rounds, sum(sizes))

    def outcomes(drawn, rates):
        return np.where(drawn < rates[0], -1, np.where(drawn < rates[0] + rates[1], 1, 0)).astype(np.int8)

    shared = outcomes(rng.random((rounds, len(sizes))), rates)[:, at]
    own = outcomes(rng.random(shape), rates)
    if how == "block":
        return np.where((rng.random((rounds, len(sizes))) < icc)[:, at], shared, own)
    if how == "dirichlet":
        weights = np.maximum(np.array([*rates, 1 - sum(rates)]) * (1 - icc) / icc, 1e-12)
        mine = rng.dirichlet(weights, size=(rounds, len(sizes)))
        return outcomes(rng.random(shape), (mine[..., 0][:, at], mine[..., 1][:, at]))
    return np.where(rng.random(shape) < sqrt(icc), shared, own)


@cache
def passes(n, b, c, margin):
    return significant(n, b, c, -margin, BETTER)


def share(rng, sizes, icc, how, rates, margin, rounds):
    """Share of rounds that pass, by rule."""
    at = np.repeat(np.arange(len(sizes)), sizes)
    passed = dict.fromkeys(RULES, 0)
    for values in draw(rng, sizes, icc, how, rates, rounds):
        known, n = Clustering.of(values, at), len(at)
        t, R, alone = known.typical, known.robust, known.independent
        b, c = int((values < 0).sum()), int((values > 0).sum())
        effects = known.effect(margin), (R + t * t / 2) / (alone + t / 2), (R + t * t) / (alone + t), 1.0
        for rule, effect in zip(RULES, effects, strict=True):
            deff = round(max(effect, 1.0), 2)
            passed[rule] += passes(n / deff, b / deff, c / deff, margin)
    return [passed[rule] / rounds for rule in RULES]


def shown(shares):
    return " | ".join(f"{share:.3f}" for share in shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument(
        "--shape", nargs="*", default=[shape for shape in SHAPES if shape not in FEW], choices=list(SHAPES)
    )
    parser.add_argument("--back", nargs="*", type=float, default=[0.0, 0.01])
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"| clusters | items | margin | truth | {' | '.join(RULES)} |\n|---|---:|---:|---|{'---:|' * len(RULES)}")
    for shape in options.shape:
        sizes = SHAPES[shape]
        for margin in (0.02, 0.05):
            worst = np.zeros(len(RULES))
            where = ""
            for both in options.back:
                for icc, how in TRUTHS:
                    found = share(rng, sizes, icc, how, (margin + both, both), margin, options.rounds)
                    if found[0] >= worst[0]:
                        where = f"ICC {icc:g} {how}, {100 * both:g} % back"
                    worst = np.maximum(worst, found)
            start = f"| {shape} | {sum(sizes)} | {100 * margin:g} |"
            print(f"{start} at the margin; worst: {where} | {shown(worst)} |", flush=True)
            for flips in (0.005, 0.01, 0.02):
                found = share(rng, sizes, 0.0, "copy", (flips / 2, flips / 2), margin, options.rounds)
                print(f"{start} equal, {100 * flips:g} % flips, independent | {shown(found)} |", flush=True)


if __name__ == "__main__":
    main()
