"""``compress gate --plan``, and what ``compress gate`` says without files."""

import json

from typer.testing import CliRunner

from compress.cli.app import app


def ask(*words: str):
    return CliRunner().invoke(app, ["gate", *words])


def test_a_plan_in_words_and_as_json():
    ended = ask("--plan", "--hard", "20", "--violations", "0.002")
    assert ended.exit_code == 0
    assert "compress gate: 1441 items" in ended.output
    assert "1312 replies would do with 89 %" in " ".join(ended.output.split())
    planned = json.loads(ask("--plan", "--soft", "1", "--margin", "rule=0.1", "--cluster-size", "4", "--json").output)
    assert {d["margin"] for d in planned["demands"]} == {0.02, 0.1}
    assert all(d["floor"] % 4 == 0 for d in planned["demands"])


def test_what_cannot_be_planned_is_a_usage_error():
    for words in (["--plan"], ["--plan", "--hard", "1", "--power", "2"], ["--plan", "--hard", "1", "--margin", "x=1"]):
        assert ask(*words).exit_code == 2


def test_files_are_asked_for():
    ended = ask("--rules", "rules.yaml")
    assert ended.exit_code == 2
    assert "--baseline, --candidate: missing" in ended.output
    assert "--plan" in ended.output
