"""The allocation against every combination, its promises about budget and order, and its errors."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import UsageError
from compress.quantize.budget import Option, allocate, budget_bytes_of

FEW = st.integers(1, 40)
CHOICES = st.lists(st.tuples(FEW, st.integers(0, 60)), min_size=1, max_size=4).map(
    lambda pairs: [Option(f"t{i}", size, loss / 4) for i, (size, loss) in enumerate(pairs)]
)
PROBLEMS = st.lists(CHOICES, min_size=1, max_size=4).map(lambda items: {f"l{i}": item for i, item in enumerate(items)})


def total(chosen):
    return sum(option.nbytes for option in chosen), sum(option.loss for option in chosen)


def smallest(options):
    return sum(min(option.nbytes for option in choices) for choices in options.values())


def brute(options, budget):
    """The least loss of all combinations within the budget."""
    sizes = map(total, itertools.product(*options.values()))
    return min(loss for nbytes, loss in sizes if nbytes <= budget)


def longest_step(options):
    """The most loss that one choice can save over another of its linear."""
    return max(max(o.loss for o in choices) - min(o.loss for o in choices) for choices in options.values())


@settings(deadline=None)
@given(PROBLEMS, st.integers(0, 100))
def test_is_within_one_step_of_every_combination(options, spare):
    budget = smallest(options) + spare
    chosen = allocate(options, budget)
    nbytes, loss = total(chosen.values())
    assert list(chosen) == list(options)
    assert all(chosen[name] in choices for name, choices in options.items())
    assert nbytes <= budget
    best = brute(options, budget)
    assert best <= loss <= best + longest_step(options)
    assert chosen == allocate(options, budget)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=4), min_size=1, max_size=4),
    st.integers(0, 60),
)
def test_is_exact_on_convex_choices_of_equal_steps(savings, spare):
    """Every step takes 3 bytes and saves less than the one before it."""
    options = {}
    for i, steps in enumerate(savings):
        falling = itertools.accumulate(sorted(steps, reverse=True), lambda loss, step: loss - step, initial=300)
        options[f"l{i}"] = [Option(str(k), 5 + 3 * k, float(loss)) for k, loss in enumerate(falling)]
    budget = smallest(options) + spare
    assert total(allocate(options, budget).values())[1] == brute(options, budget)


@settings(deadline=None)
@given(PROBLEMS, st.integers(0, 60), st.integers(0, 60))
def test_more_budget_never_costs_more(options, spare, more):
    budget = smallest(options) + spare
    losses = [total(allocate(options, size).values())[1] for size in (budget, budget + more)]
    assert losses[1] <= losses[0]


@settings(deadline=None)
@given(PROBLEMS, st.integers(0, 100))
def test_nothing_that_helps_fits_at_the_end(options, spare):
    budget = smallest(options) + spare
    chosen = allocate(options, budget)
    left = budget - total(chosen.values())[0]
    for name, choices in options.items():
        assert not [o for o in choices if o.loss < chosen[name].loss and o.nbytes <= chosen[name].nbytes + left]


@settings(deadline=None)
@given(CHOICES, CHOICES, CHOICES, st.integers(0, 100))
def test_a_group_is_allocated_like_one_linear_with_the_sums(a, b, other, spare):
    options = {"q": a, "x": other, "k": b}
    summed = [
        Option(left.label, left.nbytes + right.nbytes, left.loss + right.loss)
        for left, right in zip(a, b, strict=False)
    ]
    budget = smallest({"qk": summed, "x": other}) + spare
    chosen = allocate(options, budget, [["q", "k"]])
    assert list(chosen) == ["q", "x", "k"]
    assert chosen["q"].label == chosen["k"].label
    expected = allocate({"qk": summed, "x": other}, budget)
    assert total(chosen.values()) == pytest.approx(total(expected.values()))


def test_ties_go_to_the_first_name():
    two = [Option("small", 10, 4.0), Option("large", 20, 1.0)]
    chosen = allocate({"b": two, "a": two}, 35)
    assert {name: option.label for name, option in chosen.items()} == {"b": "large", "a": "small"}


def test_bytes_left_go_to_choices_off_the_hull():
    options = {"a": [Option("2", 10, 100.0), Option("3", 18, 99.0), Option("4", 20, 10.0)]}
    assert allocate(options, 19)["a"].label == "3"
    assert allocate(options, 20)["a"].label == "4"


def test_too_small_a_budget_names_the_smallest_size():
    options = {"a": [Option("4", 700_000, 0.1), Option("2", 400_001, 0.5)], "b": [Option("4", 600_000, 0.1)]}
    with pytest.raises(UsageError, match=r"1\.000 MB is too small.*1\.001 MB \(1000001 bytes\)"):
        allocate(options, 1_000_000)
    assert allocate(options, 1_000_001)["a"].label == "2"


@pytest.mark.parametrize(
    ("options", "groups", "what"),
    [
        ({"a": []}, [], "no choice is open to a "),
        ({"a": [Option("2", 1, 1.0)], "b": [Option("3", 1, 1.0)]}, [["a", "b"]], "no choice is open to a, b"),
        ({"a": [Option("2", 1, math.nan)]}, [], "loss of 2 for a is nan"),
        ({"a": [Option("2", 1, 1.0)]}, [["a", "b"]], "'b' of the group a, b has no options"),
        ({"a": [Option("2", 1, 1.0)]}, [["a"], ["a"]], "'a' of the group a is in two groups"),
    ],
)
def test_bad_options_are_named(options, groups, what):
    with pytest.raises(UsageError, match=what):
        allocate(options, 100, groups)


def test_budgets():
    assert budget_bytes_of(2.5, None, 10**6, 500_000) == 2_000_000
    assert budget_bytes_of(None, 3.5, 1001, 500_000) == 437
    with pytest.raises(UsageError, match="either budget_mb or bits_per_weight"):
        budget_bytes_of(None, None, 8, 0)
    with pytest.raises(UsageError, match="either budget_mb or bits_per_weight"):
        budget_bytes_of(1.0, 2.0, 8, 0)
    with pytest.raises(UsageError, match=r"0\.500 MB of the file are fixed and the budget is 0\.5 MB"):
        budget_bytes_of(0.5, None, 8, 500_000)
