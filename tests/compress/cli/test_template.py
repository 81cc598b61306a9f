"""``--template`` of ``compress chat`` and ``compress serve``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_gguf import write_tiny_gguf
from typer.testing import CliRunner, Result

from compress.cli.app import app

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("named") / "model.gguf"
    return write_tiny_gguf(file, templates={"short": "A", "long": "AAAAAAAAAA"})


def ask(model: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["chat", str(model), "-m", "hello", "--json", *options])


def test_chat_takes_the_template_of_that_name(model: Path) -> None:
    for name, tokens in (("short", 1), ("long", 10)):
        done = ask(model, "--template", name)
        assert done.exit_code == 0, done.output
        reply = json.loads(next(line for line in done.output.splitlines() if line.startswith("{")))
        assert reply["usage"]["prompt_tokens"] == tokens


@pytest.mark.parametrize("command", ["chat", "serve"])
def test_an_unknown_template_is_named_with_those_there_are(model: Path, command: str) -> None:
    options = ["-m", "x"] if command == "chat" else []
    done = CliRunner().invoke(app, [command, str(model), *options, "--template", "wrong"])
    assert done.exit_code == 2
    assert "no chat template 'wrong'; there are: long, short" in done.output


def test_serve_opens_the_model_with_the_template(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.server import serve as server

    seen: list[int] = []
    monkeypatch.setattr(
        server,
        "run_server",
        lambda session, *_, **__: seen.append(session.chat(HELLO, max_tokens=1).usage.prompt_tokens),
    )
    assert CliRunner().invoke(app, ["serve", str(model), "--template", "long", "--port", "0"]).exit_code == 0
    assert seen == [10]
