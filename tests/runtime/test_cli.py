from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_gguf import write_tiny_gguf

from runtime.cli import parse_facts
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
        (["chat", "nowhere", "-m", "x"], 1, "nowhere does not exist"),
        (["verify", "nowhere"], 1, "not a bundle"),
        (["chat", "nowhere", "--fact", "tier"], 2, "not name=value"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_errors_are_one_message_without_a_traceback(arguments: list[str], code: int, message: str) -> None:
    done = holdfast(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in holdfast("--debug", "verify", "nowhere").stderr


def test_facts_are_typed() -> None:
    assert parse_facts(["tier=gold", "turn=3", "vip=true", "x=a=b"]) == {
        "tier": "gold",
        "turn": 3,
        "vip": True,
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
