"""Rules into training data: each positive keeps every rule, each negative breaks exactly one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from finetune.data import augment
from finetune.world import scenes
from finetune.world import stage as world
from runtime.rules import Turn, load_rules

RULES = Path(__file__).parents[3] / "configs/rules/customer_service.yaml"


@pytest.fixture(scope="module")
def book():
    return load_rules(RULES)


@pytest.fixture(scope="module")
def rows(book):
    return world.make_rows(book, random.Random(1), world.TRAINING_MIX, 60, evaluation=False)


def test_positives_keep_every_rule_and_toggles_are_counterfactual(book, rows):
    out, report = augment.positives(book, rows, random.Random(2), vary=True)
    assert report.toggled > 40
    assert len(out) == len(rows) + report.toggled
    for row in out:
        assert augment.broken(book, row) == []
    for row in rows:
        twin = augment.counterfactual(book, row, random.Random(3))
        if twin is not None:
            assert twin["messages"][1] == row["messages"][1]
            assert set(twin["prompted"]) ^ set(row["prompted"])
            assert twin["messages"][-1] != row["messages"][-1]
            crossed = {**row, "messages": [*twin["messages"][:-1], row["messages"][-1]], "prompted": twin["prompted"]}
            if len(twin["prompted"]) > len(row["prompted"]):
                assert augment.broken(book, crossed)


def test_rows_that_break_a_rule_are_left_out_and_counted(book, rows):
    bad = {**rows[0], "messages": [*rows[0]["messages"][:-1], {"role": "assistant", "content": "No."}]}
    out, report = augment.positives(book, [bad, rows[1]], random.Random(0), vary=False)
    assert report.rejected == 1
    assert report.breaks["polite"] == 1
    assert out == [rows[1]]


def test_named_rules_are_permuted(book, rows):
    row = next(r for r in rows if len(r["prompted"]) == 2)
    orders = {tuple(augment.named(book, row, random.Random(i))) for i in range(20)}
    assert len(orders) == 2
    varied = augment.reprompt(book, row, list(reversed(row["prompted"])))
    assert varied["messages"][0] != row["messages"][0]
    assert varied["messages"][1:] == row["messages"][1:]


def test_required_rules_are_dropped_from_the_prompt_about_three_times_in_ten(book, rows):
    row = {**rows[0], "prompted": ["polite", "short"]}
    rng = random.Random(0)
    kept = sum(len(augment.named(book, row, rng)) for _ in range(500)) / 1000
    assert 0.65 < kept < 0.75


def test_a_foreign_system_prompt_is_left_alone(book, rows):
    row = {**rows[0], "messages": [{"role": "system", "content": "mine"}, *rows[0]["messages"][1:]]}
    assert augment.reprompt(book, row, ["say-thanks"]) is row


def test_negatives_break_exactly_one_rule(book):
    rng = random.Random(5)
    row = world.scene_row(book, scenes.draw(rng, "legal", False))
    found = augment.negatives(book, row)
    assert {"escalate-legal", "no-promises", "polite", "cite-known"} & set(found)
    assert len(found) >= 4
    for rule, answer in found.items():
        assert [v.rule for v in book.check(Turn.from_row(row), answer) if not v.passed] == [rule]
