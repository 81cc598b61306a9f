"""The gate's arithmetic against published figures, a slow obvious reference, and simulation."""

import itertools
from math import comb, log, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom, t

from compress.validate import score_test as score
from compress.validate import statistics as stat
from compress.validate.clusters import Clustering

Z975 = 1.959963984540054


@pytest.mark.parametrize(
    ("n", "b", "c", "z", "low", "high", "digits"),
    [
        # Tango 1998: contact lenses, 44 pairs, one discordant, 90 % interval (also in the tests of R's ratesci)
        (44, 1, 0, stat.Z, -0.096, 0.037, 3),
        # Tango 1998: 32 pairs, 9 and 3 discordant, 95 % interval (ratesci)
        (32, 3, 9, Z975, -0.027, 0.390, 3),
        # Bentur et al. 2009 in Fagerland, Lydersen & Laake 2014: airway reactivity, 21 children, 95 % interval
        (21, 7, 1, Z975, -0.517, -0.026, 3),
        # R's PropCIs::scoreci.mp(25, 28, 618), 90 % interval
        (618, 25, 28, stat.Z, -0.0148, 0.0247, 4),
    ],
)
def test_bounds_are_the_published_ones(n, b, c, z, low, high, digits):
    found = stat.tango_bounds(n, b, c, z)
    assert (round(found[0], digits), round(found[1], digits)) == (low, high)


def reference_z(n, b, c, lam, steps=200_001):
    """The constrained maximum of the likelihood by looking at every value of a fine grid."""
    grid = np.linspace(max(0.0, -lam), (1 - lam) / 2, steps)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [
            k * np.log(p) if k else 0 * p for k, p in ((b, grid), (c, grid + lam), (n - b - c, 1 - 2 * grid - lam))
        ]
    likelihood = np.nan_to_num(sum(parts), nan=-np.inf)
    q = grid[int(np.argmax(likelihood))]
    variance = n * (2 * q + lam - lam * lam)
    return (c - b - n * lam) / sqrt(variance)


@pytest.mark.parametrize(
    ("n", "b", "c"), [(50, 0, 0), (50, 3, 0), (50, 0, 3), (50, 4, 7), (200, 30, 10), (10, 5, 5), (10, 0, 10)]
)
@pytest.mark.parametrize("lam", [-0.3, -0.05, -0.02, 0.02, 0.3])
def test_the_statistic_is_that_of_a_grid_search(n, b, c, lam):
    assert stat.tango_z(n, b, c, lam) == pytest.approx(reference_z(n, b, c, lam), abs=2e-3, rel=1e-3)


counts = st.integers(1, 400).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda b: st.integers(0, n - b).map(lambda c: (n, b, c)))
)


@settings(deadline=None, max_examples=25)
@given(counts, st.floats(0.005, 0.3))
def test_bounds_and_test_agree(known, margin):
    n, b, c = known
    low, high = score.bounds(n, b, c)
    result = stat.non_inferiority(n, b, c, margin)
    assert -1 <= low <= (c - b) / n <= high <= 1
    assert (result.low >= -margin) == (result.verdict == stat.PASS) or abs(result.low + margin) < 1e-9
    assert (result.high <= -margin) == (result.verdict == stat.FAIL) or abs(result.high + margin) < 1e-9
    if abs(low + margin) > 2e-3 and abs(high + margin) > 2e-3:  # exact p-values jump a little on the way
        assert result.verdict == (stat.PASS if low > -margin else stat.FAIL if high < -margin else stat.INCONCLUSIVE)
    assert score.bounds(n, c, b) == pytest.approx((-high, -low), abs=2.1 * score.FINE)


