from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import write_tiny_bundle

import runtime
from runtime.bundle import manifest as m
from runtime.errors import ArtifactError
from runtime.session import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "bundle")


def content(bundle: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((bundle / m.MANIFEST).read_text())
    return loaded


def rewrite(bundle: Path, **changes: Any) -> None:
    (bundle / m.MANIFEST).write_text(json.dumps(content(bundle) | changes))


def listed(bundle: Path, name: str) -> None:
    """List ``name`` with a matching id, as someone would who forges a manifest."""
    files = content(bundle)["files"] | {name: {"size": 1, "sha256": "0" * 64}}
    rewrite(bundle, files=files, id=m.bundle_id(files))


def test_a_whole_bundle_verifies_and_loads(bundle: Path) -> None:
    report = verify(bundle)
    assert (report.files, report.golden, report.rounding, report.proved) == (2, 2, 0, False)
    with runtime.load(bundle, slots=1) as session:
        assert session.name == "test"


def flip(bundle: Path) -> None:
    data = bytearray((bundle / "model.gguf").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.gguf").write_bytes(data)


def add_link(bundle: Path) -> None:
    (bundle / "notes" / "README.txt").unlink()
    (bundle / "notes" / "README.txt").symlink_to("/etc/hostname")


def add_folder_link(bundle: Path) -> None:
    (bundle / "more").symlink_to(bundle.parent)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "absolute path": (lambda b: listed(b, "/etc/passwd"), r"'/etc/passwd' leads out"),
    "backslash path": (lambda b: listed(b, "..\\x"), r"leads out"),
    "bad digest": (lambda b: rewrite(b, files={"model.gguf": {"size": 1, "sha256": "zz"}}), "needs size and sha256"),
    "deep json": (lambda b: (b / m.MANIFEST).write_text("[" * 100_000), "not valid JSON"),
    "drive path": (lambda b: listed(b, "C:x"), "leads out"),
    "escape": (lambda b: listed(b, "../outside"), r"'\.\./outside' leads out"),
    "extra file": (lambda b: (b / "notes" / "new.py").write_text("x"), r"new\.py is not in the manifest"),
    "flipped byte": (flip, r"model\.gguf is corrupt: its SHA-256"),
    "folder link": (add_folder_link, "more is a link"),
    "foreign id": (lambda b: rewrite(b, id="0" * 64), "'id' does not belong"),
    "grown file": (lambda b: (b / "notes" / "README.txt").write_text("hello!"), r"README\.txt is corrupt: its size"),
    "hidden dots": (lambda b: listed(b, "notes/./x"), "leads out"),
    "link": (add_link, r"README\.txt is a link"),
    "malformed golden": (lambda b: rewrite(b, golden=[{"messages": "x"}]), "malformed"),
    "missing file": (lambda b: (b / "notes" / "README.txt").unlink(), r"README\.txt is missing"),
    "missing manifest": (lambda b: (b / m.MANIFEST).unlink(), "not a bundle"),
    "model outside": (lambda b: rewrite(b, model={"kind": "gguf", "path": "../m.gguf"}), "'model' must hold"),
    "not json": (lambda b: (b / m.MANIFEST).write_text("{"), "not valid JSON"),
    "not utf-8": (lambda b: (b / m.MANIFEST).write_bytes(b"\xff{}"), "not valid JSON"),
    "not an object": (lambda b: (b / m.MANIFEST).write_text("[]"), "not an object"),
    "oversized": (lambda b: (b / m.MANIFEST).write_text(" " * (m.MANIFEST_CAP + 1)), "larger than"),
    "unknown kind": (lambda b: rewrite(b, model={"kind": "pickle", "path": "model.gguf"}), "'model' must hold"),
    "wrong format": (lambda b: rewrite(b, format=99), "format 99 is not known"),
    "wrong golden": (
        lambda b: rewrite(b, golden=[content(b)["golden"][0] | {"token_ids": [9, 9]}]),
        "golden prompt 1",
    ),
}


@pytest.mark.parametrize("kind", sorted(DAMAGE))
def test_damage_is_named(bundle: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    damage(bundle)
    with pytest.raises(ArtifactError, match=message):
        verify(bundle)


def test_load_refuses_what_verify_refuses(bundle: Path) -> None:
    flip(bundle)
    with pytest.raises(ArtifactError, match="corrupt"):
        runtime.load(bundle)


def test_nothing_is_parsed_before_the_hashes(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(bundle)
    monkeypatch.setattr("runtime.engine.backends.open_backend", lambda *a, **k: pytest.fail("the model was opened"))
    with pytest.raises(ArtifactError, match="SHA-256"):
        runtime.load(bundle)
