"""How many items the gate will want."""

import json

import numpy as np
import pytest
from scipy.stats import beta, binom

from compress.errors import UsageError
from compress.report.words import plan_sentences
from compress.validate.planning import Assumed, hard_size, plan_gate
from compress.validate.statistics import design_effect, hard_limit

MARGINS = {"accuracy": 0.02, "adherence": 0.02, "rule": 0.05}


def rules(hard, soft=0):
    return [(f"h{n}", "hard", 0.05) for n in range(hard)] + [(f"s{n}", "soft", 0.05) for n in range(soft)]


def test_twenty_hard_rules_that_are_rarely_broken():
    plan = plan_gate(rules(20), MARGINS, Assumed(violations=0.002), {})
    demands = {demand["what"]: demand for demand in plan["demands"]}
    own = demands["each hard rule, its own violations"]
    assert (own["tests"], own["floor"], own["needed"], own["where"]) == (20, 299, 1441, "compress gate")
    assert "1312 replies would do with 89 %" in own["note"]
    assert demands["each hard rule"]["where"] == "validate"
    assert demands["each hard rule"]["needed"] < 300
    assert demands["hard rules, what the guard lets out"]["needed"] == 299
    assert plan["items"]["compress gate"] == 1441 > plan["items"]["validate"]


@pytest.mark.parametrize(("violations", "power"), [(0.0, 0.9), (0.001, 0.95), (0.002, 0.9), (0.005, 0.8)])
def test_hard_rules_pass_with_the_wanted_probability(violations, power):
    n, before = hard_size(violations, power)
    most = max(k for k in range(200) if k < n and beta.ppf(0.95, k + 1, n - k) <= 0.01)
    assert binom.cdf(most, n, violations) >= power
    assert before[0] == 0 or binom.cdf(before[2], before[0], violations) < power
    assert hard_size(0.01, 0.9) is None


def test_the_share_of_a_rule_makes_items():
    plan = plan_gate(rules(0, 2), MARGINS, Assumed(), {"s0": 0.5, "s1": 0.1})
    rare = next(d for d in plan["demands"] if d["what"] == "soft rule s1")
    assert plan["items"]["validate"] == 10 * rare["needed"]


def test_a_rule_that_no_item_tests_is_named_and_asks_for_nothing():
    """The gate says n/a of it; "more than any number of items" would be said of all the others too."""
    plan = plan_gate(rules(1, 2), MARGINS, Assumed(), {"h0": 0.0, "s0": 0.5, "s1": 0.0})
    assert plan["not_in_force"] == ["h0", "s1"]
    alone = plan_gate([("s0", "soft", 0.05)], MARGINS, Assumed(), {"s0": 0.5})
    assert (plan["demands"], plan["items"]) == (alone["demands"], alone["items"])
    said = plan_sentences(plan)
    assert said[-1] == "In force in no item of --data, so that nothing would be shown: h0, s1."
    assert "as often as in --data" in said[1]
    assert "no item" not in " ".join(plan_sentences(plan_gate(rules(1), MARGINS, Assumed(), {})))


@pytest.mark.parametrize(("size", "violations"), [(3, 0.002), (5, 0.002), (5, 0.005), (10, 0.001)])
def test_hard_rules_in_clusters_that_move_as_one_pass_as_often_as_planned(size, violations):
    assumed = Assumed(violations=violations, cluster_size=size)
    (own,) = [d for d in plan_gate(rules(1), MARGINS, assumed, {})["demands"] if d["where"] == "compress gate"]
    count = own["needed"] // size
    chance = 0.0
    for broken in range(int(5 * count * violations) + 5):
        values = np.repeat(np.arange(count) < broken, size)
        effect = design_effect(values, np.repeat(np.arange(count), size), 0.01)
        passes = hard_limit(broken * size, len(values), effect).verdict == "PASS"
        chance += passes * binom.pmf(broken, count, violations)
    each = 0.9 ** (1 / 3)
    assert chance >= each - 0.01
    fewer = plan_gate(rules(1), MARGINS, Assumed(violations=violations, cluster_size=size, icc=0.3), {})
    assert own["needed"] > next(d["needed"] for d in fewer["demands"] if d["where"] == "compress gate")


def test_clusters_and_hopeless_plans():
    plain, clustered = (plan_gate(rules(0, 1), MARGINS, Assumed(cluster_size=size), {}) for size in (1, 4))
    for one, many in zip(plain["demands"], clustered["demands"], strict=True):
        assert many["floor"] == 4 * one["floor"]
        assert many["clusters"] == pytest.approx(one["needed"], rel=0.02)
    hopeless = plan_gate([], MARGINS, Assumed(discordance=0.05, difference=-0.03), {})["demands"][0]
    assert (hopeless["needed"], hopeless["clusters"]) == (None, None)
    assert "no better than the margin" in hopeless["note"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"discordance": 2}, "discordance"),
        ({"power": 1}, "power"),
        ({"difference": 0.5}, "flips"),
        ({"cluster_size": 0.5}, "cluster"),
    ],
)
def test_what_cannot_be_assumed_is_named(wrong, said):
    with pytest.raises(UsageError, match=said):
        plan_gate([], MARGINS, Assumed(**wrong), {})


def test_the_command(tmp_path, capsys):
    from compress.cli.gating import plan_replies

    (tmp_path / "rules.yaml").write_text(
        "version: 1\nrules:\n  - {id: a, severity: soft, margin: 0.1, when: {user_regex: x}, must: {words: [b]},\n"
        "     fixtures: {pass: [{user: x, reply: b}], fail: [{user: x, reply: c}]}}\n"
    )
    rows = [
        {"id": str(n), "messages": [{"role": "user", "content": f"{'xy'[n % 2]} {n}"}], "expected": {"answer": "b"}}
        for n in range(10)
    ]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan_replies(tmp_path / "rules.yaml", tmp_path / "eval.jsonl", 0, 0, ["accuracy=0.03"], {}, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    rule = next(d for d in shown["demands"] if d["what"] == "soft rule a")
    assert (rule["margin"], rule["floor"]) == (0.1, 29)
    assert shown["items"]["validate"] >= 2 * rule["needed"]
    plan_replies(None, None, 20, 0, [], {}, as_json=False)
    assert "1441" in capsys.readouterr().out
    for bad in (["rule=2"], ["speed=0.1"], ["rule=yes"]):
        with pytest.raises(UsageError, match="--margin"):
            plan_replies(None, None, 1, 0, bad, {}, as_json=True)
    with pytest.raises(UsageError, match="needs to know the rules"):
        plan_replies(None, None, 0, 0, [], {}, as_json=True)
