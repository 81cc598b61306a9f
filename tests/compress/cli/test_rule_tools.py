"""``compress rules``: what a file tests, and what it says of one reply."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from compress.cli.app import app

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
    assert "2 other rules are not in force" in done.stdout
    assert run("explain", file, "--user", "hi", "--fact", "tier=iron").exit_code == 2
