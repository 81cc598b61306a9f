"""The whole gate against a second implementation written from its documentation, and by simulation. Slow."""

import random
from functools import cache
from math import sqrt

import numpy as np
import pytest
from scipy.stats import beta, binom, norm, t

from compress.validate import score_test as score
from compress.validate import statistics as stat
from compress.validate.clusters import Clustering
from compress.validate.gate import judge
from compress.validate.items import Item
from compress.validate.sequential import plan_looks, sequential_verdict
from runtime.rules import Turn, read_rules

pytestmark = pytest.mark.slow
BOOK = read_rules(
    """
version: 1
prompt: {fallback: "beta"}
rules:
  - {id: no-alpha, severity: hard, must_not: {words: [alpha]},
     fixtures: {pass: [{user: hi, reply: beta}], fail: [{user: hi, reply: alpha}]}}
  - {id: beta, severity: soft, margin: 0.1, must: {words: [beta]},
     fixtures: {pass: [{user: hi, reply: beta}], fail: [{user: hi, reply: alpha}]}}
  - {id: no-gamma, severity: hard, when: {user_regex: special}, must_not: {words: [gamma]},
     fixtures: {pass: [{user: special, reply: beta}], fail: [{user: special, reply: gamma}]}}
"""
)
MARGINS = {"accuracy": 0.02, "adherence": 0.02, "rule": 0.05}


def dataset(rng):
    """Items and two systems' replies of random length, likeness and quality."""
    n, size = rng.choice([40, 70, 150, 320]), rng.choice([1, 1, 2, 5])
    broken, changed, worse = rng.choice([0.0, 0.01, 0.1]), rng.choice([0.0, 0.02, 0.1]), rng.choice([0.0, 0.0, 0.08])

    def said(rate):
        words = ["beta"] * (rng.random() >= rate) + ["alpha"] * (rng.random() < rate / 3)
        words += ["gamma"] * (rng.random() < rate)
        return " ".join([*words, "right" if rng.random() >= rate else "wrong"])

    items, baseline, candidate = [], [], []
    for number in range(n):
        user = f"{'special ' * (rng.random() < 0.5)}question {number}"
        turn = Turn(({"role": "user", "content": user},))
        items.append(Item(f"i{number}", turn.messages, turn, "right", "contains", f"c{number // size}"))
        baseline.append((said(broken), False))
        fresh = rng.random() < changed + worse
        candidate.append((said(broken + 0.5 * worse / max(changed + worse, 1e-9)) if fresh else baseline[-1][0], False))
    return items, baseline, candidate


def by_hand(items, baseline, candidate, mode):
    """``{name: (n, baseline passed, candidate passed, verdict, how near a p-value is to alpha)}``, by docs/gate.md."""
    checks = {"accuracy": [], "no-alpha": [], "beta": [], "no-gamma": []}
    for item, (first, _), (second, _) in zip(items, baseline, candidate, strict=True):
        for name, passed in (
            ("accuracy", lambda words: "right" in words),
            ("no-alpha", lambda words: "alpha" not in words),
            ("beta", lambda words: "beta" in words),
            ("no-gamma", lambda words: "gamma" not in words),
        ):
            if name != "no-gamma" or "special" in item.messages[0]["content"]:
                checks[name].append((passed(first.split()), passed(second.split()), item.cluster))
    pooled = {"adherence": checks["no-alpha"] + checks["no-gamma"], "soft adherence": checks["beta"]}
    found = {}
    for name, rows, margin, hard in (
        ("accuracy", checks["accuracy"], 0.02, False),
        ("adherence", pooled["adherence"], 0.02, False),
        ("soft adherence", pooled["soft adherence"], 0.05, False),
        ("no-alpha", checks["no-alpha"], 0.05, True),
        ("beta", checks["beta"], 0.1, False),
        ("no-gamma", checks["no-gamma"], 0.05, True),
    ):
        if rows:
            found[name] = one_by_hand(rows, margin, hard, mode)
    return found


