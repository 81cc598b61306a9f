"""A path that does not exist ends every command with exit code 2, names the path and leaves nothing behind."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from compress.cli.app import app

ROOT = Path(__file__).parents[3]
RULES = str(ROOT / "configs" / "rules" / "customer_service.yaml")
MODEL = "model"  # an empty folder: no command gets as far as to read it


@pytest.mark.parametrize(
    "words",
    [
        ["init", "p.yaml", "--source", "nowhere"],
        ["init", "p.yaml", "--data", "nowhere"],
        ["init", "p.yaml", "--rules", "nowhere"],
        ["plan", "nowhere"],
        ["plan", "p.yaml"],
        ["pipeline", "nowhere"],
        ["pipeline", "p.yaml"],
        ["run", "export.gguf", "--from", "nowhere", "--out", "out"],
        ["run", "source.path", "--with", "path=nowhere", "--out", "out"],
        ["run", "data.files", "--with", "train=nowhere", "--out", "out"],
        ["status", "nowhere"],
        ["report", "nowhere"],
        ["report", "nowhere", "--to", "v.html"],
        ["compare", "nowhere"],
        ["validate", "nowhere", "--baseline", MODEL, "--rules", RULES, "--data", "eval.jsonl"],
        ["validate", "nowhere", "--baseline", MODEL, "--suite", "gsm8k=nowhere"],
        ["gate", "--baseline", "nowhere", "--candidate", "nowhere", "--rules", RULES],
        ["gate", "--plan", "--rules", "nowhere"],
        ["gate", "--plan", "--rules", RULES, "--data", "nowhere"],
        ["bench", "nowhere"],
        ["package", "nowhere", "--out", "out"],
        ["verify", "nowhere"],
        ["chat", "nowhere", "-m", "hi"],
        ["serve", "nowhere", "--port", "0"],
        ["rules", "check", "nowhere"],
        ["rules", "check", RULES, "--data", "nowhere"],
        ["rules", "explain", "nowhere", "--user", "hi"],
        ["rules", "explain", RULES, "--reply", "@nowhere"],
    ],
    ids=" ".join,
)
def test_a_path_that_does_not_exist_is_bad_usage(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "p.yaml" in words[1:] and words[0] != "init":
        stage = "{id: out, use: export.gguf, with: {imatrix: false}}"
        Path("p.yaml").write_text(f"version: 1\nname: p\nsource: {{path: nowhere}}\nstages: [{stage}]\n")
    before = sorted(Path().iterdir())
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2, done.output
    assert "nowhere" in done.stderr
    assert "next: " in done.stderr
    assert [path for path in sorted(Path().iterdir()) if path.name != "work"] == before
