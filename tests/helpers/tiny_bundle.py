"""A bundle around the tiny random model."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

from tiny_gguf import write_tiny_gguf

import runtime
from runtime.bundle.golden import make_golden
from runtime.bundle.manifest import BESIDE, FORMAT, MANIFEST, bundle_id


def write_tiny_bundle(folder: Path) -> Path:
    """A model, a note and two golden prompts in a new folder."""
    (folder / "notes").mkdir(parents=True)
    write_tiny_gguf(folder / "model.gguf")
    (folder / "notes" / "README.txt").write_text("hello")
    with runtime.load(folder / "model.gguf", slots=1) as session:
        golden = make_golden(session, [[{"role": "user", "content": text}] for text in ("a", "bc")], max_tokens=6)
    write_manifest(folder, golden)
    return folder


def write_manifest(folder: Path, golden: list[Any], **changes: Any) -> None:
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in BESIDE:
            data = path.read_bytes()
            files[name] = {"size": len(data), "sha256": sha256(data).hexdigest()}
    content = {
        "format": FORMAT,
        "id": bundle_id(files),
        "name": "test",
        "model": {"kind": "gguf", "path": "model.gguf"},
        "files": files,
        "proved": False,
        "golden": golden,
    }
    (folder / MANIFEST).write_text(json.dumps(content | changes))


def write_ruled_bundle(folder: Path, *, context: int = 512) -> Path:
    """The model under the demo's rules, without golden prompts."""
    folder.mkdir(parents=True)
    write_tiny_gguf(folder / "model.gguf", context=context)
    shutil.copy(Path(__file__).parents[2] / "configs/rules/customer_service.yaml", folder / "rules.yaml")
    write_manifest(folder, [])
    return folder
