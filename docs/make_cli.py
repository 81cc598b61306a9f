"""Writes docs/cli.md from the help texts: python docs/make_cli.py. A test keeps the page true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from compress.cli.app import app

PAGE = Path(__file__).with_name("cli.md")


def commands(group: Any, before: str = "") -> list[str]:
    """The names of all commands, those of groups behind their group's."""
    found: list[str] = []
    for name, command in group.commands.items():
        inner = commands(command, f"{before}{name} ") if hasattr(command, "commands") else []
        found += inner or [f"{before}{name}"]
    return found


def render() -> str:
    """The page: one section per command with its ``--help``."""
    parts = ["# The command line", "Made from `--help` by `python docs/make_cli.py`."]
    for name in ["", *commands(get_command(app))]:
        arguments = [*name.split(), "--help"]
        done = CliRunner().invoke(app, arguments, prog_name="compress", env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"})
        title = f"compress {name}".strip()
        parts += [f"## {title}", "```text\n" + done.output.strip() + "\n```"]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
