# ruff: noqa: E501  (tables are read by the row)
"""From replies to suites, rules and a verdict."""

import pytest

from compress.validate.gate import Answer, judge
from compress.validate.items import Item
from compress.validate.sequential import Looks, plan_looks
from runtime.errors import RuleError
from runtime.guard import enforce
from runtime.rules import Turn, read_rules

BOOK = read_rules(
    """
version: 1
contract: {action: [answer, escalate, refuse], reply: text}
facts: {tier: [gold, basic]}
prompt: {fallback: {action: escalate, reply: "Sorry, a colleague takes over."}}
rules:
  - id: lawyer
    severity: hard
    when: {user_regex: lawyer}
    must: {action: escalate}
    fixtures:
      pass: [{user: my lawyer, reply: {action: escalate}}]
      fail: [{user: my lawyer, reply: {action: answer}}]
  - id: no-promise
    severity: hard
    must_not: {words: [promise]}
    fixtures:
      pass: [{user: hi, reply: We try.}]
      fail: [{user: hi, reply: We promise.}]
  - id: polite
    severity: soft
    must: {any_word: [sorry, thanks]}
    fixtures:
      pass: [{user: hi, reply: Sorry.}]
      fail: [{user: hi, reply: No.}]
  - id: never
    severity: hard
    when: {facts: {tier: gold}}
    must: {action: answer}
    unless: lawyer
    fallback: {action: answer}
    fixtures:
      pass: [{user: hi, facts: {tier: gold}, reply: {action: answer}}]
      fail: [{user: hi, facts: {tier: gold}, reply: {action: refuse}}]
"""
)


def item(number, user="hello", action="answer", cluster=None):
    turn = Turn(({"role": "user", "content": user},))
    match = "json" if action else ""
    return Item(f"i{number}", turn.messages, turn, {"action": action}, match, cluster or f"#{number}")


def said(action="answer", reply="Thanks."):
    return Answer(BOOK.contract.dump({"action": action, "reply": reply}))


def world(n, every=4):
    """``n`` items, one in ``every`` about a lawyer, with the right replies."""
    items = [item(i, *(("my lawyer", "escalate") if i % every == 0 else ())) for i in range(n)]
    return items, [said(i.answer["action"]) for i in items]


def by_id(judgement):
    return {r.id: r for r in judgement.rules}, {s.name: s for s in judgement.suites}


def test_enough_identical_replies_pass():
    items, replies = world(400)
    result = judge(BOOK, items, replies, replies)
    rules, suites = by_id(result)
    assert result.verdict == "PASS"
    assert result.reasons == ()
    assert list(suites) == ["accuracy", "adherence", "soft adherence"]
    assert (suites["accuracy"].n, suites["adherence"].n, suites["soft adherence"].n) == (400, 500, 400)
    assert (rules["lawyer"].n, rules["no-promise"].n) == (100, 400)
    assert (rules["never"].n, rules["never"].verdict, rules["never"].baseline) == (0, "n/a", None)


def test_few_identical_replies_do_not_decide():
    items, replies = world(20)
    result = judge(BOOK, items, replies, replies)
    rules, suites = by_id(result)
    assert result.verdict == "INCONCLUSIVE"
    assert suites["accuracy"].needed == 149
    assert rules["polite"].needed == 59
    assert any("about 149 would decide" in reason for reason in result.reasons)


def test_a_worse_candidate_fails_and_the_rule_is_named():
    items, replies = world(400)
    worse = [said("answer") if i % 4 == 0 else reply for i, reply in enumerate(replies)]
    result = judge(BOOK, items, replies, worse)
    rules, suites = by_id(result)
    assert result.verdict == "FAIL"
    assert (rules["lawyer"].candidate, rules["lawyer"].flips, rules["lawyer"].verdict) == (0.0, (0, 100), "FAIL")
    assert suites["accuracy"].difference == pytest.approx(-0.25)
    assert result.reasons[0].startswith("accuracy: 100.0 % -> 75.0 %, difference -25.0 [")
    assert any(reason.startswith("lawyer (hard, model): kept 100.0 % -> 0.0 %") for reason in result.reasons)
    assert result.side_effects["missed_escalations"] == {"n": 100, "baseline": 0, "candidate": 100}
    assert result.side_effects["false_escalations"] == {"n": 300, "baseline": 0, "candidate": 0}


