"""The bundle: what ships, and how it is checked before anything in it is parsed.

Order of opening: folder layout (no links, no escapes, no unknown file, sizes within caps) -> SHA-256 of every file ->
only then parse (rules, model) -> self-test on the golden prompts.

``manifest.json``::

    {"format": 1, "id": "<sha256 of files>", "name", "version",
     "model": {"kind": "gguf|onnx", "path": "model.gguf"},
     "files": {"model.gguf": {"size", "sha256"}, …},
     "backend": {"name", "tested": {"llama-cpp-python": "0.3.36"}},
     "architecture": {…}, "quantization": {…}, "lineage": {stage id: {kind, digest, stage, inputs}},
     "context", "memory_bytes", "proved": bool, "gate": {…numbers…} | null,
     "golden": [{"messages", "max_tokens", "token_ids", "text"}]}
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import ArtifactError, UsageError

FORMAT = 1
MANIFEST = "manifest.json"
RULES = "rules.yaml"
TEMPLATE = "chat_template.jinja"
BESIDE = frozenset({MANIFEST, "artifact.json", "measurements.json"})
"""May lie in the folder without being listed: the manifest itself and the toolkit's records, which are never read."""
MANIFEST_CAP = 4 << 20
FILES_CAP = 4096
PATH_CAP = 255
MODEL_KINDS = ("gguf", "onnx", "gptq")
_REMAKE = "copy the bundle again from where it was made, or package it anew"


@dataclass(frozen=True)
class Manifest:
    """A manifest whose shape has been checked."""

    folder: Path
    content: Mapping[str, Any]

    @property
    def id(self) -> str:
        """SHA-256 over the names, sizes and digests of the files."""
        return str(self.content["id"])

    @property
    def name(self) -> str:
        """The bundle's name."""
        return str(self.content["name"])

    @property
    def kind(self) -> str:
        """Kind of the model: ``gguf``, ``onnx`` or ``gptq``."""
        return str(self.content["model"]["kind"])

    @property
    def model(self) -> Path:
        """The model's file or folder."""
        return self.folder / str(self.content["model"]["path"])

    @property
    def files(self) -> Mapping[str, Mapping[str, Any]]:
        """``{relative path: {size, sha256}}``."""
        files: Mapping[str, Mapping[str, Any]] = self.content["files"]
        return files


def bundle_id(files: Mapping[str, Mapping[str, Any]]) -> str:
    """The id of a bundle with these files."""
    return hashlib.sha256(json.dumps(files, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json`` alone. Raises ArtifactError, UsageError where there is no such folder."""
    if not folder.exists():
        raise UsageError(f"{folder} does not exist", next="check the path")
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise ArtifactError(f"{path} is missing or not a plain file: {folder} is not a bundle", next=_REMAKE)
    if path.stat().st_size > MANIFEST_CAP:
        raise ArtifactError(f"{path} is larger than {MANIFEST_CAP} bytes", next=_REMAKE)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not valid JSON ({type(error).__name__})", next=_REMAKE) from None
    problem = _shape_problem(content)
    if problem:
        raise ArtifactError(f"{path}: {problem}", next=_REMAKE)
    return Manifest(folder, content)


def _shape_problem(content: Any) -> str | None:
    """What is wrong with a manifest's shape, or None."""
    if not isinstance(content, dict):
        return "the manifest is not an object"
    if content.get("format") != FORMAT:
        return f"format {content.get('format')!r} is not known to this runtime (it reads format {FORMAT})"
    model, files, golden = content.get("model"), content.get("files"), content.get("golden")
    if not isinstance(model, dict) or model.get("kind") not in MODEL_KINDS or not _safe(model.get("path")):
        return "'model' must hold a known kind and a path inside the bundle"
    if not isinstance(files, dict) or not 0 < len(files) <= FILES_CAP:
        return f"'files' must list 1 to {FILES_CAP} files"
    for name, entry in files.items():
        if not _safe(name):
            return f"the path {name!r} leads out of the bundle or is not plain"
        if not isinstance(entry, dict) or not isinstance(entry.get("size"), int) or not _hex(entry.get("sha256")):
            return f"the entry of {name!r} needs size and sha256"
    if content.get("id") != bundle_id(files):
        return "'id' does not belong to these files"
    if not isinstance(content.get("name"), str) or not isinstance(golden, list) or not all(map(_is_golden, golden)):
        return "'name' or 'golden' is malformed"
    return None


def _safe(name: Any) -> bool:
    """Whether a path stays inside, on any system: relative, forward slashes, no dots, no drive, no control byte."""
    if not isinstance(name, str) or not 0 < len(name) <= PATH_CAP or "\\" in name or ":" in name:
        return False
    parts = PurePosixPath(name).parts
    plain = name.isprintable() and not name.startswith("/") and str(PurePosixPath(name)) == name
    return plain and all(part not in (".", "..") for part in parts)


def _hex(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_golden(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("messages"), list)
        and isinstance(entry.get("max_tokens"), int)
        and isinstance(entry.get("token_ids"), list)
        and all(isinstance(token, int) for token in entry["token_ids"])
    )


def check_layout(manifest: Manifest) -> None:
    """The folder holds exactly the listed files, as plain files of the listed sizes."""
    seen: set[str] = set()
    for root, folders, names in os.walk(manifest.folder):
        for name in [*folders, *names]:
            path = Path(root) / name
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode) or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise ArtifactError(f"{path} is a link or not a plain file", next=_REMAKE)
        seen.update((Path(root) / name).relative_to(manifest.folder).as_posix() for name in names)
    unknown = sorted(seen - set(manifest.files) - BESIDE)
    if unknown:
        raise ArtifactError(f"{manifest.folder / unknown[0]} is not in the manifest", next="remove that file")
    for name, entry in sorted(manifest.files.items()):
        path = manifest.folder / name
        if name not in seen:
            raise ArtifactError(f"{path} is missing from the bundle", next=_REMAKE)
        if path.stat().st_size != entry["size"]:
            raise ArtifactError(f"{path} is corrupt: its size is not the manifest's", next=_REMAKE)


def check_hashes(manifest: Manifest) -> None:
    """Every file has the SHA-256 of the manifest."""
    for name, entry in sorted(manifest.files.items()):
        with open(manifest.folder / name, "rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
        if found != entry["sha256"]:
            raise ArtifactError(f"{manifest.folder / name} is corrupt: its SHA-256 is not the manifest's", next=_REMAKE)


def check_bundle(folder: Path) -> Manifest:
    """Layout and hashes; nothing of the content is parsed."""
    manifest = read_manifest(folder)
    check_layout(manifest)
    check_hashes(manifest)
    return manifest
