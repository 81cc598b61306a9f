"""The last stage: the chosen candidate, its rules, its proof and a manifest in one folder that ships."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from compress.artifact import Artifact, hash_files
from compress.costs import WORKER, Work
from compress.errors import ArtifactError, HoldfastError, UsageError
from compress.json_files import write_json
from compress.outline import Outline
from compress.stage import Job, JobOutline, Needs, Params, Stage
from export.bundle.ollama import modelfile
from export.bundle.papers import model_card, sbom
from runtime.bundle.manifest import FORMAT, MANIFEST, RULES, TEMPLATE, bundle_id
from runtime.engine.backends import BACKENDS
from runtime.engine.gguf_split import require_whole
from runtime.rules import load_rules

SMALLEST = "smallest_passing"
LIBRARIES, MOVED = 230_000_000, 120
"""Bytes of the worker with a runtime; bytes moved for one of the model: copied, hashed, read for golden prompts."""
PLAIN_PROMPTS = ("Hello, where is my order?", "I want to speak to a person.", "Thank you, that was all.")
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")


class BundleParams(Params):
    """What to package."""

    choose: str = SMALLEST
    """``smallest_passing``, or the name of one candidate of the proof (which must have passed)."""
    golden: int = Field(8, ge=0, le=64)
    """Golden prompts that the runtime answers in its self-test."""
    golden_tokens: int = Field(64, ge=1, le=512)
    """Tokens at most per golden reply."""
    name: str | None = None
    """The bundle's name; by default the candidate's."""
    version: int = Field(1, ge=1)
    """Grows with each release."""
    template: str | None = None
    """Which of several named chat templates ships as the default."""


class ExportBundle(Stage[BundleParams]):
    """A folder that `runtime.load` opens, from a proof (the chosen candidate) or straight from a model."""

    Params = BundleParams
    version = 4
    accepts = frozenset({"proof", "gptq", *BACKENDS})
    produces = "bundle"
    uses = frozenset({"rules", "eval"})
    libraries = frozenset({"llama-cpp-python", "onnxruntime-genai"})

    def requires(self, params: BundleParams) -> frozenset[str]:
        """Nothing: a bundle of a bare model is called unproven, and its golden prompts are plain ones."""
        return frozenset()

    def outline(self, job: JobOutline[BundleParams]) -> Outline:
        """The model with its papers; of a proof the smallest of its candidates."""
        found = job.input
        return Outline("bundle", found.ships_bytes or found.disk_bytes, found.model)

    def needs(self, job: JobOutline[BundleParams]) -> Needs:
        """The model is copied, hashed and loaded once, and answers the golden prompts."""
        size = self.outline(job).disk_bytes
        memory = max(WORKER, LIBRARIES + 2 * size)
        return Needs(size, memory, Work(moved=MOVED * size, python=0.25))

    def run(self, job: Job[BundleParams]) -> Mapping[str, Any]:
        proof = read_proof(job.input)
        name, chosen = choose(job, proof)
        model = copy_model(chosen, job.out)
        if job.rules is not None:
            shutil.copyfile(job.rules, job.out / RULES)
        if proof is not None:
            shutil.copyfile(job.input.path / "proof.json", job.out / "proof.json")
        copy_licences(job, job.out)
        told = ask_model(job, chosen, job.out / model, job.out)
        content = describe(job, job.params.name or name, chosen, model, _gate(proof, name), told)
        write_papers(job.out, content, told)
        files = hash_files(job.out)
        write_json(job.out / MANIFEST, {**content, "files": files, "id": bundle_id(files)})
        return {
            "bundle_id": bundle_id(files),
            "chosen": name,
            "kind": chosen.kind,
            "proved": content["proved"],
            "golden": len(told["golden"]),
        }


def read_proof(artifact: Artifact) -> dict[str, Any] | None:
    """``proof.json`` of a proof artifact, None for a model."""
    if artifact.kind != "proof":
        return None
    proof: dict[str, Any] = json.loads((artifact.path / "proof.json").read_text(encoding="utf-8"))
    return proof


def choose(job: Job[BundleParams], proof: Mapping[str, Any] | None) -> tuple[str, Artifact]:
    """The candidate to ship and its name. Raises when none passed, or its digest is not the one that was proved."""
    if proof is None:
        return (job.names[0] if job.names else job.input.path.stem), job.input
    entry = _entry(job.params.choose, proof)
    artifact = job.ancestors.get(entry["name"])
    if artifact is None:
        raise ArtifactError(f"the proof names {entry['name']!r}, which is not upstream", next="run the pipeline again")
    if artifact.digest != entry["digest"]:
        raise ArtifactError(
            f"{entry['name']} at {artifact.path} is not the model that was proved", next="run the validation again"
        )
    return entry["name"], artifact


def _entry(wanted: str, proof: Mapping[str, Any]) -> Mapping[str, Any]:
    passed = [c for c in proof["candidates"] if c["verdict"] == "PASS"]
    if wanted == SMALLEST:
        loadable = [c for c in passed if c["kind"] in BACKENDS]
        if not loadable:
            raise HoldfastError(
                "no candidate that the runtime loads passed the gate: nothing is packaged",
                next="open the report and see which rules broke",
            )
        return min(loadable, key=lambda c: (c["size_bytes"], c["name"]))
    for candidate in passed:
        if candidate["name"] == wanted:
            return candidate
    names = ", ".join(c["name"] for c in passed) or "none"
    raise UsageError(f"candidate {wanted!r} did not pass the gate", next=f"passed: {names}")


def copy_model(artifact: Artifact, out: Path) -> str:
    """Copy the model's files; the path that the manifest gives as the model."""
    if artifact.kind == "gguf":
        require_whole(artifact.path)
    if artifact.path.is_file():
        shutil.copyfile(artifact.path, out / "model.gguf")
        return "model.gguf"
    names = sorted(artifact.record["files"])
    if artifact.kind == "gguf":
        models = [name for name in names if name.endswith(".gguf")]
        if len(models) != 1:
            what = f"{artifact.path} holds {len(models)} models: {', '.join(models[:3])}"
            raise ArtifactError(what, next="give the .gguf file that is to be packaged")
        shutil.copyfile(artifact.path / models[0], out / "model.gguf")
        return "model.gguf"
    for name in names:
        (out / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.path / name, out / "model" / name)
    return "model"