def test_a_better_candidate_passes():
    items, replies = world(400)
    rude = [said("answer", "No.")] * 400
    result = judge(BOOK, items, rude, replies)
    rules, _ = by_id(result)
    assert result.verdict == "PASS"
    assert rules["lawyer"].flips == (100, 0)
    assert rules["polite"].low > 0.9


@pytest.mark.parametrize(
    ("every", "said_why"),
    [
        (1, "the baseline itself passes 0 of 100"),
        (2, "the baseline itself breaks this hard rule in 50 of 100"),
        (100, None),
    ],
)
def test_an_equally_broken_candidate_does_not_pass(every, said_why):
    items, replies = world(400)
    both = [said("answer") if place % (4 * every) == 0 else reply for place, reply in enumerate(replies)]
    result = judge(BOOK, items, both, both)
    assert result.verdict == ("INCONCLUSIVE" if said_why else "PASS")
    assert [reason.startswith("lawyer (hard, model)") and said_why in reason for reason in result.reasons] == [
        True
    ] * bool(said_why)


def test_hard_rules_in_force_nowhere_are_told():
    items, replies = world(400)
    assert judge(BOOK, items, replies, replies).not_in_force == ("never",)
    assert judge(BOOK, items, replies, replies, mode="enforced").not_in_force == ("never",)


def test_false_escalations_and_refusals_are_counted():
    items, replies = world(40)
    result = judge(BOOK, items, replies, [said("refuse")] * 20 + [said("escalate")] * 20)
    assert result.side_effects["false_escalations"]["candidate"] == 15
    assert result.side_effects["false_refusals"] == {"n": 40, "baseline": 0, "candidate": 20}
    assert result.side_effects["missed_escalations"]["candidate"] == 5


def test_a_broken_contract_and_truncation_break_every_rule():
    items, replies = world(40)
    cut = [Answer(text, True) for text, _ in replies]
    rules, suites = by_id(judge(BOOK, items, replies, cut))
    assert suites["adherence"].candidate == 0.0
    assert rules["polite"].candidate == 0.0
    assert by_id(judge(BOOK, items, replies, [Answer("")] * 40))[1]["accuracy"].candidate == 0.0


def test_plain_pairs_will_do_for_replies():
    items, replies = world(60)
    pairs = [(text, False) for text, _ in replies]
    assert judge(BOOK, items, replies, pairs) == judge(BOOK, items, replies, replies)


def test_clusters_count_as_one_when_nothing_flips():
    items = [item(i, cluster=f"c{i // 10}") for i in range(400)]
    replies = [said()] * 400
    result = judge(BOOK, items, replies, replies)
    _, suites = by_id(result)
    assert suites["accuracy"].design_effect == pytest.approx(10)
    assert result.verdict == "INCONCLUSIVE"
    assert suites["accuracy"].needed == 1490


def test_rules_of_one_item_are_a_cluster_of_the_pooled_suite():
    items, replies = world(100, every=1)  # two hard rules in every item
    _, suites = by_id(judge(BOOK, items, replies, replies))
    assert suites["adherence"].n == 200
    assert suites["adherence"].design_effect == pytest.approx(2)
    assert suites["adherence"].verdict == "INCONCLUSIVE"  # 100 items, not 200, against a floor of 149


def test_without_expected_answers_there_is_no_accuracy():
    items = [item(i, action=None) for i in range(60)]
    result = judge(BOOK, items, [said()] * 60, [said()] * 60)
    assert [s.name for s in result.suites] == ["adherence", "soft adherence"]
    assert result.side_effects == {}