def one_by_hand(rows, margin, hard, mode):
    n, before, after = len(rows), sum(a for a, _, _ in rows), sum(b for _, b, _ in rows)
    flips = [b - a for a, b, _ in rows]
    names = [name for _, _, name in rows]
    deff = deff_by_hand(flips, names, margin)
    b, c = sum(f < 0 for f in flips), sum(f > 0 for f in flips)
    better, worse = (p_by_hand(n, b, c, margin, deff, sign) for sign in (1, -1))
    verdict = "PASS" if better <= 0.05 else "FAIL" if worse <= 0.05 else "INCONCLUSIVE"
    near = min(abs(better - 0.05), abs(worse - 0.05))
    limit = 0.01 if mode == "recorded" else 0.1
    spoiled = before <= margin * n
    if hard:
        bad = deff_by_hand([1 - a for a, _, _ in rows], names, 0.01 if mode == "recorded" else 0.1)
        spoiled = spoiled or rate_bounds(n - before, n, bad)[0] > limit
    if hard and mode == "recorded":
        low, high = rate_bounds(n - after, n, deff_by_hand([1 - b for _, b, _ in rows], names, 0.01))
        verdict, near = ("PASS" if high <= 0.01 else "FAIL" if low > 0.01 else "INCONCLUSIVE"), 1.0
    if spoiled and verdict == "PASS":
        excused = mode == "model" and stat.non_inferiority(n, b, c, margin, deff).low > margin
        verdict = "PASS" if excused else "INCONCLUSIVE"
    return n, before, after, verdict, near


def rate_bounds(k, n, deff):
    k, n = k / deff, n / deff
    return beta.ppf(0.05, k, n - k + 1) if k else 0.0, beta.ppf(0.95, k + 1, n - k) if k < n else 1.0


def deff_by_hand(values, names, margin):
    n, groups, mean = len(values), {}, sum(values) / len(values)
    for value, name in zip(values, names, strict=True):
        groups.setdefault(name, []).append(value - mean)
    if len(groups) == n:
        return 1.0
    typical = sum(len(group) ** 2 for group in groups.values()) / n
    alone = sum(value * value for group in groups.values() for value in group)
    robust = sum(sum(group) ** 2 / (1 - len(group) / n) for group in groups.values()) if len(groups) > 1 else n * alone
    robust *= (t.ppf(0.95, max(n / typical - 1, 0.5)) / norm.ppf(0.95)) ** 2
    flips = min(max(0.16 * margin * n, 0.5), typical)
    return min(max((robust + flips * typical) / (alone + flips), 1.0), n)


def p_by_hand(n, b, c, margin, deff, sign):
    """Exact p-value by listing outcomes; real counts by interpolation between whole ones."""
    whole = int(n / deff + 1e-9)
    if not whole:
        return 1.0
    b, c = b * whole / n, c * whole / n
    if sign * stat.tango_z(whole, b, c, -margin) <= 0:
        return 1.0
    total, b0, c0 = 0.0, int(b + 1e-9), int(c + 1e-9)
    for i in (0, 1):
        for j in (0, 1):
            part_b, part_c = max(b - b0, 0.0), max(c - c0, 0.0)
            part_b, part_c = (0.0 if part < 1e-9 else part for part in (part_b, part_c))
            share = (part_b if i else 1 - part_b) * (part_c if j else 1 - part_c)
            if share:
                total += share * whole_p_by_hand(whole, b0 + i, min(c0 + j, whole - b0 - i), margin, sign)
    return total


@cache
def whole_p_by_hand(n, b, c, margin, sign):
    seen = stat.tango_z(n, b, c, -margin)
    if sign * seen <= 0:
        return 1.0
    flips, out = b + c, 1e-4
    low = max(((beta.ppf(out / 2, flips, n - flips + 1) if flips else 0.0) - margin) / 2, 0.0)
    high = min(((beta.ppf(1 - out / 2, flips + 1, n - flips) if flips < n else 1.0) - margin) / 2, (1 - margin) / 2)
    if low > high:
        return out
    worst = 0.0
    cs = np.arange(min(n, int(n * high + 9 * sqrt(n * high)) + 15) + 1)
    edges = []
    for k in cs.tolist():  # one step at a time: scores fall with b
        edge = edges[-1] if edges else -1 if sign > 0 else 0
        if sign > 0:
            while edge + 1 <= n - k and stat.tango_z(n, edge + 1, k, -margin) >= seen - 1e-9:
                edge += 1
        else:
            while edge <= n - k and stat.tango_z(n, edge, k, -margin) > seen + 1e-9:
                edge += 1
        edges.append(edge)
    edge = np.array(edges)
    for q in np.linspace(low, high, 16):
        given = min((q + margin) / (1 - q), 1.0)
        tail = binom.cdf(edge, n - cs, given) if sign > 0 else binom.sf(edge - 1, n - cs, given)
        worst = max(worst, float((binom.pmf(cs, n, q) * tail).sum()))
    return min(worst + out, 1.0)


