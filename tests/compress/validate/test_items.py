import json
from pathlib import Path

import pytest
from validate_models import PLAIN_RULES, RULES

from compress.errors import DataError
from compress.validate.items import Item, load_items
from runtime.rules import Turn, read_rules

PLAIN = read_rules(PLAIN_RULES)
CONTRACT = read_rules(RULES)


@pytest.mark.parametrize(
    ("match", "answer", "reply", "right"),
    [
        ("exact", "Paris", " paris. ", True),
        ("exact", "Paris", "Paris, France", False),
        ("contains", "four days", "It takes FOUR  days.", True),
        ("contains", "art", "a party", False),
        ("contains", ["red", "blue"], "red and green", False),
        ("contains", ["red", "blue"], "red and blue", True),
        ("numeric", "1,250", "First 3, so 1250.00", True),
        ("numeric", 7, "It is 70", False),
        ("numeric", 7, "none", False),
        ("numeric", -2, "-2", True),
        ("choice", "B", "(B) because A is wrong", True),
        ("choice", "B", "The answer is B", True),
        ("choice", "B", "Between A and C", False),
        ("choice", "B", "It is B because A and C are wrong.", True),
        ("numeric", 0.5, "It is .5", True),
        ("contains", "refund", "a _refund_", True),
        ("lacks", "refund", "a re**fund**", False),
        ("lacks", "refund", "re<b>fund</b>", False),
        ("lacks", "refund", "refundable", True),
        ("choice", "B", "", False),
    ],
)
def test_matchers(match: str, answer: object, reply: str, right: bool) -> None:
    item = Item("i", (), Turn(()), answer, match, "c")
    assert item.accurate(PLAIN, reply) is right


def test_json_compares_the_fields_given_and_needs_a_valid_reply() -> None:
    item = Item("i", (), Turn(()), {"action": "escalate"}, "json", "c")
    assert item.accurate(CONTRACT, '{"action":"escalate","reply":"A colleague calls."}')
    assert not item.accurate(CONTRACT, '{"action":"answer","reply":"A colleague calls."}')
    assert not item.accurate(CONTRACT, '{"action":"escalate","reply":"A coll')
    assert item.accurate(PLAIN, '{"action": "escalate", "more": 1}')
    assert item.accurate(PLAIN, '```json\n{"action": "escalate"}\n```')
    assert not item.accurate(PLAIN, '{"action": "answer", "action": "escalate"}')
    assert not item.accurate(PLAIN, "escalate")
    whole = Item("i", (), Turn(()), {"n": 1, "sure": [False]}, "json", "c")
    assert whole.accurate(PLAIN, '{"n": 1.0, "sure": [false]}')
    assert not whole.accurate(PLAIN, '{"n": true, "sure": [false]}')
    assert not whole.accurate(PLAIN, '{"n": 1, "sure": [0]}')


def row(**change: object) -> dict[str, object]:
    return {
        "id": "a",
        "messages": [{"role": "user", "content": "hello"}],
        "facts": {"tier": "gold"},
        "expected": {"answer": {"action": "answer"}, "match": "json"},
        **change,
    }


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return path


def test_items_get_the_system_prompt_of_the_rule_file(tmp_path: Path) -> None:
    own = [{"role": "system", "content": "mine"}, {"role": "user", "content": "hi"}]
    first, second = load_items(write(tmp_path / "e.jsonl", row(), row(id="b", messages=own, cluster="s")), CONTRACT)
    assert first.messages[0] == {"role": "system", "content": "Answer in JSON. tier gold"}
    assert second.messages[0]["content"] == "mine"
    assert (first.cluster, second.cluster) == ("#1", "s")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{", "not an evaluation item"),
        ("[]", "not an evaluation item"),
        (row(expected=None), "not an evaluation item"),
        (row(expected={"answer": "a", "match": "close"}), "'close'"),
        (row(expected={"answer": "a", "match": "json"}), "must be an object"),
        (row(expected={"answer": "seven", "match": "numeric"}), "not a number"),
        (row(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]), "ends with the user"),
        (row(messages=[]), "ends with the user"),
        (row(id="ok"), "stands on line 1 too"),
        (row(labels="plain"), "labels is a text, not a list of texts"),
        (row(labels=["plain"]), "label 'plain' is named by no rule"),
        (row(lables=["plain"]), "unknown key 'lables'"),
        (row(expected={"answer": {}, "match": "json"}), "expected.answer is empty"),
        (row(expected={"answer": {"acton": "answer"}, "match": "json"}), "'acton' is not a field of the contract"),
        (row(facts={"age": 3}), "fact 'age' is not declared"),
        (row(prompted=["nothing"]), "unknown rule 'nothing' in prompted"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, bad: object, said: str) -> None:
    with pytest.raises(DataError, match=r"e\.jsonl:2: ") as caught:
        load_items(write(tmp_path / "e.jsonl", row(id="ok"), bad), CONTRACT)
    assert said in str(caught.value)


def test_one_question_is_one_cluster(tmp_path: Path) -> None:
    again = {"messages": [{"role": "user", "content": "Hello!"}]}
    path = write(tmp_path / "e.jsonl", row(), row(id="b", **again), row(id="c", facts={"tier": "basic"}, **again))
    assert [item.cluster for item in load_items(path, CONTRACT)] == ["#1", "#1", "#3"]


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no evaluation items"):
        load_items(write(tmp_path / "e.jsonl"), CONTRACT)
