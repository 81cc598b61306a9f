"""The gate's arithmetic against published figures, a slow obvious reference, and simulation."""

import itertools
from math import comb, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from compress.validate import statistics as stat

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


@settings(deadline=None)
@given(counts, st.floats(0.005, 0.3))
def test_bounds_and_test_agree(known, margin):
    n, b, c = known
    low, high = stat.tango_bounds(n, b, c)
    result = stat.non_inferiority(n, b, c, margin)
    assert -1 <= low <= (c - b) / n + 1e-9
    assert (c - b) / n - 1e-9 <= high <= 1
    if abs(low + margin) > 1e-6 and abs(high + margin) > 1e-6:
        assert result.verdict == (stat.PASS if low > -margin else stat.FAIL if high < -margin else stat.INCONCLUSIVE)
    mirrored = stat.tango_bounds(n, c, b)
    assert mirrored == pytest.approx((-high, -low), abs=1e-9)


@settings(deadline=None)
@given(counts)
def test_the_statistic_falls_with_the_hypothesis(known):
    n, b, c = known
    values = [stat.tango_z(n, b, c, lam) for lam in np.linspace(-0.99, 0.99, 23)]
    assert all(first >= second - 1e-9 for first, second in itertools.pairwise(values))


def test_zero_flip_floors():
    assert [stat.zero_flip_floor(margin) for margin in (0.05, 0.02, 0.01)] == [52, 133, 268]
    for margin, floor in ((0.05, 52), (0.02, 133), (0.01, 268)):
        assert stat.non_inferiority(floor, 0, 0, margin).verdict == stat.PASS
        short = stat.non_inferiority(floor - 1, 0, 0, margin)
        assert (short.verdict, short.needed) == (stat.INCONCLUSIVE, floor)
    five = stat.non_inferiority(5, 0, 0, 0.05)
    assert (five.verdict, five.needed) == (stat.INCONCLUSIVE, 52)


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
    assert stat._tango_verdict(first.needed, b * factor, c * factor, margin) != stat.INCONCLUSIVE
    less = (first.needed - 1) / n
    assert stat._tango_verdict(first.needed - 1, b * less, c * less, margin) == stat.INCONCLUSIVE


def test_type_one_error_at_the_margin():
    """At a true difference of exactly -margin, PASS comes in about 5 % of the samples and never much more."""
    rng = np.random.default_rng(17)
    for n, margin, both in ((200, 0.05, 0.02), (600, 0.02, 0.01), (600, 0.05, 0.10)):
        samples = rng.multinomial(n, [both + margin, both, 1 - 2 * both - margin], size=4000)
        passed = [stat.tango_z(n, b, c, -margin) >= stat.Z for b, c, _ in samples]
        failed = [stat.tango_z(n, b, c, -margin) <= -stat.Z for b, c, _ in samples]
        assert 0.03 < np.mean(passed) < 0.065
        assert 0.03 < np.mean(failed) < 0.065


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
    assert stat.non_inferiority(533, 0, 0, 0.02, 4.0).verdict == stat.PASS


def test_design_effect_tells_block_moves_from_single_ones():
    clusters = [i // 5 for i in range(2000)]
    rng = np.random.default_rng(3)
    blocks = np.repeat(rng.choice([0, -1], p=[0.8, 0.2], size=400), 5).tolist()
    singles = rng.choice([0, -1], p=[0.8, 0.2], size=2000).tolist()
    assert stat.design_effect(blocks, clusters) == pytest.approx(5.0, rel=0.1)
    assert stat.design_effect(singles, clusters) == pytest.approx(1.0, abs=0.25)


def test_clustered_type_one_error():
    """Whole clusters flip together; without the design effect far more than 5 % would pass."""
    rng, size, count, margin = np.random.default_rng(5), 4, 150, 0.05
    clusters = np.repeat(np.arange(count), size).tolist()
    naive, robust = 0, 0
    for _ in range(400):
        moves = rng.choice([-1, 1, 0], p=[0.07, 0.02, 0.91], size=count)
        values = np.repeat(moves, size).tolist()
        b, c = values.count(-1), values.count(1)
        naive += stat.non_inferiority(len(values), b, c, margin).verdict == stat.PASS
        robust += (
            stat.non_inferiority(len(values), b, c, margin, stat.design_effect(values, clusters)).verdict == stat.PASS
        )
    assert robust / 400 < 0.08 < naive / 400


def test_sample_size_has_the_promised_power():
    n = stat.sample_size(0.02, 0.03)
    rng = np.random.default_rng(11)
    samples = rng.multinomial(n, [0.015, 0.015, 0.97], size=3000)
    power = np.mean([stat.tango_z(n, b, c, -0.02) >= stat.Z for b, c, _ in samples])
    assert power == pytest.approx(0.9, abs=0.03)
    assert stat.sample_size(0.02, 0.0) == 133
    assert stat.sample_size(0.02, 0.05, -0.02) is None
    assert stat.sample_size(0.02, 0.03, 0.01) < n
    with pytest.raises(ValueError, match="cannot come from"):
        stat.sample_size(0.05, 0.01, 0.02)


def test_why_n_speaks():
    said = stat.why_n(640, 0.02, 0.03)
    assert "133 items even if no answer changes" in said
    assert "too few by" in said
    assert "are enough" in stat.why_n(900, 0.02, 0.03)
    assert "no number" in stat.why_n(900, 0.02, 0.05, -0.03)


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
