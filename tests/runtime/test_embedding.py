"""docs/embedding.md, block by block, by the name under which the runtime is installed."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from tiny_bundle import write_ruled_bundle

from runtime.isolated import IsolatedSession, Loading
from runtime.reply import Options, Settings
from runtime.session import Session, load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, and the runtime as `holdfast`."""
    folder = tmp_path_factory.mktemp("embedded")
    write_ruled_bundle(folder / "bundle", context=1024)
    (folder / "site").mkdir()
    (folder / "site" / "holdfast").symlink_to(ROOT / "runtime")
    return folder


def test_the_examples_of_the_page_run(place: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "embedding.md").read_text(), re.M | re.S)
    assert len(blocks) > 9
    calm = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}  # other tests run beside this one
    environment = {**os.environ, **calm, "PYTHONPATH": str(place / "site")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_options_are_those_of_settings() -> None:
    assert set(Options.__annotations__) == {field.name for field in fields(Settings)} | {"response_format"}
    assert set(Loading.__annotations__) == set(inspect.signature(load).parameters) - {"path"}


def test_both_sessions_answer_to_the_same_calls() -> None:
    for name in ("chat", "achat", "stream", "astream", "turn", "close", "figures", "refuse_if_full"):
        here, there = inspect.signature(getattr(Session, name)), inspect.signature(getattr(IsolatedSession, name))
        assert list(here.parameters) == list(there.parameters), name
    for name in ("info", "state", "backend"):
        assert hasattr(Session, name)
        assert hasattr(IsolatedSession, name)