def copy_licences(job: Job[BundleParams], out: Path) -> None:
    """The licence files of every model upstream, under ``licences/<stage>/``."""
    folder = out / "licences"
    folder.mkdir()
    for stage, artifact in sorted(_upstream(job).items()):
        if artifact.path.is_dir() and artifact.kind in ("hf", "gguf", "onnx", "gptq"):
            for path in _matching(artifact.path):
                (folder / stage).mkdir(exist_ok=True)
                shutil.copyfile(path, folder / stage / path.name)
    note = "Licence texts that came with the models upstream, by stage. The packaged runtime itself is MIT-licensed.\n"
    if not any(folder.iterdir()):
        note += "None came with them: the base model's own terms apply.\n"
    (folder / "README.txt").write_text(note, encoding="utf-8")


def _matching(folder: Path) -> Iterator[Path]:
    found = {path for pattern in LICENCES for path in folder.glob(pattern) if path.is_file()}
    yield from sorted(found)


def _upstream(job: Job[BundleParams]) -> dict[str, Artifact]:
    own = dict(zip(job.names or ("model",), job.inputs, strict=False))
    return {**own, **job.ancestors}


def ask_model(job: Job[BundleParams], chosen: Artifact, model: Path, out: Path) -> dict[str, Any]:
    """What only the loaded model can tell: template, context, memory, and its golden replies."""
    if chosen.kind not in BACKENDS:
        return {"golden": [], "context": None, "memory_bytes": chosen.size_bytes(), "stops": [], "template": None}
    from runtime.bundle.golden import make_golden
    from runtime.session import load

    with load(model, slots=1, template=job.params.template) as session:
        if session.template:
            (out / TEMPLATE).write_text(session.template, encoding="utf-8")
        prompts = golden_prompts(job)
        return {
            "golden": make_golden(session, prompts, max_tokens=job.params.golden_tokens),
            "context": session.engine.context,
            "memory_bytes": session.engine.memory_bytes,
            "stops": sorted(session.engine.stops),
            "template": session.template,
        }


