"""What an app imports: `load` a bundle or a model into a `Session`; `verify` a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .answers import Session
from .bundle.golden import self_test
from .bundle.manifest import MANIFEST, RULES, TEMPLATE, check_bundle, check_hashes, check_layout, read_manifest
from .engine.backends import open_backend
from .engine.gguf_split import first_of, parts_of
from .engine.prefixes import Prefixes
from .errors import ArtifactError, UsageError
from .values import check_loading

if TYPE_CHECKING:
    from .engine.backends.base import Backend
    from .rules import RuleBook

__all__ = ["Report", "Session", "find_model", "load", "verify"]


@dataclass(frozen=True)
class Report:
    """What `verify` found. A damaged bundle raises instead."""

    id: str
    name: str
    files: int
    size_bytes: int
    proved: bool
    verdict: str | None
    golden: int
    """Golden prompts answered as expected; 0 when the self-test was skipped."""
    rounding: int
    """Of those, how many differ only where two tokens were equally likely up to rounding."""


def find_model(path: Path) -> tuple[str, Path]:
    """``(kind, path)`` of a .gguf file (the first of a model in several), a folder with one, or an onnxruntime-genai
    folder."""
    if path.is_file() and path.suffix == ".gguf":
        return "gguf", parts_of(path)[0]
    if (path / "genai_config.json").is_file():
        return "onnx", path
    found = sorted(path.glob("*.gguf")) if path.is_dir() else []
    if model := first_of(found):
        return "gguf", model
    if not path.exists():
        raise UsageError(f"{path} does not exist", next="check the path")
    what = "several .gguf files" if found else "no model that this runtime knows"
    raise ArtifactError(f"{path} holds {what}", next="give a bundle, one .gguf file or an onnxruntime-genai folder")


def load(
    path: Path | str,
    *,
    threads: int | None = None,
    slots: int = 16,
    context: int | None = None,
    rules: Path | str | RuleBook | None = None,
    queue: int = 1024,
    trust: bool = False,
    template: str | None = None,
    lookup: bool = True,
    kv: str | None = None,
    prefixes: bool | Path | str | None = None,
) -> Session:
    """Load a bundle, a .gguf file, a folder with one, or an onnxruntime-genai folder.

    ``threads``: decode threads (by default what suits the model's size); ``slots``: replies decoded together;
    ``context``: tokens per conversation; ``rules``: a rule file for a model without one; ``queue``: requests that
    may wait before Overloaded; ``template``: the name of a chat template where the model has several; ``lookup``:
    decode what a reply may say next together with what it said, where that pays; ``kv``: ``f16`` or ``q8_0``, the type
    of llama.cpp's KV cache; ``prefixes``: a folder in which the keys and values of system prompts are kept over
    restarts (True: ``NAME.prefixes`` beside the model, which is the default for bundles alone; False: none). A bundle
    is verified and self-tested first (``trust`` skips both).
    Raises ArtifactError naming the culprit, MissingExtra naming the pip command, UsageError for a path that does not
    exist and for an unknown template.
    """
    path = Path(path)
    check_loading({"threads": threads, "slots": slots, "context": context, "queue": queue, "rules": rules})
    engine: dict[str, Any] = {"threads": threads, "slots": slots, "context": context}
    engine |= {} if kv is None else {"kv": kv}
    if (path / MANIFEST).is_file():
        session = _open_bundle(path, engine, queue=queue, trust=trust, lookup=lookup, prefixes=prefixes)
        session.choose_template(template)
        return session
    kind, model = find_model(path)
    book = _rule_book(rules)
    backend = open_backend(kind, model, **engine)
    folder = _prefix_folder(prefixes or False, path)
    kept = _prefixes(folder, backend, _file_identity(model))
    session = Session(backend, rules=book, name=path.stem, queue=queue, lookup=lookup, prefixes=kept)
    session.choose_template(template)
    return session


def _open_bundle(
    folder: Path,
    engine: Mapping[str, Any],
    *,
    queue: int = 1024,
    trust: bool,
    lookup: bool = True,
    prefixes: bool | Path | str | None = False,
) -> Session:
    """Verify, load and self-test a bundle. ``trust`` skips the hashes and the self-test (a bundle just verified)."""
    manifest = read_manifest(folder)
    check_layout(manifest)
    if not trust:
        check_hashes(manifest)
    book = _rule_book(folder / RULES) if RULES in manifest.files else None
    backend = open_backend(manifest.kind, manifest.model, **{"threads": None, "context": None, **engine})
    template = (folder / TEMPLATE).read_text(encoding="utf-8") if TEMPLATE in manifest.files else None
    session = Session(
        backend,
        template=template,
        rules=book,
        manifest=manifest,
        name=manifest.name,
        queue=queue,
        lookup=lookup,
        prefixes=_prefixes(_prefix_folder(True if prefixes is None else prefixes, folder), backend, manifest.id),
    )
    if not trust:
        try:
            self_test(session, manifest)
        except BaseException:
            session.close()
            raise
    return session


def _prefix_folder(asked: bool | Path | str, model: Path) -> Path | None:
    """Where prefixes are kept: beside the model unless a folder is named; None for nowhere."""
    if isinstance(asked, bool):
        where = model.resolve()
        return where.with_name(f"{where.name}.prefixes") if asked else None
    return Path(asked)


def _prefixes(folder: Path | None, backend: Backend, model: str) -> Prefixes | None:
    if folder is None or not backend.keeps:
        return None
    return Prefixes(folder, f"{model} {backend.cache}")


def _file_identity(model: Path) -> str:
    """A file's name, size and time: what tells a model without a manifest from the one that was there before."""
    state = model.stat()
    return f"{model.name} {state.st_size} {state.st_mtime_ns}"


def verify(folder: Path | str, *, test: bool = True) -> Report:
    """Check a bundle from layout to golden prompts (``test``). Raises ArtifactError naming the culprit."""
    manifest = check_bundle(Path(folder))
    golden = rounding = 0
    if test and manifest.content["golden"]:
        with _open_bundle(Path(folder), {"slots": 4}, trust=True) as session:
            golden, rounding = self_test(session, manifest)
    gate = manifest.content.get("gate") or {}
    size = sum(entry["size"] for entry in manifest.files.values())
    proved = bool(manifest.content.get("proved"))
    return Report(manifest.id, manifest.name, len(manifest.files), size, proved, gate.get("verdict"), golden, rounding)


def _rule_book(rules: Path | str | RuleBook | None) -> RuleBook | None:
    if isinstance(rules, Path | str):
        from .rules import load_rules

        return load_rules(rules)
    return rules
