from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from served import START
from tiny_bundle import write_ruled_bundle
from tiny_gguf import write_tiny_gguf
from typer.testing import CliRunner

from runtime.cli import app, as_declared, chat, parse_facts
from runtime.errors import UsageError


def holdfast(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from runtime.cli import main; main()", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("cli model") / "model.gguf")


def test_chat_answers_once(model: Path) -> None:
    done = holdfast("chat", str(model), "-m", "hello", "--max-tokens", "5", "--json")
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert 0 < reply["usage"]["completion_tokens"] <= 5
    piped = holdfast("chat", str(model), "--max-tokens", "5", "--json", stdin="hello")
    assert json.loads(piped.stdout)["raw"] == reply["raw"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["chat", "nowhere", "-m", "x"], 2, "nowhere does not exist"),
        (["verify", "nowhere"], 2, "nowhere does not exist"),
        (["serve", "nowhere", "--port", "0"], 2, "nowhere does not exist"),
        (["serve", "nowhere", "--port", "0", "--no-isolate"], 2, "nowhere does not exist"),
        (["serve", "nowhere", "--port", "0", "--key-file", "nowhere.txt"], 2, "nowhere.txt cannot be read"),
        (["verify", "."], 1, "is not a bundle"),
        (["chat", "nowhere", "--fact", "tier"], 2, "not name=value"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_errors_are_one_message_without_a_traceback(arguments: list[str], code: int, message: str) -> None:
    done = holdfast(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chat", "nowhere", "--fact", "a=1", "--fact", "a=2"], "given twice"),
        (["chat", "nowhere"], "nothing was asked"),
        (["serve", "nowhere", "--fallback-for", "safe"], "not whom"),
        (["serve", "nowhere", "--fallback", "x", "--fallback-for", "bored"], "no reason bored"),
        (["serve", "nowhere", "--fallback", "ftp://x"], "neither a bundle nor an http URL"),
        (["serve", "nowhere", "--fallback", "x", "--fallback-model", "y"], "is for a URL"),
        (["serve", "nowhere", "--cors-origin", "https://shop.example/"], "is no origin"),
        (["serve", "nowhere", "--timeout", "inf"], "--timeout"),
        (["serve", "nowhere", "--grace", "inf"], "--grace"),
        (["serve", "nowhere", "--threads", "100000"], "--threads"),
    ],
)
def test_what_an_option_cannot_be_is_said_before_a_model_is_looked_for(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, arguments, input="")
    assert done.exit_code == 2 or isinstance(done.exception, UsageError)
    assert message in f"{done.stderr} {done.exception}"


def test_what_a_terminal_cannot_show_is_no_error(model: Path) -> None:
    """The random model writes bytes of every kind."""
    asked = [sys.executable, "-c", START, "chat", str(model), "-m", "hello", "--max-tokens", "40"]
    how = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False, env=how)
    assert done.returncode == 0, done.stderr
    assert "?" in done.stdout


def test_a_declared_text_stays_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_ruled_bundle(tmp_path / "bundle", context=1024)
    chat(bundle, message="My kettle is broken.", facts={"policy": "7"}, max_tokens=2, as_json=True)
    assert json.loads(capsys.readouterr().out)["text"]


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in holdfast("--debug", "verify", "nowhere").stderr


def test_facts_are_read_as_declared() -> None:
    given = parse_facts(["tier=gold", "turn=3", "vip=true", "policy=7", "x=a=b"])
    declared = {"tier": ("gold", "basic"), "turn": "integer", "vip": "bool", "policy": "text", "x": "text"}
    assert as_declared(given, declared) == {
        "tier": "gold",
        "turn": 3,
        "vip": True,
        "policy": "7",
        "x": "a=b",
    }
    with pytest.raises(UsageError):
        parse_facts(["=x"])


def test_import_is_light() -> None:
    """``import runtime`` loads none of the heavy libraries."""
    code = (
        "import sys, runtime; heavy = {'numpy', 'torch', 'transformers', 'llama_cpp', 'onnxruntime_genai', 'jinja2', "
        "'starlette', 'yaml'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