def golden_prompts(job: Job[BundleParams]) -> list[list[dict[str, Any]]]:
    """Conversations spread over the proof's replies, else over the evaluation data, else a few plain ones."""
    rows = _reply_rows(job) or _evaluation_rows(job)
    if not rows:
        return [[{"role": "user", "content": text}] for text in PLAIN_PROMPTS[: job.params.golden]]
    count = min(job.params.golden, len(rows))
    return [list(rows[i * len(rows) // count]["messages"]) for i in range(count)]


def _reply_rows(job: Job[BundleParams]) -> list[dict[str, Any]]:
    """Rows of any one candidate: they were all asked the same, with the system prompt in front."""
    files = sorted((job.input.path / "replies").glob("*.jsonl")) if job.input.kind == "proof" else []
    return _rows(files[0]) if files else []


def _evaluation_rows(job: Job[BundleParams]) -> list[dict[str, Any]]:
    path = job.data.path / "eval.jsonl" if job.data is not None else None
    return _rows(path) if path is not None and path.is_file() else []


def _rows(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as handle:
        return [json.loads(line) for line in handle if line.strip()]


def describe(
    job: Job[BundleParams],
    title: str,
    chosen: Artifact,
    model: str,
    gate: Mapping[str, Any] | None,
    told: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest without ``files`` and ``id``; ``gate`` is None for a model that no proof stands behind."""
    row = BACKENDS.get(chosen.kind)
    engine, library = (row.engine, row.distributions[0]) if row else ("vLLM or transformers", None)
    return {
        "format": FORMAT,
        "name": title,
        "version": job.params.version,
        "model": {"kind": chosen.kind, "path": model, "digest": chosen.digest},
        "backend": {"name": engine, "tested": {library: version(library)} if library else {}},
        "architecture": _facts(chosen, ("architecture", "parameters", "layers", "hidden", "vocabulary")),
        "quantization": {"stage": chosen.record.get("stage"), "facts": dict(chosen.facts)},
        "lineage": {name: _origin(artifact) for name, artifact in sorted(_upstream(job).items())},
        "data": job.data.digest if job.data is not None else None,
        "context": told["context"],
        "memory_bytes": told["memory_bytes"],
        "proved": gate is not None,
        "note": None if gate is not None else "unproven: packaged straight from a model, no gate was run",
        "gate": gate,
        "golden": told["golden"],
    }


def _gate(proof: Mapping[str, Any] | None, name: str) -> dict[str, Any] | None:
    """The verdict and the numbers of the shipped candidate."""
    if proof is None:
        return None
    (entry,) = [c for c in proof["candidates"] if c["name"] == name]
    head = {key: proof[key] for key in ("baseline", "n_items", "margins") if key in proof}
    return {**head, "verdict": entry["verdict"], "candidate": entry}


def _facts(artifact: Artifact, names: Sequence[str]) -> dict[str, Any]:
    return {name: artifact.facts[name] for name in names if name in artifact.facts}


def _origin(artifact: Artifact) -> dict[str, Any]:
    keys = ("stage", "stage_version", "inputs")
    return {"kind": artifact.kind, "digest": artifact.digest} | {
        key: artifact.record[key] for key in keys if key in artifact.record
    }


def write_papers(out: Path, content: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """README.md (the model card), sbom.json and, for GGUF, a Modelfile."""
    (out / "README.md").write_text(model_card(content), encoding="utf-8")
    write_json(out / "sbom.json", sbom(content))
    if content["model"]["kind"] == "gguf":
        system = load_rules(out / RULES).system_prompt() if (out / RULES).is_file() else ""
        text = modelfile(
            out / "model.gguf", told["stops"], template=told["template"], context=content["context"], system=system
        )
        (out / "Modelfile").write_text(text, encoding="utf-8")
