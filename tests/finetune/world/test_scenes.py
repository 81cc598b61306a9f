"""The customer-service world: the split, the answers, the numbers that the gate needs."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from compress.stage import Job
from finetune.world import corpus, phrases, scenes
from finetune.world import stage as world
from runtime.rules import Turn, load_rules
from runtime.rules.text import luhn

RULES = Path(__file__).parents[3] / "configs/rules/customer_service.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    params = world.WorldParams(train=800, calibration=64)
    facts = world.WorldData().run(Job(params=params, out=out, scratch=out, rules=RULES, seed=17))
    rows = {name: [json.loads(x) for x in (out / f"{name}.jsonl").open()] for name in ("train", "calibration", "eval")}
    return facts, rows


def test_world_is_large_enough_for_the_gate(data):
    facts, rows = data
    book = load_rules(RULES)
    assert len(book.rules) >= 12
    assert len(book.optional) >= 2
    assert 1200 <= len(rows["eval"]) <= 1400
    for rule in book.rules:
        if rule.severity == "hard":
            assert facts["rules_active"][rule.id] >= 300, rule.id


def test_no_entity_and_no_deciding_pair_is_on_both_sides(data):
    _, rows = data
    sides = rows["train"] + rows["calibration"], rows["eval"]
    users = [{next(m["content"] for m in r["messages"] if m["role"] == "user") for r in side} for side in sides]
    assert not users[0] & users[1]
    texts = [" ".join(json.dumps(r) for r in side) for side in sides]
    assert not [w for w in phrases.POLICIES if f'"{w}"' in texts[0] and f'"{w}"' in texts[1]]
    taught = re.findall(r"#(\w+)", texts[0])
    assert taught
    assert not any(phrases.kept_for_evaluation(order) for order in taught)
    trained = {s.scenario for s in _many(False)}
    tested = {s.scenario for s in _many(True)}
    assert not trained & tested


def _many(evaluation):
    rng = random.Random(3)
    return [scenes.draw(rng, kind, evaluation) for kind in scenes.KINDS for _ in range(300)]


def test_a_leak_between_the_splits_is_noticed():
    rows = [{"scenario": "a", "text": "x", "facts": {"policy": "C1"}}]
    with pytest.raises(AssertionError, match="scenario on both sides"):
        world.assert_disjoint(rows, rows)


def test_the_base_models_text_holds_no_scenario_of_the_evaluation():
    said = {m["content"] for messages in corpus.conversations(5, 1500) for m in messages if m["role"] == "user"}
    held = [s.frame.format(x=s.noun) for s in _many(True) if s.kind in ("allowed", "disallowed")]
    held += [f"My {s.product} {s.issue}" for s in _many(True) if s.kind not in ("allowed", "disallowed")]
    said_text = "\n".join(said).lower()
    assert [
        text for text in sorted(set(held)) if f" {text.lower()}." in said_text or f" {text.lower()}?" in said_text
    ] == []


def test_answers_keep_every_rule_and_wrong_ones_do_not():
    book, rng = load_rules(RULES), random.Random(1)
    for kind in scenes.KINDS:
        row = world.scene_row(book, scenes.draw(rng, kind, False))
        turn = Turn.from_row(row)
        assert all(v.passed for v in book.check(turn, row["messages"][-1]["content"]))
        wrong = {**scenes.decision(scenes.draw(rng, kind, False)), "action": "escalate" if "near" in kind else "repair"}
        wrong["citations"] = ["Z99"]
        broken = {v.rule for v in book.check(turn, scenes.contract(wrong, "No.")) if not v.passed}
        assert {"cite-known", "polite"} <= broken


def test_what_a_message_does_not_name_is_not_answered():
    scenes_seen = _many(False)
    silent = [s for s in scenes_seen if not s.name]
    curt = [s for s in scenes_seen if s.curt]
    assert len(curt) > 100
    assert len(silent) > len(curt)
    for scene in scenes_seen:
        assert (scene.name == "") == (json.loads(scenes.answer(scene))["reply"].split()[0] in ("Sorry.", "Gladly."))
        assert scene.order or "#" not in scenes.answer(scene)
    assert not [s for s in curt if scenes.user_text(s).startswith(phrases.OPENINGS)]


def test_kinds_are_apportioned_exactly():
    kinds = Counter(world._apportion({"a": 1, "b": 1, "c": 1}, 10))
    assert sum(kinds.values()) == 10
    assert max(kinds.values()) - min(kinds.values()) <= 1


def test_a_toggle_changes_the_answer_only_by_its_sentence():
    scene = scenes.draw(random.Random(2), "plain", False)
    twin = scenes.toggled(scene, scenes.THANKS)
    assert scenes.user_text(scene) == scenes.user_text(twin)
    longer, shorter = sorted((scenes.answer(scene), scenes.answer(twin)), key=len, reverse=True)
    assert longer.replace(" Thank you.", "") == shorter


def test_card_numbers_are_valid_and_never_answered():
    cards = [s for s in _many(False) if s.card]
    assert cards
    for scene in cards:
        assert luhn(scene.card)
        assert scene.card not in scenes.answer(scene)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        params = world.WorldParams(train=50, calibration=10, evaluation=40)
        world.WorldData().run(Job(params=params, out=tmp_path / name, scratch=tmp_path, rules=RULES, seed=4))
    for name in ("train", "calibration", "eval"):
        assert (tmp_path / "a" / f"{name}.jsonl").read_bytes() == (tmp_path / "b" / f"{name}.jsonl").read_bytes()


DECIDES = {"legal": "escalate-legal", "human": "escalate-human", "disallowed": "refuse-disallowed"}


@pytest.mark.parametrize("kind", phrases.HARD)
def test_the_rules_know_every_wording_of_the_hard_form_and_no_near_miss(kind):
    book = load_rules(RULES)
    for frame, noun in (pair for side in (False, True) for pair in phrases.HARD[kind].pairs(side)):
        for text in ("{x}.", "Hi, it's Tom, my kettle is broken, {x}", "{x}. My lamp was charged twice."):
            message = text.format(x=frame.format(x=noun))
            turn = Turn.from_row({"messages": [{"role": "user", "content": message}], "facts": {}})
            active = {rule.id for rule in book.active(turn)} & set(DECIDES.values())
            assert active == ({DECIDES[kind]} if kind in DECIDES else set()), message


@pytest.mark.parametrize("kind", phrases.HARD)
def test_the_hard_form_is_evaluated_on_wordings_that_training_never_sees(kind):
    taught, held = (phrases.HARD[kind].pairs(side) for side in (False, True))
    same = 0 if phrases.HARD[kind].nouns_shared else 1
    assert not {pair[same] for pair in taught} & {pair[same] for pair in held}
    rng = random.Random(5)
    said = [scenes.user_text(scenes.draw(rng, kind, True, hard=True)).lower() for _ in range(300)]
    assert not [text for text in said if any(frame.format(x=noun).lower() in text for frame, noun in taught)]


def test_the_hard_form_keeps_the_split_and_the_rules():
    book = load_rules(RULES)
    taught = world.make_rows(book, random.Random(1), world.TRAINING_MIX, 400, evaluation=False, hard=True)
    held = world.make_rows(book, random.Random(2), world.EVALUATION_MIX, 400, evaluation=True, hard=True)
    world.assert_disjoint(taught, held)
    world.assert_kept(book, [*taught, *held])


def test_600_items_test_every_rule_at_its_margin():
    book = load_rules(RULES)
    rows = world.make_rows(book, random.Random(2), world.evaluation_mix(600), 600, evaluation=True, hard=True)
    active = Counter(rule.id for row in rows for rule in book.active(Turn.from_row(row)))
    assert min(active[rule.id] for rule in book.rules) >= 59
    assert world.evaluation_mix(1320) == world.EVALUATION_MIX