def reference_p(n, b, c, lam, better):
    """The exact p-value by going through every outcome, at a hundred of the shares of flips that are possible."""
    flips, out = b + c, score.OUTSIDE
    least = beta.ppf(out / 2, flips, n - flips + 1) if flips else 0.0
    most = beta.ppf(1 - out / 2, flips + 1, n - flips)
    grid = np.linspace(max((least + lam) / 2, lam, 0.0), min((most + lam) / 2, (1 + lam) / 2), 101)
    seen, tails = stat.tango_z(n, b, c, lam), np.zeros(len(grid))
    for i in range(n + 1):
        for j in range(n - i + 1):
            z = stat.tango_z(n, i, j, lam)
            if (z >= seen - 1e-9) if better else (z <= seen + 1e-9):
                tails += comb(n, i) * comb(n - i, j) * (grid - lam) ** i * grid**j * (1 - 2 * grid + lam) ** (n - i - j)
    return tails.max()


@pytest.mark.parametrize(
    ("n", "b", "c"), [(12, 0, 0), (12, 0, 3), (14, 1, 4), (10, 5, 0), (16, 6, 1), (9, 4, 1), (15, 0, 1)]
)
@pytest.mark.parametrize("lam", [-0.1, -0.25, 0.05])
def test_p_values_are_those_of_going_through_every_outcome(n, b, c, lam):
    for side in (score.BETTER, score.WORSE):
        if side * stat.tango_z(n, b, c, lam) > 0:
            exact, found = reference_p(n, b, c, lam, side == score.BETTER), score.p_value(n, b, c, lam, side)
            assert 0.97 * exact <= found <= exact + score.OUTSIDE + 1e-9


def test_above_the_exact_counts_the_normal_curve_is_near():
    for n, b, c, lam in ((5000, 220, 170, -0.02), (3000, 260, 120, -0.03), (2200, 130, 70, -0.05)):
        side = score.BETTER if stat.tango_z(n, b, c, lam) > 0 else score.WORSE
        normal = NormalDist().cdf(-abs(stat.tango_z(n, b, c, lam)))
        assert score._exact(n, b, c, lam, side) == pytest.approx(normal, abs=1.5e-3)


def test_real_counts_lie_between_whole_ones():
    low, high = (score.p_value(200, b, 1, -0.05, score.BETTER) for b in (2, 3))
    assert low < score.p_value(200, 2.5, 1, -0.05, score.BETTER) < high
    assert score.p_value(200.9, 0, 0, -0.02, score.BETTER) == score.p_value(200, 0, 0, -0.02, score.BETTER)
    assert score.p_value(0.4, 0, 0, -0.02, score.BETTER) == 1


@settings(deadline=None)
@given(counts)
def test_the_statistic_falls_with_the_hypothesis(known):
    n, b, c = known
    values = [stat.tango_z(n, b, c, lam) for lam in np.linspace(-0.99, 0.99, 23)]
    assert all(first >= second - 1e-9 for first, second in itertools.pairwise(values))


def test_zero_flip_floors():
    assert [stat.zero_flip_floor(margin) for margin in (0.05, 0.02, 0.01)] == [59, 149, 299]
    for margin, floor in ((0.05, 59), (0.02, 149), (0.01, 299)):
        assert stat.non_inferiority(floor, 0, 0, margin).verdict == stat.PASS
        short = stat.non_inferiority(floor - 1, 0, 0, margin)
        assert (short.verdict, short.needed) == (stat.INCONCLUSIVE, floor)
    five = stat.non_inferiority(5, 0, 0, 0.05)
    assert (five.verdict, five.needed) == (stat.INCONCLUSIVE, 59)


def test_clear_cases():
    assert stat.non_inferiority(600, 60, 5, 0.02).verdict == stat.FAIL
    assert stat.non_inferiority(600, 5, 60, 0.02).verdict == stat.PASS
    at_the_margin = stat.non_inferiority(100, 2, 0, 0.02)
    assert (at_the_margin.verdict, at_the_margin.needed) == (stat.INCONCLUSIVE, None)


