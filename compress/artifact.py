"""An artifact: a folder (or one file) with a kind, a content digest and a lineage.

A folder that a stage wrote holds ``artifact.json``::

    {"format": 1, "kind": "gguf", "digest": "…", "stage": "export.gguf", "stage_version": 1,
     "params": {…}, "inputs": {"from.0": "<digest>", …}, "facts": {…},
     "files": {"model.gguf": {"size": 123, "sha256": "…"}}}

``facts`` is what the stage wants told about its output (bits per weight, parameters, verdict…):
deterministic values only. Wall times and other readings of the machine belong in
``measurements.json``, which is outside the digest, so equal inputs give equal digests.
A folder or file that somebody else wrote is recognised by what it holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from compress.errors import ArtifactError, UsageError
from compress.json_files import digest_json, read_json, write_json

RECORD = "artifact.json"
MEASUREMENTS = "measurements.json"
LOGS = "logs"
"""Folder of what a training wrote for other programs as it went: with times, so outside the digest."""
OUTSIDE_DIGEST = frozenset({RECORD, MEASUREMENTS})
KINDS = ("adapter", "bundle", "calibration", "data", "gguf", "gptq", "hf", "imatrix", "onnx", "parity", "proof")


@dataclass(frozen=True)
class Artifact:
    """One output on disk. ``path`` is its folder, or the file itself for a lone ``.gguf`` (the first of several that
    are one model)."""

    kind: str
    path: Path
    digest: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    def size_bytes(self) -> int:
        """Bytes of the content files, without the adapter that a merged model keeps for its record."""
        return sum(entry["size"] for name, entry in self.record["files"].items() if not name.startswith("adapter/"))

    def measurements(self) -> dict[str, Any]:
        """Readings of the machine taken while the artifact was made, or {}."""
        path = self.path / MEASUREMENTS
        return json.loads(path.read_text()) if path.is_file() else {}


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def list_files(folder: Path, *, links: bool = False) -> list[Path]:
    """Content files below ``folder`` in a fixed order. A link is refused (content must be inside) unless ``links``:
    then one to a file counts as that file, as in the hub's cache."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not (links and path.is_file()):
            raise ArtifactError(
                f"{path} is a link; an artifact holds its own files", next="replace the link by its file"
            )
        inside = path.relative_to(folder)
        if path.is_file() and inside.as_posix() not in OUTSIDE_DIGEST and inside.parts[0] != LOGS:
            found.append(path)
    return found


def hash_files(folder: Path, *, links: bool = False) -> dict[str, dict[str, Any]]:
    """``{relative path: {size, sha256}}`` of an artifact's content; ``links`` as in ``list_files``."""
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in list_files(folder, links=links)
    }


def seal(
    folder: Path,
    *,
    kind: str,
    stage: str,
    stage_version: int,
    params: Mapping[str, Any],
    inputs: Mapping[str, str],
    facts: Mapping[str, Any],
) -> Artifact:
    """Hash ``folder``'s content and write its ``artifact.json``."""
    assert kind in KINDS, kind
    files = hash_files(folder)
    record = {
        "format": 1,
        "kind": kind,
        "stage": stage,
        "stage_version": stage_version,
        "params": dict(params),
        "inputs": dict(inputs),
        "facts": dict(facts),
        "files": files,
        "digest": digest_json({"kind": kind, "files": files}),
    }
    write_json(folder / RECORD, record)
    return _from_record(folder, record)


def _from_record(folder: Path, record: Mapping[str, Any]) -> Artifact:
    return Artifact(record["kind"], folder, record["digest"], record["facts"], record)


def open_artifact(path: Path | str, *, verify: bool = True) -> Artifact:
    """Open what a stage wrote, or what somebody else wrote.

    ``verify`` re-hashes every file; without it only names and sizes are compared.
    Raises UsageError where there is nothing, ArtifactError naming the first file that is missing or differs.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path} does not exist", next="check the path")
    if (path / RECORD).is_file():
        return _open_recorded(path, verify=verify)
    return _open_foreign(path)


def _open_recorded(folder: Path, *, verify: bool) -> Artifact:
    try:
        record = json.loads((folder / RECORD).read_text())
        files = record["files"]
        artifact = _from_record(folder, record)
        odd = next((name for name, entry in files.items() if not _inside(name) or {"size", "sha256"} - {*entry}), None)
    except (AttributeError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{folder / RECORD} is not a valid artifact record ({error})", next=_REMAKE) from None
    if odd is not None:
        raise ArtifactError(f"{folder / RECORD} names {odd!r:.200}, which is no file of the artifact", next=_REMAKE)
    if artifact.digest != digest_json({"kind": artifact.kind, "files": files}):
        raise ArtifactError(f"{folder / RECORD} was changed: its digest is not that of its files", next=_REMAKE)
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{path} is missing from the artifact", next=_REMAKE)
        if path.stat().st_size != entry["size"] or (verify and sha256_file(path) != entry["sha256"]):
            raise ArtifactError(f"{path} is corrupt: its content differs from {RECORD}", next=_REMAKE)
    return artifact


def _inside(name: str) -> bool:
    """Whether a path of a record stays in the folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and "\0" not in name and "\\" not in name


_REMAKE = "delete that folder and run the command that made it again"


def _open_foreign(path: Path) -> Artifact:
    from runtime.engine.gguf_split import parts_of

    kind = sniff_kind(path)
    if path.is_file():
        files = {part.name: {"size": part.stat().st_size, "sha256": sha256_file(part)} for part in parts_of(path)}
    else:
        files = hash_files(path, links=True)
    return Artifact(kind, path, digest_json({"kind": kind, "files": files}), {}, {"files": files, "kind": kind})


def sniff_kind(path: Path) -> str:
    """The kind of a folder or file that carries no record, by what it holds."""
    if path.is_file() and path.suffix == ".gguf":
        return "gguf"
    marks = (("manifest.json", "bundle"), ("genai_config.json", "onnx"), ("adapter_config.json", "adapter"))
    for mark, kind in marks:
        if (path / mark).is_file():
            return kind
    if (path / "config.json").is_file():
        quantization = read_json(path / "config.json").get("quantization_config")
        gptq = isinstance(quantization, dict) and quantization.get("quant_method") == "gptq"
        return "gptq" if gptq else "hf"
    if path.is_dir() and list(path.glob("*.gguf")):
        return "gguf"
    raise ArtifactError(
        f"{path} is not a model that is known here",
        next="give a Hugging Face folder (config.json + *.safetensors), a GPTQ folder, a .gguf file, "
        "an onnxruntime-genai folder or a bundle",
    )
