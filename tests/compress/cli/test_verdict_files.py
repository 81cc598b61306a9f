"""The verdict in files: ``compress gate --to`` and ``compress report --to``."""

import json
import resource
from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_data import make_proof, make_run
from typer.testing import CliRunner

from compress import json_files
from compress.cli.app import app

RULES = """
version: 1
rules:
  - id: polite
    severity: soft
    must: {any_word: [thanks]}
    fixtures: {pass: [{user: hi, reply: Thanks.}], fail: [{user: hi, reply: No.}]}
"""
SUFFIXES = (".html", ".json", ".md", ".xml")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Options of a gate that fails."""
    (tmp_path / "rules.yaml").write_text(RULES)
    for name, reply in (("baseline", "Thanks."), ("candidate", "No.")):
        asked = [[{"role": "user", "content": f"hello {n}"}] for n in range(80)]
        rows = [{"id": f"q{n}", "messages": messages, "reply": reply} for n, messages in enumerate(asked)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "--baseline", str(tmp_path / "baseline.jsonl"), "--candidate", str(tmp_path / "candidate.jsonl"),
        "--rules", str(tmp_path / "rules.yaml"),
    ]  # fmt: skip


def to(folder: Path) -> list[str]:
    return [word for suffix in SUFFIXES for word in ("--to", str(folder / f"verdict{suffix}"))]


def test_the_gate_writes_every_format_beside_its_table(tmp_path: Path, files: list[str]) -> None:
    ended = CliRunner().invoke(app, ["gate", *files, *to(tmp_path)])
    assert ended.exit_code == 3, ended.output
    assert "polite: 80 newly broken, e.g. q0, q1, q2" in ended.output
    told = json.loads((tmp_path / "verdict.json").read_text())
    assert (told["verdict"], told["baseline"], told["candidates"][0]["name"]) == (
        "FAIL",
        "baseline.jsonl",
        "candidate.jsonl",
    )
    (suite,) = told["candidates"][0]["suites"]
    case = suite["rules"][0]["cases"]["broken"][0]
    assert (case["item"], case["asked"], case["candidate"]["reply"]) == ("q0", "hello 0", "No.")
    assert "q0" in (tmp_path / "verdict.html").read_text()
    assert "**q0** (newly broken)" in (tmp_path / "verdict.md").read_text()
    assert ElementTree.parse(tmp_path / "verdict.xml").getroot().get("failures") == "2"


def test_json_on_stdout_stays_one_object(tmp_path: Path, files: list[str]) -> None:
    ended = CliRunner().invoke(app, ["gate", *files, "--json", *to(tmp_path)])
    assert json.loads(ended.stdout)["rules"][0]["broken"] == ["q0", "q1", "q2"]


def test_an_unknown_format_is_told_before_anything_is_read(files: list[str]) -> None:
    ended = CliRunner().invoke(app, ["gate", *files[:1], "/nowhere", *files[2:], "--to", "verdict.pdf"])
    assert ended.exit_code == 2
    assert "no format has the suffix '.pdf'" in ended.stderr
    assert ".html, .json, .md, .xml" in ended.stderr


@pytest.mark.parametrize("at", ["baseline.jsonl", "rules.yaml"])
def test_what_is_judged_is_not_written_over(tmp_path: Path, files: list[str], at: str) -> None:
    taken = tmp_path / "taken.json"
    (tmp_path / at).rename(taken)
    before = taken.read_bytes()
    given = [str(taken) if word == str(tmp_path / at) else word for word in files]
    ended = CliRunner().invoke(app, ["gate", *given, "--to", f"{tmp_path}/./taken.json"])
    assert (ended.exit_code, taken.read_bytes()) == (2, before)
    assert "would overwrite what is judged" in ended.stderr


@pytest.mark.parametrize("place", ["folder.html", "rules.yaml/v.html"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_read(
    tmp_path: Path, files: list[str], place: str
) -> None:
    (tmp_path / "folder.html").mkdir()
    ended = CliRunner().invoke(app, ["gate", *files[:1], "/nowhere", *files[2:], "--to", str(tmp_path / place)])
    assert ended.exit_code == 2
    assert f"--to {tmp_path / place}: cannot be written there" in ended.stderr


def test_a_full_disk_costs_the_file_and_not_the_verdict(tmp_path: Path, files: list[str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        ended = CliRunner().invoke(app, ["gate", *files, "--to", str(tmp_path / "v.html")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ended.exit_code == 1
    assert "gate: FAIL" in ended.stdout
    assert f"{tmp_path / 'v.html'}: File too large" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["baseline.jsonl", "candidate.jsonl", "rules.yaml"]


def test_a_text_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "v.html").mkdir()
    with pytest.raises(OSError, match=r"/v\.html'$"):
        json_files.write_text(tmp_path / "v.html", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["v.html"]


def test_one_file_for_both_sides_is_said(files: list[str]) -> None:
    ended = CliRunner().invoke(app, ["gate", files[0], files[1], files[2], files[1], *files[4:]])
    assert ended.exit_code == 0
    assert "are one file" in ended.stderr
    assert "are one file" not in CliRunner().invoke(app, ["gate", *files]).stderr


def test_a_run_and_a_proof_folder_are_written_again(tmp_path: Path) -> None:
    state = make_run(tmp_path / "runs" / "demo", "FAIL")
    proof = Path(state["stages"]["proof"]["path"])
    (tmp_path / "runs" / "demo" / "run.lock.json").write_text(json.dumps(state))
    for place, target in ((proof, tmp_path / "a"), (tmp_path / "runs" / "demo", tmp_path / "b")):
        ended = CliRunner().invoke(app, ["report", str(place), *to(target)])
        assert ended.exit_code == 0, ended.output
        assert ended.stdout.split() == [str(target / f"verdict{suffix}") for suffix in SUFFIXES]
    for suffix in SUFFIXES:
        assert (tmp_path / "a" / f"verdict{suffix}").read_bytes() == (tmp_path / "b" / f"verdict{suffix}").read_bytes()
    told = json.loads((tmp_path / "a" / "verdict.json").read_text())
    assert told["verdict"] == make_proof("FAIL")["verdict"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"verdict": "PA', "is not JSON (Unterminated"),
        ('{"verdict": "PASS"}', "is no proof: baseline, candidates, n_items"),
    ],
)
def test_a_proof_that_is_none_is_named(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "proof.json").write_text(text)
    ended = CliRunner().invoke(app, ["report", str(tmp_path), "--to", str(tmp_path / "v.md")])
    assert ended.exit_code == 1
    assert f"{tmp_path / 'proof.json'} {what}" in ended.stderr


def test_a_run_without_a_proof_has_no_verdict(tmp_path: Path) -> None:
    state = make_run(tmp_path / "demo", "FAIL") | {"stages": {}}
    (tmp_path / "demo" / "run.lock.json").write_text(json.dumps(state))
    ended = CliRunner().invoke(app, ["report", str(tmp_path / "demo"), "--to", str(tmp_path / "v.md")])
    assert ended.exit_code == 2
    assert "has no proofs" in ended.stderr