@pytest.mark.parametrize(("n", "b", "c", "margin"), [(100, 1, 1, 0.02), (60, 5, 1, 0.05), (30, 3, 0, 0.05)])
def test_the_number_that_would_decide_does(n, b, c, margin):
    first = stat.non_inferiority(n, b, c, margin)
    assert first.verdict == stat.INCONCLUSIVE
    factor = first.needed / n
    assert stat._verdict(first.needed, b * factor, c * factor, margin) != stat.INCONCLUSIVE
    less = (first.needed - 1) / n
    assert stat._verdict(first.needed - 1, b * less, c * less, margin) == stat.INCONCLUSIVE


def probability(n, margin, both, verdict):
    """How probable ``verdict`` is at a true difference of exactly -margin, over all outcomes that matter."""
    total = 0.0
    for c in range(int(n * both + 8 * sqrt(n * both) + 6)):
        for b in range(int(n * (both + margin) + 8 * sqrt(n * (both + margin)) + 6)):
            side = score.BETTER if verdict == stat.PASS else score.WORSE
            if score.significant(n, b, c, -margin, side):
                total += binom.pmf(c, n, both) * binom.pmf(b, n - c, (both + margin) / (1 - both))
    return total


@pytest.mark.parametrize(
    ("n", "margin", "both"), [(63, 0.05, 0.0), (156, 0.02, 0.0), (59, 0.05, 0.0), (120, 0.05, 0.01)]
)
def test_neither_verdict_comes_at_the_margin_in_more_than_alpha(n, margin, both):
    assert 0.01 < probability(n, margin, both, stat.PASS) <= 0.05
    assert 0.01 < probability(n, margin, both, stat.FAIL) <= 0.05


def binomial_tail(n, k, p):
    """P(X <= k)"""
    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


@pytest.mark.parametrize(("k", "n"), [(0, 299), (1, 50), (3, 40), (20, 20), (0, 1)])
def test_exact_bounds_are_those_of_the_binomial_tails(k, n):
    low, high = stat.clopper_pearson(k, n)
    if k < n:
        assert binomial_tail(n, k, high) == pytest.approx(0.05)
        assert high == pytest.approx(beta.ppf(0.95, k + 1, n - k))
    if k:
        assert 1 - binomial_tail(n, k - 1, low) == pytest.approx(0.05)


def test_hard_rules_need_299_clean_replies():
    assert stat.hard_floor() == 299
    assert stat.hard_limit(0, 299).verdict == stat.PASS
    short = stat.hard_limit(0, 298)
    assert (short.verdict, short.needed) == (stat.INCONCLUSIVE, 299)
    assert stat.hard_limit(1, 299).verdict == stat.INCONCLUSIVE
    assert stat.hard_limit(12, 299).verdict == stat.FAIL
    assert stat.hard_limit(1, 1).verdict == stat.FAIL
    assert stat.hard_limit(3, 300).needed is None  # exactly at the limit


def test_design_effect_of_no_clusters_is_one():
    assert stat.design_effect([0, 1, -1, 0], ["a", "b", "c", "d"]) == 1.0


