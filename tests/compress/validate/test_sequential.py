"""Evidence that may be looked at as often as one likes."""

from itertools import product
from math import exp, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.validate import sequential as seq
from compress.validate.score_test import BETTER, WORSE


@settings(deadline=None, max_examples=60)
@given(st.floats(-0.5, 0.5), st.floats(0, 1), st.sampled_from([BETTER, WORSE]))
def test_wealth_does_not_grow_under_the_hypothesis(lam, share, side):
    low, high = max(0.0, -lam), (1 - lam) / 2
    b = low + share * (high - low)  # of all truths with the difference lam, one
    rates = {-1: b, 1: b + lam, 0: 1 - 2 * b - lam}
    for steps in (1, 2, 3):
        mean = 0.0
        for path in product((-1, 0, 1), repeat=steps):
            chance = 1.0
            for d in path:
                chance *= max(rates[d], 0.0)
            mean += chance * exp(seq.log_wealth(steps, path.count(-1), path.count(1), lam, side))
        assert mean == pytest.approx(1, abs=1e-9)


def test_what_is_needed_without_a_flip():
    needed = next(n for n in range(1, 1000) if seq.sequential_verdict([(n, 0, 0)], 0.02, complete=False))
    assert 180 < needed < 221  # 149 at once; one look comes after 221
    assert seq.sequential_verdict([(needed - 1, 0, 0)], 0.02, complete=False) == 0
    assert seq.sequential_verdict([(needed - 1, 0, 0), (needed, 0, 0)], 0.02, complete=False) == BETTER


def test_what_was_sure_stays_sure_and_the_end_is_tested_exactly():
    assert seq.sequential_verdict([(64, 20, 0), (88, 20, 20)], 0.02, complete=False) == WORSE
    assert seq.sequential_verdict([(74, 0, 0)], 0.05, complete=False) == 0
    assert seq.sequential_verdict([(82, 0, 0)], 0.05, complete=True) == BETTER
    assert pytest.approx(0.05) == seq.STREAMED + seq.CLOSING


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_bounds_are_where_wealth_ends(known):
    n, b, c = known[0], known[1] // 2, known[2] // 2
    low, high = seq.sequence_bounds(n, b, c)
    assert -1 <= low <= (c - b) / n <= high <= 1
    for edge, side in ((low, BETTER), (high, WORSE)):
        beyond = edge - side * 1e-3
        if -1 < beyond < 1:
            assert seq.log_wealth(n, b, c, beyond, side) >= -log(seq.STREAMED) - 1e-6


def test_looks_grow_and_one_suits_hard_rules():
    assert seq.plan_looks(1000) == (64, 88, 119, 162, 221, 300, 408, 555, 755, 1000)
    assert seq.plan_looks(320) == (64, 88, 119, 162, 221, 300, 320)
    assert seq.plan_looks(300) == (64, 88, 119, 162, 221, 300)
    assert seq.plan_looks(30) == (30,)
    assert seq.plan_looks(64) == (64,)
