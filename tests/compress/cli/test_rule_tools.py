"""``compress rules``: what a file tests, and what it says of one reply."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from compress.cli.app import app
from compress.cli.rule_tools import read_reply
from compress.errors import UsageError

RULES = """
version: 1
contract: {action: [answer, escalate], reply: text}
facts: {tier: [gold, basic]}
labels: [plain, angry]
prompt: {system: x, fallback: {action: escalate, reply: Sorry.}}
rules:
  - id: sorry
    severity: hard
    text: Say sorry.
    when: {label: angry}
    must: {any_word: [sorry]}
    fixtures:
      pass: [{user: hi, labels: [angry], reply: Sorry.}]
      fail: [{user: hi, labels: [angry], reply: No.}]
  - id: gold-first
    severity: hard
    text: Gold customers are escalated.
    when: {facts: {tier: gold}}
    must: {action: escalate}
    fixtures:
      pass: [{user: hi, facts: {tier: gold}, reply: {action: escalate, reply: Yes.}}]
      fail: [{user: hi, facts: {tier: gold}, reply: {action: answer, reply: Yes.}}]
      inactive: [{user: hi, facts: {tier: basic}}]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["rules", *map(str, arguments)])


def test_what_no_item_tests_is_said(file, tmp_path):
    rows = [{"messages": [{"role": "user", "content": "hi"}], "facts": {"tier": "gold"}, "labels": ["plain"]}]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("check", file, "--data", tmp_path / "eval.jsonl", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0
    assert {rule["id"]: rule["in_force"] for rule in found["rules"]} == {"sorry": 0, "gold-first": 1}
    assert "sorry: no inactive fixture: nothing shows where it must not be in force" in found["warnings"]
    assert "sorry: in force in no item" in found["warnings"]
    assert "label 'angry' stands on no item" in found["warnings"]
    assert not [w for w in found["warnings"] if w.startswith("gold-first: no inactive")]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"messages": "hi"}, "messages is not a list of {role, content}"),
        ({"messages": [1]}, "see messages[0]"),
        ({"id": 1}, "messages is not a list"),
        ({"messages": [{"role": "user", "content": 3}]}, "see messages[0]"),
        ({"messages": [{"role": "user", "content": "x"}], "labels": "plain"}, "labels is a text"),
        ({"messages": [{"role": "user", "content": "x"}], "facts": [1]}, "facts is a list"),
        ({"messages": [{"role": "user", "content": "x"}], "facts": {"teir": "gold"}}, "fact 'teir' is not declared"),
        ({"messages": [{"role": "user", "content": "x"}], "sources": [1]}, "sources[0] is not {id, text}"),
    ],
)
def test_an_item_of_the_wrong_shape_is_named_with_its_line(file, tmp_path, row, what):
    good = {"messages": [{"role": "user", "content": "hi"}]}
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (good, row)))
    done = run("check", file, "--data", tmp_path / "eval.jsonl")
    assert done.exit_code == 2
    assert "eval.jsonl:2: " in done.stderr
    assert what in done.stderr


def test_a_file_of_items_without_one_is_no_proof_of_anything(file, tmp_path):
    (tmp_path / "eval.jsonl").write_text("\n")
    done = run("check", file, "--data", tmp_path / "eval.jsonl")
    assert done.exit_code == 2
    assert "the file has no rows" in done.stderr


def test_brackets_in_a_rules_text_are_shown(file):
    file.write_text(RULES.replace("text: Say sorry.", "text: 'Close with [id] or [/end].'"))
    done = run("check", file)
    assert done.exit_code == 0
    assert "[id] or [/end]." in " ".join(done.stdout.split())


def test_a_broken_file_is_refused_with_all_its_errors(file):
    file.write_text(RULES.replace("reply: No.", "reply: Sorry no."))
    done = run("check", file)
    assert done.exit_code == 2
    assert "sorry" in done.stderr


