"""Who may import whom (the table of docs/architecture.md), and what starting a command may load."""

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from compress.registry import STAGES, load_stage

ROOT = Path(__file__).parents[1]
OURS = ("compress", "export", "finetune", "runtime")
HEAVY = {
    "bitsandbytes",
    "datasets",
    "llama_cpp",
    "onnx",
    "onnxruntime",
    "onnxruntime_genai",
    "peft",
    "torch",
    "transformers",
    "trl",
}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {dotted(path): path for package in OURS for path in sorted((ROOT / package).rglob("*.py"))}


def rooms() -> dict[str, set[str]]:
    """Room -> rooms that it may import, from the ground up."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([a-z.]+)` \|[^|\n]*\|([^|\n]*)\|$", page, re.M)
    return {room: set(re.findall(r"`([a-z.]+)`", allowed)) for room, allowed in rows}


ROOMS = rooms()


def room_of(module: str) -> str:
    return max((room for room in ROOMS if module == room or module.startswith(f"{room}.")), key=len)


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """(dotted name, line, at module level) of every import, names relative to the file made absolute."""
    tree = ast.parse(path.read_text())
    top, found = {id(node) for node in tree.body}, []
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [(f"{module}.{alias.name}", node.lineno, id(node) in top) for alias in node.names]
    return found


def ours(path: Path) -> list[tuple[str, int]]:
    """(our module, line) of every import of ours, under TYPE_CHECKING and in functions too."""
    found = []
    for name, line, _ in imports(path):
        if name.split(".")[0] in OURS:
            while name not in FILES:
                name = name.rpartition(".")[0]
            found.append((name, line))
    return found


def test_the_table_stands_from_the_ground_up():
    assert len(ROOMS) > 25
    for number, (room, allowed) in enumerate(ROOMS.items()):
        above = allowed - set(list(ROOMS)[:number])
        assert not above, f"{room} may import {sorted(above)}, which stands above it or nowhere"
    packages = {dotted(path) for path in FILES.values() if path.name == "__init__.py"}
    assert packages - set(ROOMS) == {"runtime.engine.backends"}


def test_rooms_import_only_what_their_row_names():
    wrong = []
    for module, path in FILES.items():
        room = room_of(module)
        for name, line in ours(path):
            if room_of(name) not in {room, *ROOMS[room]}:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}, which {room} may not")
    assert not wrong, "\n".join(wrong)


def test_no_circle_of_files():
    graph = {module: dict(ours(path)) for module, path in FILES.items()}
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> None:
        if module in trail:
            circle = [*trail[trail.index(module) :], module]
            steps = (f"{FILES[a].relative_to(ROOT)}:{graph[a][b]} imports {b}" for a, b in itertools.pairwise(circle))
            pytest.fail("a circle:\n" + "\n".join(steps))
        if module not in done:
            for name in graph[module]:
                if name != module:
                    walk(name, [*trail, module])
            done.add(module)

    for module in graph:
        walk(module, [])


def test_no_stage_imports_another_stage():
    stages = {target.partition(":")[0] for target in STAGES.values()}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in FILES.values()
        for name, line in ours(path)
        if name in stages
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_hub_is_fetched_from():
    assert [name for name in STAGES if load_stage(name).online] == ["source.hf"]


def test_every_stage_is_a_file_that_exists():
    assert {target.partition(":")[0] for target in STAGES.values()} <= set(FILES)


@pytest.mark.parametrize("package", OURS)
def test_heavy_libraries_are_imported_inside_functions(package):
    wrong = []
    for module, path in FILES.items():
        if not module.startswith(package) or path.parent.name == "backends":
            continue  # a table of dotted names: each file is imported when its kind of model is loaded
        maths = package != "runtime" and "import torch" in path.read_text().split("\ndef ")[0]
        for name, line, at_top in imports(path):
            if at_top and name.split(".")[0] in HEAVY and not maths:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_stage_files_do_not_load_heavy_libraries():
    code = (
        "import sys\n"
        "from compress.registry import STAGES, load_stage\n"
        "for name in STAGES: load_stage(name)\n"
        f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    )
    assert run(code) == "[]"


def test_runtime_works_without_torch():
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'compress', 'finetune', 'export'): sys.modules[name] = None\n"
        "import runtime, runtime.rules, runtime.guard, runtime.session, runtime.server.app, runtime.cli\n"
        "print('fine')"
    )
    assert run(code) == "fine"


def test_runtime_alone_loads_little():
    code = "import sys, runtime; print(sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = set(ast.literal_eval(run(code)))
    assert not loaded & {"google", "jinja2", "numpy", "pydantic", "re2", "rich", "typer", "yaml", *HEAVY}


def test_runtime_has_relative_imports_only():
    wrong = []
    for module, path in FILES.items():
        if room_of(module).startswith("runtime"):
            tree = ast.walk(ast.parse(path.read_text()))
            absolute = [n for n in tree if isinstance(n, ast.ImportFrom) and not n.level and n.module]
            wrong += [f"{path}:{n.lineno}" for n in absolute if str(n.module).split(".")[0] in OURS]
    assert not wrong, "\n".join(wrong)


def test_the_runtime_wheel_holds_every_package():
    listed = re.findall(r'"(holdfast[\w.]*)",$', (ROOT / "runtime" / "pyproject.toml").read_text(), re.M)
    packages = {dotted(path) for path in FILES.values() if path.name == "__init__.py" and dotted(path)[:7] == "runtime"}
    assert set(listed) == {name.replace("runtime", "holdfast", 1) for name in packages}


def test_help_loads_little():
    code = (
        "import sys\n"
        "from compress.cli import app\n"
        "import typer\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "loaded = {name.split('.')[0] for name in sys.modules} | set(sys.modules)\n"
        "print(sorted(loaded & {'numpy', 'pydantic', 'rich', 'scipy', 'yaml', 'jinja2', 'runtime.rules', *HEAVY}))"
    ).replace("*HEAVY", ", ".join(repr(name) for name in sorted(HEAVY)))
    assert run(code).splitlines()[-1] == "[]"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
