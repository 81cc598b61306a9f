"""How public data become rows (benchmarks/real), and the page that is made from a finished run."""

import importlib.util
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from report_data import make_proof, make_run

from runtime.rules import Turn, load_rules

ROOT = Path(__file__).parents[1]


def module(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def banking():
    return module("benchmarks/real/banking77.py")


@pytest.fixture(scope="module")
def sgd():
    return module("benchmarks/real/sgd.py")


def message(text, label="a", number=1):
    return {"id": f"{label}{number}", "system": "Name it.", "text": text, "category": label}


def test_a_message_that_training_has_in_other_spelling_is_dropped(banking):
    held = [message("Where's my card?"), message("I lost my card.")]
    kept, leaked = banking.without_leaks(held, [message("where s my  CARD", "b")])
    assert (kept, leaked) == (held[1:], held[:1])


def test_every_label_gives_as_many_rows_and_the_seed_decides_which(banking):
    rows = [message(f"{label} {number}", label, number) for number in range(9) for label in "ab"]
    drawn = banking.stratified(rows, 4, 1)
    assert Counter(row["category"] for row in drawn) == {"a": 4, "b": 4}
    assert drawn == banking.stratified(rows, 4, 1) != banking.stratified(rows, 4, 2)
    with pytest.raises(ValueError, match="b has 8 test rows, fewer than --per-label 9"):
        banking.stratified(rows[:-1], 9, 1)


def test_the_rule_file_knows_the_labels_of_the_set(banking, shared_data):
    labels = json.loads((shared_data / "banking77" / "categories.json").read_text())
    book = load_rules(banking.RULES)
    turn = Turn.from_row({"messages": [{"role": "user", "content": "Where is my card?"}]})
    assert len(labels) == 77
    assert not [label for label in labels if not all(v.passed for v in book.check(turn, label))]
    for wrong in ("card_arrival.", "CARD_ARRIVAL", "card arrival", "arrival"):
        assert not all(v.passed for v in book.check(turn, wrong)), wrong


def turn(speaker, utterance, *actions):
    found = [{"act": act, "slot": slot, "values": values} for act, slot, values in actions]
    return {"speaker": speaker, "utterance": utterance, "frames": [{"actions": found}]}


DIALOGUE = {
    "dialogue_id": "1_00007",
    "services": ["Hotels_2"],
    "turns": [
        turn("USER", "A room in Oslo, please."),
        turn("SYSTEM", "For how many?", ("REQUEST", "number_of_adults", [])),
        turn("USER", "For two."),
        turn("SYSTEM", "Please confirm: Oslo, for 2.", ("CONFIRM", "city", ["Oslo"]), ("CONFIRM", "adults", ["2"])),
        turn("USER", "Yes. Has it a pool?"),
        turn("SYSTEM", "It has.", ("INFORM", "has_pool", ["True"])),
        turn("USER", "And will it rain?"),
        turn("SYSTEM", "With a 23 percent chance.", ("OFFER", "precipitation", ["23"])),
    ],
}


def test_a_turn_becomes_a_row_that_says_what_the_reply_must_hold(sgd):
    book, left_out = load_rules(sgd.RULES), Counter()
    first, last = sgd.rows_of(DIALOGUE, book, left_out)
    assert first["facts"] == {"act": "confirm", "say": "confirm: city = Oslo, adults = 2"}
    assert last["facts"]["say"] == "offer: precipitation = 23 percent"
    assert [m["role"] for m in first["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert first["messages"][0]["content"].endswith(first["facts"]["say"])
    assert sum(left_out.values()) == 2
    item = sgd.as_item(first)
    assert item["messages"] == first["messages"][:-1]
    assert item["expected"] == {"answer": ["Oslo", "2"], "match": "contains"}
    assert "expected" not in sgd.as_training(first)


def test_a_reply_that_breaks_a_rule_is_no_example(sgd):
    book, left_out = load_rules(sgd.RULES), Counter()
    rows = list(sgd.rows_of(DIALOGUE, book, left_out))
    rows[0]["messages"][-1]["content"] = "Oslo, for 2 on 5 May?"
    assert sgd.keeping_rules(rows, book, left_out) == rows[1:]
    assert left_out["training turns whose reply breaks nothing-invented"] == 1
    assert left_out["training turns whose reply breaks polite"] == 1
    assert sgd.forced(book, ["American Idiot"])
    assert not sgd.forced(book, ["Oslo", "2"])


def test_domains_are_held_out_and_kinds_balanced(sgd):
    kinds = [sgd.split_of({"services": services}) for services in (["Hotels_4"], ["Media_3"], ["Media_3", "Hotels_1"])]
    assert kinds == ["train", "eval", None]
    rows = [{"id": n, "facts": {"act": "offer" if n < 8 else "confirm"}} for n in range(10)]
    drawn = sgd.balanced(rows, 6, random.Random(1))
    assert Counter(row["facts"]["act"] for row in drawn) == {"offer": 4, "confirm": 2}
    with pytest.raises(ValueError, match="10 training turns, fewer than the 11"):
        sgd.balanced(rows, 11, random.Random(1))


RULE = """
version: 1
labels: [plain]
rules:
  - id: polite
    severity: hard
    text: "Be polite."
    must: {tone: polite}
    fixtures: {pass: [{user: "Hi.", reply: "Thank you."}], fail: [{user: "Hi.", reply: "No."}]}
"""


@pytest.fixture
def finished(tmp_path):
    """A run whose shipped candidate is not the smallest, which before_after.json has."""
    state = make_run(tmp_path / "run")
    (tmp_path / "rules.yaml").write_text(RULE)
    stages = "stages: [{id: tune, use: finetune.sft}]"
    (tmp_path / "p.yaml").write_text(f"version: 1\nname: p\nsource: {{tiny: {{}}}}\nrules: rules.yaml\n{stages}\n")
    row = {"id": "a", "messages": [{"role": "user", "content": "Hi."}], "labels": ["plain"]}
    proof = tmp_path / "run" / "proof"
    (proof / "replies").mkdir()
    said = json.dumps({**row, "reply": "Fine | ok", "truncated": False})
    (proof / "replies" / "gguf-Q8_0.jsonl").write_text(said + "\n")
    (tmp_path / "eval.jsonl").write_text(json.dumps({**row, "expected": {"answer": "fine", "match": "contains"}}))
    (proof / "proof.json").write_text(json.dumps({**make_proof(), "chosen": "gguf-Q8_0"}))
    measured = {"machine": {"cpus": 2, "platform": "Linux", "threads": 2}, "bench": {}}
    (proof / "measurements.json").write_text(json.dumps(measured))
    pages = json.loads((proof / "before_after.json").read_text())
    pages["items"][0]["expected"] = "fine"
    pages["items"][0]["replies"].append({**pages["items"][0]["replies"][0], "name": "gguf-Q4_K_M"})
    (proof / "before_after.json").write_text(json.dumps(pages))
    (tmp_path / "artifact.json").write_text(json.dumps({"facts": {"bits_per_weight": 4.94}}))
    made = {**state["stages"]["proof"], "kind": "gguf", "path": str(tmp_path)}
    state["stages"] |= dict.fromkeys(("data", "tune", "gguf-Q8_0", "gguf-Q4_K_M"), made)
    return {**state, "config": str(tmp_path / "p.yaml")}


def test_the_page_shows_what_ships_with_its_own_replies(finished):
    page = module("docs/make_real_model.py").render(finished)
    assert "**PASS**" in page
    assert "| **gguf-Q8_0** | PASS | 4.5 MB | 4.94 |" in page
    assert "### plain" in page
    assert "| gguf-Q8_0 | right; breaks polite | `Fine \\| ok` |" in page
    assert "<script>" not in page
    del finished["stages"]["proof"]
    with pytest.raises(ValueError, match="holds 0 proofs"):
        module("docs/make_real_model.py").render(finished)
