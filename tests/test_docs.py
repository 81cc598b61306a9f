"""Pages that are made from the code, and commands that the README shows."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_cli_page_is_what_help_says():
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text() == module.render(), "run: python docs/make_cli.py"


def test_links_lead_somewhere():
    broken = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert not broken, "\n".join(broken)


def test_commands_in_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    commands = set(re.findall(r"^(?:\.venv/bin/)?compress ([a-z]+)", text, re.M))
    assert commands
    for name in sorted(commands):
        done = subprocess.run([sys.executable, "-m", "compress.cli", name, "--help"], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, name
