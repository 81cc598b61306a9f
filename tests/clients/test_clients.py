"""What people talk to such a server with, each for real and in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served, served
from tiny_gguf import write_tiny_gguf

HERE = Path(__file__).parent
PACKAGES = {
    "openai": ["openai"],
    "langchain": ["langchain-openai"],
    "pydantic_ai": ["pydantic-ai-slim[openai]"],
    "instructor": ["instructor"],
    "litellm": ["litellm"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = write_tiny_gguf(tmp_path_factory.mktemp("clients") / "model.gguf", context=4096)
    with served(model, "--slots", "4") as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PACKAGES)
def test_a_client_works(server: Served, name: str, tmp_path: Path) -> None:
    """The newest version that there is. Skips where nothing can be installed."""
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES[name]]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{PACKAGES[name][0]} cannot be installed here: {done.stderr.strip()[-200:]}")
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_KEY": "unused", "LANGSMITH_TRACING": "false"}
    script = [str(python), str(HERE / f"use_{name}.py"), f"{server.url}/v1", "model"]
    done = subprocess.run(
        script, capture_output=True, text=True, env={**os.environ, **quiet, "PYTHONPATH": ""}, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