def test_design_effect_without_flips_counts_clusters():
    assert stat.design_effect([0] * 400, [i // 4 for i in range(400)]) == pytest.approx(4.0)
    assert stat.non_inferiority(400, 0, 0, 0.02, 4.0).verdict == stat.INCONCLUSIVE
    assert stat.non_inferiority(596, 0, 0, 0.02, 4.0).verdict == stat.PASS


def test_one_cluster_is_one_unit_whatever_happens_in_it():
    """Its own mean cannot tell how far the mean of another would be."""
    for values in ([0] * 400, [1, -1, 0, 0] * 100, [1] * 399 + [0]):
        assert stat.design_effect(values, ["a"] * 400) == 400


def test_few_and_unequal_clusters_are_widened():
    """By the t quantile at as many degrees as there are clusters that count, and the leverage of the large ones."""
    moves = [1, -1] * 150
    even = stat.design_effect([m for m in moves for _ in range(4)], [n for n in range(300) for _ in range(4)])
    few = stat.design_effect([m for m in moves[:4] for _ in range(300)], [n for n in range(4) for _ in range(300)])
    assert 4 < even < 4.1
    assert 300 * (t.ppf(0.95, 3) / stat.Z) ** 2 < few <= 1200
    large = Clustering.of([1] * 100 + [0] * 300, ["a"] * 100 + list(range(300)))
    assert large.robust > 100**2 * 0.75**2 / 0.75


def test_design_effect_tells_block_moves_from_single_ones():
    clusters = [i // 5 for i in range(2000)]
    rng = np.random.default_rng(3)
    blocks = np.repeat(rng.choice([0, -1], p=[0.8, 0.2], size=400), 5).tolist()
    singles = rng.choice([0, -1], p=[0.8, 0.2], size=2000).tolist()
    assert stat.design_effect(blocks, clusters) == pytest.approx(5.0, rel=0.1)
    assert stat.design_effect(singles, clusters) == pytest.approx(1.0, abs=0.25)


def test_sample_size_has_the_promised_power():
    n = stat.sample_size(0.05, 0.04)
    rng = np.random.default_rng(11)
    samples = rng.multinomial(n, [0.02, 0.02, 0.96], size=2000)
    passed = np.mean([score.significant(n, b, c, -0.05, score.BETTER) for b, c, _ in samples])
    assert stat.power_of(n, 0.05, 0.04) == pytest.approx(passed, abs=0.02)
    assert 0.9 <= stat.power_of(n, 0.05, 0.04) < 0.94
    assert stat.sample_size(0.02, 0.0) == 149
    assert stat.sample_size(0.02, 0.05, -0.02) is None
    assert stat.sample_size(0.05, 0.04, 0.01) < n
    with pytest.raises(ValueError, match="cannot come from"):
        stat.sample_size(0.05, 0.01, 0.02)


def test_sample_size_counts_clusters():
    assert stat.sample_size(0.02, 0.0, cluster_size=4) == 4 * 149
    alone = stat.sample_size(0.05, 0.04)
    assert stat.sample_size(0.05, 0.04, cluster_size=5) == pytest.approx(5 * alone, rel=0.02)
    assert alone < stat.sample_size(0.05, 0.04, cluster_size=5, icc=0.1) < 2.5 * alone


def test_why_n_speaks():
    said = stat.why_n(640, 0.02, 0.03)
    assert "149 items even if no answer changes" in said
    assert "too few by" in said
    assert "are enough" in stat.why_n(900, 0.02, 0.03)
    assert "no number" in stat.why_n(900, 0.02, 0.05, -0.03)
    clustered = stat.why_n(900, 0.02, 0.03, clusters=300)
    assert "149 clusters (of 3 items each) even if no answer changes" in clustered
    assert "300 clusters (900 items) are too few by" in clustered


def test_fixed_sequence_stops_at_the_first_that_does_not_pass():
    order = [("q8", "PASS"), ("q5", "PASS"), ("q4", "INCONCLUSIVE"), ("q3", "PASS")]
    assert stat.gatekeep(order) == ("q5", {"q8": "PASS", "q5": "PASS", "q4": "INCONCLUSIVE", "q3": "n/a"})
    assert stat.gatekeep([("a", "FAIL"), ("b", "PASS")]) == (None, {"a": "FAIL", "b": "n/a"})
    assert stat.gatekeep([]) == (None, {})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 8)), min_size=1, max_size=60))
def test_design_effect_is_never_below_one(rows):
    assert stat.design_effect([v for v, _ in rows], [k for _, k in rows]) >= 1.0


def test_z_is_the_normal_quantile():
    assert pytest.approx(1.6448536269514722) == stat.Z
    assert log(0.05) / log(0.99) == pytest.approx(298.07, abs=0.01)  # where 299 comes from
