"""The runtime as its own wheel: an app installs it as ``holdfast`` beside a package of its own called ``runtime``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).parents[2]
APP = """
import sys
import runtime
assert runtime.OWN, "the app's own package"
from holdfast import load
from holdfast.session import verify
assert verify(sys.argv[1]).golden == 2
with load(sys.argv[1]) as session:
    reply = session.chat([{"role": "user", "content": "hello"}], max_tokens=5)
    assert reply.usage.completion_tokens <= 5
import holdfast
assert "site-packages" in holdfast.__file__, holdfast.__file__
assert not {"torch", "transformers", "compress"} & set(sys.modules)
print("answered")
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds the wheel; its dependencies come from the one that runs the tests."""
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "runtime", place / "runtime", ignore=shutil.ignore_patterns("__pycache__", "build"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    _run([*pip, "wheel", *options, "--wheel-dir", str(place), str(place / "runtime")])
    (wheel,) = place.glob("holdfast_runtime-*.whl")
    _run([sys.executable, "-m", "venv", "--without-pip", str(place / "env")])
    site = next((place / "env" / "lib").glob("python*/site-packages"))
    _run([*pip, "--python", str(place / "env/bin/python"), "install", "--no-deps", "--no-index", str(wheel)])
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "env" / "bin"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An application's folder with a package called ``runtime``, and a bundle."""
    place = tmp_path_factory.mktemp("app")
    (place / "runtime").mkdir()
    (place / "runtime" / "__init__.py").write_text("OWN = True\n")
    (place / "app.py").write_text(APP)
    write_tiny_bundle(place / "bundle")
    return place


def _run(command: list[str], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def test_an_app_embeds_it(environment: Path, app: Path) -> None:
    assert _run([str(environment / "python"), "app.py", "bundle"], cwd=app).strip() == "answered"


def test_its_command_chats(environment: Path, app: Path) -> None:
    told = _run(
        [str(environment / "holdfast"), "chat", "bundle", "-m", "hello", "--max-tokens", "5", "--json"], cwd=app
    )
    assert json.loads(told)["usage"]["completion_tokens"] <= 5


def test_its_command_serves(environment: Path, app: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(environment / "holdfast"), "serve", "bundle", "--port", str(port)]
    server = subprocess.Popen(command, cwd=app, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"})
    try:
        body = {"model": "test", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
        answer = _post(f"http://127.0.0.1:{port}/v1/chat/completions", body, server)
        assert answer["usage"]["completion_tokens"] <= 5
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert server.returncode in (0, -signal.SIGTERM)  # uvicorn drains, then lets the signal have its way


def _post(url: str, body: dict[str, object], server: subprocess.Popen[str]) -> dict[str, dict[str, int]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    for _ in range(300):
        assert server.poll() is None, server.communicate()
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                found: dict[str, dict[str, int]] = json.loads(reply.read())
                return found
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError):
                raise
            time.sleep(0.1)
    raise AssertionError("the server did not answer in 30 s")