def test_a_reply_is_explained_rule_by_rule(file):
    answer = json.dumps({"action": "answer", "reply": "Sorry."})
    done = run("explain", file, "--user", "hi", "--reply", answer, "--fact", "tier=gold", "--label", "angry", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 3
    assert {rule["id"]: rule["kept"] for rule in found["rules"]} == {"sorry": True, "gold-first": False}
    assert found["decided"] == {"action": "escalate"}
    assert json.loads(found["safe_reply"]) == {"action": "escalate", "reply": "Sorry."}


def test_without_a_reply_it_says_what_is_in_force(file):
    done = run("explain", file, "--user", "hi", "--fact", "tier=basic")
    assert done.exit_code == 0
    assert done.stdout.count("idle ") == 2
    assert run("explain", file, "--user", "hi", "--fact", "tier=iron").exit_code == 2


def test_a_fact_declared_as_text_stays_one(file):
    file.write_text(RULES.replace("tier: [gold, basic]", "tier: [gold, basic], order: text"))
    assert run("explain", file, "--user", "hi", "--fact", "order=4821").exit_code == 0


LOOSE = """
version: 1
labels: [vip]
facts: {tier: [gold, basic], shade: text}
rules:
  - id: short
    severity: soft
    when: {all: [{label: vip}, {user_regex: hurry}]}
    must: {max_words: 3, any_word: [soon]}
    fixtures:
      pass: [{user: hurry, labels: [vip], reply: Soon.}]
      fail: [{user: hurry, labels: [vip], reply: "It will be there later on."}]
      inactive: [{user: calm, labels: [vip]}, {user: calm}]
  - id: long
    severity: hard
    text: Say much.
    must: {min_words: 5}
    fixtures:
      pass: [{user: x, reply: "It will be there soon."}]
      fail: [{user: hurry, labels: [vip], reply: Soon.}]
  - id: same
    severity: hard
    text: Say much.
    must: {min_words: 5}
    fixtures:
      pass: [{user: x, reply: "It will be there soon."}]
      fail: [{user: x, reply: Soon.}]
  - id: never
    severity: soft
    text: Nothing.
    when: {facts: {tier: gold}}
    unless: [long]
    must: {max_words: 9}
    fixtures: {pass: [], fail: []}
"""


def test_what_the_file_itself_leaves_unproved(tmp_path):
    from runtime.rules.file import _Builder
    from runtime.rules.review import review
    from runtime.rules.spec import Problems
    from runtime.rules.yaml import read

    data, lines, _ = read(LOOSE)
    problems = Problems(lines)
    book = _Builder(problems, data, LOOSE).book()
    assert [p for _, p in problems.found if "never" not in p] == []  # "never" has no fixtures, for none is possible
    found = review(book)
    assert ("short", "no text: it can neither be prompted nor told") in found
    assert (
        "short",
        "no near miss: no inactive fixture lacks only label 'vip', so that nothing shows that it counts",
    ) in found
    assert ("short", "no near miss: no fail fixture breaks must max_words alone") in found
    assert ("short", "no near miss: no fail fixture breaks must any_word alone") in found
    assert ("same", "says the same as long") in found
    assert ("never", "can never be in force: its when and unless exclude each other") in found
    assert any(rule == "long" and what.startswith("contradicts short: ") and "'hurry'" in what for rule, what in found)
    assert ("", "fact 'shade' is declared, but neither a when nor the prompt uses it") in found


def test_a_file_that_proves_itself_has_nothing_said_of_it(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(
        RULES.replace(
            "fail: [{user: hi, labels: [angry], reply: No.}]",
            "fail: [{user: hi, labels: [angry], reply: No.}]\n      inactive: [{user: hi}]",
        )
    )
    assert json.loads(run("check", path, "--json").stdout)["warnings"] == []


def test_what_is_not_in_force_says_what_it_wants_and_sources_are_known(file):
    done = run(
        "explain",
        file,
        "--reply",
        '{"action": "answer", "reply": "Yes."}',
        "--fact",
        "tier=basic",
        "--source",
        "K7=Free.",
    )
    assert done.exit_code == 0
    assert "idle     hard  sorry: wants label 'angry'" in done.stdout
    assert "idle     hard  gold-first: wants tier = gold" in done.stdout
    assert run("explain", file, "--source", "K7").exit_code == 2


def test_the_schema_is_printed():
    done = run("schema")
    assert json.loads(done.stdout)["title"] == "Rule file"


def test_a_reply_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="--reply @"):
        read_reply(f"@{tmp_path / 'none.txt'}")