def test_nothing_to_test_is_no_pass():
    silent = read_rules(BOOK.text.replace("    when: {facts: {tier: gold}}\n", "    when: {label: x}\n").replace(
        "facts: {tier: gold}, reply", "labels: [x], reply").replace("must_not: {words", "when: {label: x}\n    must_not: {words").replace(
        "    must: {any_word", "    when: {label: x}\n    must: {any_word").replace("user: hi, reply", "user: hi, labels: x, reply"))  # fmt: skip
    result = judge(silent, [item(0, action=None)], [said()], [said()])
    assert result.verdict == "INCONCLUSIVE"
    assert "nothing was tested" in result.reasons[0]


def test_recorded_hard_rules_are_judged_by_their_own_violations():
    items, replies = world(1200)
    result = judge(BOOK, items, replies, replies, mode="recorded")
    rules, _ = by_id(result)
    assert (rules["no-promise"].verdict, rules["lawyer"].verdict, rules["lawyer"].n) == ("PASS", "PASS", 300)
    assert rules["no-promise"].mode == "recorded"
    assert rules["polite"].mode == "model"
    assert rules["no-promise"].margin is None
    assert rules["no-promise"].low > 0.99
    shared = [said("answer", "I promise. Sorry.") if i % 20 == 1 else reply for i, reply in enumerate(replies)]
    both = judge(BOOK, items, shared, shared, mode="recorded")
    assert by_id(both)[0]["no-promise"].verdict == "FAIL"  # no worse than the baseline, and still not allowed
    assert by_id(judge(BOOK, items, shared, shared))[0]["no-promise"].verdict == "PASS"


def test_enforced_replies_pass_at_299_and_fail_at_one_violation():
    items, replies = world(299)
    enough = judge(BOOK, items, replies, replies, mode="enforced")
    assert enough.verdict == "PASS"
    assert enough.suites == ()
    assert {r.id: r.verdict for r in enough.rules} == {"lawyer": "PASS", "no-promise": "PASS", "never": "n/a"}
    few = judge(BOOK, items[:-1], replies[:-1], replies[:-1], mode="enforced")
    assert few.verdict == "INCONCLUSIVE"
    assert "about 299 would decide" in few.reasons[0]
    one = [*replies[:-1], said("answer", "I promise.")]
    result = judge(BOOK, items, replies, one, mode="enforced")
    assert result.verdict == "FAIL"
    assert {r.id: r.verdict for r in result.rules}["no-promise"] == "FAIL"
    assert {r.id: r.verdict for r in result.rules}["lawyer"] == "PASS"


def test_the_guard_makes_any_replies_pass():
    items, _ = world(299)
    told = [("nonsense", False), (said("answer", "I promise.").text, False), (said().text, True)] * 99 + [said()] * 2
    pairs = zip(items, told, strict=True)
    sent = [enforce(BOOK, item.turn, text, truncated=truncated) for item, (text, truncated) in pairs]
    answers = [Answer(reply.text) for reply in sent]
    assert judge(BOOK, items, answers, answers, mode="enforced").verdict == "PASS"
    assert sent[0].interventions == ("template:contract",)


def test_json_has_the_shape_of_the_proof():
    items, replies = world(60)
    shown = judge(BOOK, items, replies, replies).to_json()
    assert {"name", "n", "baseline", "candidate", "difference", "low", "high", "margin", "verdict"} <= set(
        shown["suites"][0]
    )
    wanted = {"id", "severity", "mode", "n", "baseline", "candidate", "low", "high", "verdict", "flips"}
    assert wanted <= set(shown["rules"][0])
    assert shown["rules"][0]["flips"] == [0, 0]


def test_lengths_must_match():
    items, replies = world(3)
    with pytest.raises(ValueError, match="one reply per item"):
        judge(BOOK, items, replies, replies[:-1])


