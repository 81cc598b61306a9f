"""What a terminal shows while stages run."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from pydantic import BaseModel, field_serializer

from compress.cli import console

ROOT = Path(__file__).parents[3]
NAME = "calibrate-a-rather-long-name-of-a-stage"
DRAW = f"""
from types import SimpleNamespace
from compress.cli.console import BarObserver
bars = BarObserver()
bars.started(SimpleNamespace(id={NAME!r}), 13, 14)
bars.progress(1234, 9440, "a note about what is going on just now, which may be cut")
bars.bar.refresh()
bars.close()
"""


def test_a_stage_keeps_its_whole_name_in_80_columns():
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")} | {"TERM": "xterm"}
    subprocess.run([sys.executable, "-c", DRAW], cwd=ROOT, stdout=theirs, stderr=theirs, env=environment, check=True)
    os.close(theirs)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(mine, 1 << 16).decode())
    os.close(mine)
    (line,) = {line.strip() for line in re.split(r"[\r\n]+", shown) if "1234/9440" in line}
    assert line.startswith(f"[13/14] {NAME} ")
    assert len(line) <= 80


def test_a_stop_inside_native_code_is_still_a_stop(capsys):
    """pydantic turns what a serializer's callback raises into an error of its own."""

    class Model(BaseModel):
        place: Path

        @field_serializer("place")
        def stop(self, value: Path) -> str:
            raise console.Terminated

    with pytest.raises(SystemExit) as ended, console.errors(debug=False):
        Model(place=Path()).model_dump()
    assert ended.value.code == 143
    assert "finished stages of a run are kept" in capsys.readouterr().err
