"""Rewards: what counts, how it is normalised, and that the evaluation stays out of it."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest

from compress.errors import DataError, UsageError
from compress.stage import Job
from finetune.reinforce import filtered, rewards
from finetune.reinforce import sampled as sampling
from finetune.reinforce.params import ReinforceParams
from finetune.reinforce.policy import Drawn
from runtime.rules import read_rules

NAN = math.nan
RULES = """
version: 1
facts: {tier: [gold, basic]}
rules:
  - id: short
    severity: hard
    text: At most five words.
    must: {max_words: 5}
    fixtures: {pass: [{user: Hi, reply: Good day.}], fail: [{user: Hi, reply: A good day to you and yours.}]}
  - id: thanks
    severity: soft
    text: Say thanks.
    when: {facts: {tier: gold}}
    must: {include_any: [thanks]}
    fixtures:
      pass: [{user: Hi, facts: {tier: gold}, reply: Good day. Thanks.}]
      fail: [{user: Hi, facts: {tier: gold}, reply: Good day.}]
"""
CONTRACT = RULES.replace(
    "\nfacts:", "\ncontract: {action: [trace, refund], citations: list, reply: text}\nfacts:"
).replace("rules:\n", "prompt: {fallback: {action: trace, citations: [], reply: Sorry.}}\nrules:\n")


@pytest.fixture(scope="module")
def book():
    return read_rules(RULES)


def row(question="What is 3 + 4?", reply="It is 7 #### 7", **more):
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"id": "t1", "messages": said, **more}


def scored(book, **how):
    return rewards.Rewards.of(book, ReinforceParams(**how))


def test_a_reply_earns_the_rules_in_force_and_the_answer(book):
    found = scored(book)
    assert found.names == ("short", "thanks", rewards.ANSWER)
    assert found.weights == (1.0, 0.5, 1.0)
    item = rewards.item_of(book, row())
    assert found.judge(item, "It is 7", False).tolist() == pytest.approx([1, NAN, 1], nan_ok=True)
    assert found.judge(item, "It is 8", False).tolist() == pytest.approx([1, NAN, 0], nan_ok=True)
    gold = rewards.item_of(book, row(facts={"tier": "gold"}))
    assert found.judge(gold, "Well, I would say that it is 7", False).tolist() == [0, 0, 1]
    assert found.judge(gold, "It is 7, thanks", True).tolist() == [0, 0, 0]  # it was cut off
    open_ended = rewards.item_of(book, row(reply="Good day."))
    assert np.isnan(found.judge(open_ended, "Anything.", False)[2])


def test_what_weighs_nothing_does_not_count(book):
    assert scored(book, soft_weight=0, answer_weight=0).names == ("short",)
    with pytest.raises(UsageError, match="nothing is rewarded"):
        rewards.Rewards.of(
            read_rules(RULES.replace("severity: hard", "severity: soft")),
            ReinforceParams(soft_weight=0, answer_weight=0),
        )


def test_the_answer_is_the_rows_own_or_what_its_reply_shows():
    book = read_rules(CONTRACT)
    said = json.dumps({"action": "refund", "citations": ["K7"], "reply": "Thanks."})
    assert rewards.derived(book, said) == {"answer": {"action": "refund", "citations": ["K7"]}, "match": "json"}
    item = rewards.item_of(book, row(reply=said))
    found = scored(book)
    other = json.dumps({"action": "trace", "citations": ["K7"], "reply": "Thanks."})
    assert found.judge(item, said.replace("Thanks.", "Hello."), False)[2] == 1
    assert found.judge(item, other, False)[2] == 0
    given = rewards.item_of(book, row(reply=said, expected={"answer": {"action": "trace"}, "match": "json"}))
    assert found.judge(given, other, False)[2] == 1


def test_each_reward_is_normalised_alone_before_they_are_summed():
    rng = np.random.default_rng(1)
    values = (rng.random((3, 4, 2)) < 0.6).astype(float)
    values[1] = 1.0  # nothing to tell apart
    values[2, :, 1] = NAN  # not in force
    weights = (1.0, 0.5)

    def single(column):
        mean, deviation = statistics.fmean(column), statistics.stdev(column)
        return [(value - mean) / (deviation + 1e-4) for value in column]

    sums = []
    for group in values:
        total = [0.0] * 4
        for reward, weight in zip(group.T.tolist(), weights, strict=True):
            if not any(map(math.isnan, reward)):
                total = [t + weight * s for t, s in zip(total, single(reward), strict=True)]
        sums.append(total)
    told = [value for total in sums if max(total) > min(total) for value in total]
    expected = [[value / (statistics.stdev(told) + 1e-4) for value in total] for total in sums]
    found = rewards.advantages(values, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert rewards.informative(found).tolist() == [True, False, True]


def test_a_seldom_broken_rule_weighs_as_much_as_an_often_broken_one():
    values = np.array([[[1, 1], [1, 0], [1, 0], [1, 0], [0, 1], [1, 1], [1, 0], [1, 1.0]]])
    found = rewards.advantages(values, (1.0, 1.0))[0]
    assert found[4] < found[1] < 0 < found[0]


def test_constant_rewards_are_named(caplog):
    names, values = ("a", "b", "c", "d"), np.array([[1, 0, 1, NAN], [1, 0, 0, NAN], [1, 0, 1, NAN]])
    assert rewards.constant(names, values) == (["a"], ["b"])
    said = r"of 3 replies none keeps all rules.*\(never broken: a \(3 replies\); always broken: b \(3 replies\)\)"
    with pytest.raises(UsageError, match=said) as caught:
        rewards.require_varied(names, values, False, cut=2)
    assert caught.value.next.endswith("max_tokens cut 2 of them: raise it")
    with pytest.raises(UsageError, match=r"of 3 replies every one keeps all rules.*no rule is in force"):
        rewards.require_varied(names, np.full((3, 4), NAN), False)
    rarely = np.array([[1, 1], [NAN, 0], [NAN, 1]])
    with pytest.raises(UsageError, match=r"those to one prompt are worth the same.*never broken: a \(1 replies\)\)"):
        rewards.require_varied("ab", rarely, False)
    rewards.tell_of_broken(names, values)
    assert "of 3 replies none earns b: " in caplog.text
    assert rewards.broken_counts(names, values) == {"b": 3, "c": 1}
    assert rewards.passes(np.array([[1, NAN], [1, 0.0]])).tolist() == [True, False]


def test_a_question_of_the_evaluation_is_refused_by_name(tmp_path):
    held = tmp_path / "eval.jsonl"
    rows = [row("Where is my order?"), row("WHAT is 3 + 4 ?!", facts={})]
    rows = [
        {**r, "id": f"e{i}", "messages": [{"role": "system", "content": "S"}, *r["messages"][:1]]}
        for i, r in enumerate(rows)
    ]
    held.write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(DataError, match=r"eval.jsonl:2: training row 't1' asks what evaluation item 'e1' asks"):
        rewards.require_apart([row("Another?"), row("What is 3 + 4?")], held)
    rewards.require_apart([row("Another?")], held)
    rewards.require_apart([row()], tmp_path / "none.jsonl")


def sampled(texts, passed, **more):
    replies = [Drawn((), text, False) for text in texts]
    return sampling.Sampled(row(**more), replies, np.array(passed, float)[:, None])


def test_what_is_learnt_of_a_prompt():
    found = [
        sampled(["a", "b", "b", "c"], [0, 1, 1, 1]),
        sampled(["x", "y", "z", "x"], [0, 0, 0, 0]),
        sampled(["p", "p", "p", "p"], [1, 1, 1, 1]),
    ]

    def texts(**how):
        rows, counts = filtered.chosen(found, ReinforceParams(**how), 1)
        return [r["messages"][-1]["content"] for r in rows], counts

    kept, counts = texts(keep=2, easy=1.0)
    assert kept == ["b", "c", "It is 7 #### 7", "p"]
    assert counts == {"kept": 3, "demonstrations": 1, "all_passed": 1, "none_passed": 1}
    assert texts(easy=0.0, demonstrations=False)[0] == ["b"]
    many = [found[2]] * 400
    share = len(filtered.chosen(many, ReinforceParams(easy=0.25), 1)[0]) / 400
    assert 0.19 < share < 0.31


def test_replies_on_disk_count_as_far_as_they_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "TOGETHER", 2)
    place = tmp_path / "samples.jsonl"
    lines = [json.dumps([[f"r{i}", False], ["cut", True]]) + "\n" for i in range(3)]
    place.write_text("".join(lines) + '[["half')
    known = sampling._read(place)
    assert [group[0].text for group in known] == ["r0", "r1"]
    assert known[0][1].truncated
    assert place.read_text() == "".join(lines[:2])


def test_a_stage_without_rules_or_with_several_processes_is_refused(tmp_path, monkeypatch):
    from finetune.reinforce.stage import Reinforce

    (tmp_path / "train.jsonl").write_text("")
    from compress.artifact import seal

    data = seal(tmp_path, kind="data", stage="t", stage_version=1, params={}, inputs={}, facts={})
    with pytest.raises(UsageError, match="no rules to reward"):
        Reinforce().check(Job(params=ReinforceParams(), out=Path(), scratch=Path(), data=data))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="in one process, and 2 were started"):
        Reinforce().check(Job(params=ReinforceParams(), out=Path(), scratch=Path(), data=data, rules=tmp_path / "r"))
    with pytest.raises(ValueError, match="grpo has no loss of a part"):
        ReinforceParams(algorithm="grpo", validation={})
    with pytest.raises(ValueError, match="probes: 9 are more than samples, 8"):
        ReinforceParams(probes=9)