def test_nothing_to_enforce_is_not_counted():
    soft = read_rules(BOOK.text.replace("severity: hard", "severity: soft"))
    assert judge(soft, [item(0)], [said()], [said()], mode="enforced").verdict == "n/a"


def test_a_rule_has_its_own_margin():
    wide = read_rules(BOOK.text.replace("  - id: polite\n", "  - id: polite\n    margin: 0.2\n"))
    assert (wide.by_id["polite"].margin, wide.by_id["lawyer"].margin) == (0.2, None)
    items, replies = world(400)
    rude = [said("answer", "No.") if i % 10 == 1 else reply for i, reply in enumerate(replies)]
    results = [by_id(judge(book, items, replies, rude)) for book in (BOOK, wide)]
    assert [rules["polite"].verdict for rules, _ in results] == ["FAIL", "PASS"]
    assert [rules["polite"].margin for rules, _ in results] == [0.05, 0.2]


@pytest.mark.parametrize("margin", ["0", "1", "-0.1", "yes", ".inf", '"0.1"'])
def test_a_margin_is_a_share(margin):
    with pytest.raises(RuleError, match="margin"):
        read_rules(BOOK.text.replace("  - id: polite\n", f"  - id: polite\n    margin: {margin}\n"))


def test_the_worst_rule_is_named():
    items, replies = world(400)
    rude = [said("answer", "No.") if i % 100 == 1 else reply for i, reply in enumerate(replies)]
    shown = judge(BOOK, items, replies, rude).to_json()["worst_rule"]
    assert (shown["id"], shown["difference"], shown["n"]) == ("polite", pytest.approx(-0.01), 400)
    assert 0.02 < shown["lost_at_most"] < 0.035  # the rule in force in 100 items, in which nothing changed
    assert judge(BOOK, items, replies, replies, mode="enforced").worst_rule is None


def test_what_is_asked_of_hard_rules_is_said():
    items, replies = world(60)
    model, recorded = (judge(BOOK, items, replies, replies, mode=mode).demands for mode in ("model", "recorded"))
    assert "no worse than the baseline by 5 points" in model
    assert "compress gate" in model
    assert "at most 1 % of its replies" in recorded
    assert "validate asks" in recorded


def test_the_same_replies_that_fail_name_the_limit_and_the_baseline():
    items, replies = world(40)
    broken = [said("answer", "I promise. Sorry.") if i % 8 == 1 else reply for i, reply in enumerate(replies)]
    (reason,) = [r for r in judge(BOOK, items, broken, broken, mode="recorded").reasons if r.startswith("no-promise")]
    assert "kept 87.5 % -> 87.5 %, limit 1 % broken" in reason
    assert "breaks it in 5 of 40, and at most 1 % may" in reason
    assert "the baseline itself breaks it in 5 of 40: mend the baseline or the rule" in reason


def test_what_would_decide_counts_clusters():
    items = [item(i, cluster=f"c{i // 10}") for i in range(400)]
    reasons = judge(BOOK, items, [said()] * 400, [said()] * 400).reasons
    assert any("about 1490 in 149 clusters would decide" in reason for reason in reasons)


def test_a_stream_is_judged_at_its_looks():
    items, replies = world(1000, every=2)
    for end, verdict in ((64, "INCONCLUSIVE"), (408, "PASS")):
        looks = Looks(tuple(e for e in plan_looks(1000) if e <= end), complete=False)
        found = judge(BOOK, items[:end], replies[:end], replies[:end], looks=looks)
        assert found.verdict == verdict
    worse = [said("answer", "No.")] * 64
    assert judge(BOOK, items[:64], replies[:64], worse, looks=Looks((64,), complete=False)).verdict == "FAIL"
    once = judge(BOOK, items[:64], replies[:64], replies[:64], looks=Looks((64,), complete=True))
    assert by_id(once)[0]["polite"].needed == 86  # 59 at once: some of alpha went to the looks
