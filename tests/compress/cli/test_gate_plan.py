"""``compress gate --plan``, and what ``compress gate`` says without files."""

import json

import pytest
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


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--margin", "rule=0.01"), "--margin: read with --plan only"),
        (("--power", "0.9", "--hard", "0"), "--hard, --power: read with --plan only"),
        (("--plan", "--hard", "1", "--to", "v.html"), "--to: not read with --plan"),
        (("--plan", "--hard", "1", "--baseline", "b.jsonl"), "--baseline: not read with --plan"),
        (("--plan", "--hard", "1", "--rules", "r.yaml"), "--hard and --soft count rules without a rule file"),
        (("--plan", "--hard", "1", "--cluster-size", "nan"), "cluster_size is nan"),
        (("--plan", "--hard", "1", "--difference", "nan"), "difference is nan"),
    ],
)
def test_an_option_that_would_be_ignored_or_is_no_number_is_refused(words, what):
    """A margin that the gate does not read would be believed to have counted."""
    ended = ask(*words)
    assert ended.exit_code == 2
    assert what in " ".join(ended.output.split())


def test_a_rate_just_below_the_limit_is_not_said_to_be_above_it():
    planned = ask("--plan", "--hard", "1", "--violations", "0.0099")
    assert "0.99 % of violations are too many to be shown below the limit" in " ".join(planned.output.split())
