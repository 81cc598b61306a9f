"""Who may import whom, and what starting a command may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"compress", "export", "finetune", "runtime"}
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
ALLOWED = {
    "runtime": set(),
    "compress": {"compress", "runtime"},
    "export": {
        "compress.artifact",
        "compress.calibrate",
        "compress.errors",
        "compress.extras",
        "compress.model_config",
        "compress.quantize",
        "compress.safetensors_header",
        "compress.stage",
        "export",
        "runtime.errors",
        "runtime.gguf_file",
        "runtime.golden",
        "runtime.manifest",
        "runtime.rules",
        "runtime.session",
        "runtime.template",
    },
    "finetune": {
        "compress.artifact",
        "compress.errors",
        "compress.extras",
        "compress.stage",
        "finetune",
        "runtime.errors",
        "runtime.manifest",
        "runtime.rules",
        "runtime.template",
    },
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """(absolute dotted name or '.relative', line, at module level) of every import."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            found += [(dots + (node.module or ""), node.lineno, id(node) in top)]
            if not node.level and node.module in OURS:
                found += [(f"{node.module}.{alias.name}", node.lineno, id(node) in top) for alias in node.names]
    return found


def permitted(package: str, name: str) -> bool:
    return any(name == allowed or name.startswith(allowed + ".") for allowed in ALLOWED[package])


@pytest.mark.parametrize("package", sorted(OURS))
def test_rooms_import_only_what_they_may(package):
    wrong = []
    for path in modules(package):
        for name, line, _ in imports(path):
            if name.split(".")[0] in OURS and not permitted(package, name) and name not in OURS:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", sorted(OURS))
def test_heavy_libraries_are_imported_inside_functions(package):
    wrong = []
    for path in modules(package):
        if path.parent.name == "backends":
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
        "import runtime, runtime.rules, runtime.guard, runtime.session, runtime.manifest, runtime.serve, runtime.cli\n"
        "print('fine')"
    )
    assert run(code) == "fine"


def test_runtime_has_relative_imports_only():
    wrong = [f"{p}:{line}" for p in modules("runtime") for name, line, _ in imports(p) if name.split(".")[0] in OURS]
    assert not wrong, "\n".join(wrong)


def test_help_loads_little():
    code = (
        "import sys\n"
        "from compress.cli import app\n"
        "import typer\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'numpy', 'pydantic', 'rich', 'scipy', 'yaml', 'jinja2', 'runtime.rules', *HEAVY}))"
    ).replace("*HEAVY", ", ".join(repr(name) for name in sorted(HEAVY)))
    assert run(code).splitlines()[-1] == "[]"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