def test_judge_is_what_the_documentation_says():
    rng, compared = random.Random(7), 0
    for _ in range(120):
        items, baseline, candidate = dataset(rng)
        for mode in ("model", "recorded"):
            expected = by_hand(items, baseline, candidate, mode)
            found = judge(BOOK, items, baseline, candidate, mode=mode)
            rows = {row.name: row for row in found.suites} | {row.id: row for row in found.rules}
            verdicts = set()
            for name, (n, before, after, verdict, near) in expected.items():
                row = rows[name]
                assert (row.n, round(row.baseline * n), round(row.candidate * n)) == (n, before, after), name
                if near > 2e-4:
                    assert row.verdict == verdict, (name, mode, row, near)
                    compared += 1
                verdicts.add(row.verdict)
            worst = next(v for v in ("FAIL", "INCONCLUSIVE", "PASS") if v in verdicts)
            assert found.verdict == worst
    assert compared > 1300


@pytest.mark.parametrize("margin", [0.02, 0.05])
@pytest.mark.parametrize("both", [0.0, 0.01, 0.05])
def test_type_one_error_and_power(margin, both):
    rng = np.random.default_rng(17)
    for n in (60, 63, 150, 156, 400, 900):
        b, c = rng.multinomial(n, [both + margin, both, 1 - 2 * both - margin], size=4000)[:, :2].T
        for side in (score.BETTER, score.WORSE):
            assert shares(n, b, c, margin, side) < 0.06, (n, side)  # 0.05 and three errors of the simulation
    discordance = 2 * both
    n = stat.sample_size(margin, discordance)
    b, c = rng.multinomial(n, [both, both, 1 - discordance], size=2000)[:, :2].T
    assert 0.88 < shares(n, b, c, margin, score.BETTER) <= 1


def shares(n, b, c, margin, side):
    """In how many of the samples the test is significant."""
    pairs, counts = np.unique(np.stack([b, c], 1), axis=0, return_counts=True)
    hits = [score.significant(n, int(one), int(two), -margin, side) for one, two in pairs]
    return float((np.array(hits) * counts).sum() / counts.sum())


SIZES = {
    "5 to 10": [5, 6, 7, 8, 9, 10] * 8,
    "skewed": [60, 30, 20, 15, 12, 10] + [5] * 12 + [2] * 40 + [1] * 60,
    "few": [80] * 5,
    "two that count": [100, 50] + [1] * 100,
}


@pytest.mark.parametrize("icc", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("margin", [0.02, 0.05])
@pytest.mark.parametrize("both", [0.01, 0.3])
def test_type_one_error_in_clusters(icc, shape, margin, both):
    rng, sizes = np.random.default_rng(5), np.array(SIZES[shape])
    at = np.repeat(np.arange(len(sizes)), sizes)
    passed = failed = 0
    rounds = 800
    for _ in range(rounds):
        rates = [margin + both, both, 1 - 2 * both - margin]
        shared = rng.choice([-1, 1, 0], p=rates, size=len(sizes))[at]
        own = rng.choice([-1, 1, 0], p=rates, size=len(at))
        values = np.where(rng.random(len(at)) < sqrt(icc), shared, own)
        deff = Clustering.of(values, at).effect(margin)
        b, c = (values < 0).sum(), (values > 0).sum()
        counts = len(at) / deff, b / deff, c / deff
        passed += score.significant(*counts, -margin, score.BETTER)
        failed += score.significant(*counts, -margin, score.WORSE)
    assert max(passed, failed) / rounds < 0.06 + 0.017, (icc, shape)  # two errors of the simulation


@pytest.mark.parametrize(("margin", "items"), [(0.02, 1000), (0.05, 400)])
def test_stopping_early_keeps_alpha_and_saves_half(margin, items):
    rng, ends = np.random.default_rng(9), plan_looks(items)

    def run(worse, both, rounds):
        verdicts, asked = [], []
        for _ in range(rounds):
            d = rng.choice([-1, 1, 0], p=[both + worse, both, 1 - 2 * both - worse], size=items)
            for end in ends:
                counts = (end, int((d[:end] < 0).sum()), int((d[:end] > 0).sum()))
                found = sequential_verdict([counts], margin, complete=end == items)
                if found:
                    break
            verdicts.append(found)
            asked.append(end / items)
        return np.array(verdicts), np.mean(asked)

    for both in (0.0, 0.02):
        verdicts, _ = run(margin, both, 600)
        assert (verdicts == score.BETTER).mean() <= 0.05 + 0.018
        assert (verdicts == score.WORSE).mean() <= 0.05 + 0.018
    for worse, both, wanted in ((0.0, 0.0, score.BETTER), (0.0, 0.0025, score.BETTER), (4 * margin, 0.0, score.WORSE)):
        verdicts, asked = run(worse, both, 150)
        assert (verdicts == wanted).mean() > 0.95
        assert asked < 0.5, (worse, both)
