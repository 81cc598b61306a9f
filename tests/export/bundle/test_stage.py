from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import write_tiny_gguf

import runtime
from compress.artifact import Artifact, open_artifact, seal
from compress.errors import ArtifactError, HoldfastError, UsageError
from compress.stage import Job
from export.bundle.stage import BundleParams, ExportBundle, copy_model
from runtime.engine.template import STILL

RULES = """
version: 1
prompt: {system: "You help customers.", fallback: "A colleague will get back to you."}
rules:
  - id: no-promise
    severity: hard
    text: "Never promise a refund."
    must_not: {words: [guaranteed]}
    fixtures:
      pass: [{user: "Refund?", reply: "I will ask."}]
      fail: [{user: "Refund?", reply: "It is guaranteed."}]
"""


def sealed(folder: Path, kind: str) -> Artifact:
    return seal(folder, kind=kind, stage="test", stage_version=1, params={}, inputs={}, facts={"parameters": 7})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    made = {}
    for seed, name in enumerate(("gguf-big", "gguf-small")):
        folder = tmp_path_factory.mktemp(name)
        write_tiny_gguf(folder / "model.gguf", seed=seed)
        (folder / "LICENSE").write_text("MIT\n")
        made[name] = sealed(folder, "gguf")
    return made


def suite(name: str) -> dict[str, Any]:
    figures = {"n": 600, "baseline": 0.95, "candidate": 0.949, "difference": -0.001, "low": -0.01, "high": 0.008}
    return {"name": name, **figures, "margin": 0.02, "verdict": "PASS"}


def proof_of(folder: Path, models: dict[str, Artifact], verdicts: dict[str, str]) -> Artifact:
    sizes = {"gguf-big": 900, "gguf-small": 500}
    candidates = [
        {
            "name": name,
            "kind": "gguf",
            "digest": models[name].digest,
            "size_bytes": sizes[name],
            "verdict": verdict,
            "suites": [suite("accuracy")],
            "rules": [],
        }
        for name, verdict in verdicts.items()
    ]
    proof = {"baseline": {"name": "tune", "digest": "0" * 64}, "n_items": 600, "candidates": candidates}
    folder.mkdir()
    (folder / "proof.json").write_text(json.dumps(proof))
    (folder / "replies").mkdir()
    rows = [{"id": str(i), "messages": [{"role": "user", "content": f"question {i}"}], "reply": "x"} for i in range(20)]
    (folder / "replies" / "tune.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return sealed(folder, "proof")


Make = Callable[..., tuple[Path, Any]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    (tmp_path / "rules.yaml").write_text(RULES)

    def run(source: Artifact, ancestors: dict[str, Artifact], out: str = "out", **params: Any) -> tuple[Path, Any]:
        folder, scratch = tmp_path / out, tmp_path / "scratch"
        folder.mkdir()
        job = Job(
            params=BundleParams(golden=4, golden_tokens=8, **params),
            out=folder,
            scratch=scratch,
            inputs=(source,),
            names=("proof",),
            ancestors=ancestors,
            rules=tmp_path / "rules.yaml",
        )
        return folder, ExportBundle().run(job)

    return run


def test_the_smallest_passing_candidate_ships(make: Make, models: dict[str, Artifact], tmp_path: Path) -> None:
    proof = proof_of(tmp_path / "proof", models, {"gguf-big": "PASS", "gguf-small": "PASS"})
    folder, facts = make(proof, models)
    assert facts["chosen"] == "gguf-small"
    assert facts["proved"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["gate"]["candidate"]["suites"] == [suite("accuracy")]
    assert [g["messages"][0]["content"] for g in manifest["golden"]] == [f"question {i}" for i in (0, 5, 10, 15)]
    assert (folder / "model.gguf").read_bytes() == (models["gguf-small"].path / "model.gguf").read_bytes()
    assert (folder / "licences" / "gguf-small" / "LICENSE").read_text() == "MIT\n"
    assert "| difference | 90 % interval |" in (folder / "README.md").read_text()
    assert str(tmp_path) not in (folder / "manifest.json").read_text()
    with runtime.load(folder, slots=2) as session:
        reply = session.chat([{"role": "user", "content": "Refund?"}], max_tokens=8)
        assert [v.rule for v in reply.report] == ["no-promise"]
        assert session.manifest is not None
        assert session.manifest.id == facts["bundle_id"]


def test_equal_inputs_give_equal_bytes(make: Make, models: dict[str, Artifact], tmp_path: Path) -> None:
    proof = proof_of(tmp_path / "proof", models, {"gguf-big": "PASS", "gguf-small": "FAIL"})
    first, facts = make(proof, models, "first")
    second, _ = make(proof, models, "second")
    assert facts["chosen"] == "gguf-big"
    names = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_nothing_ships_when_nothing_passed(make: Make, models: dict[str, Artifact], tmp_path: Path) -> None:
    proof = proof_of(tmp_path / "proof", models, {"gguf-big": "FAIL", "gguf-small": "NOT TESTED"})
    with pytest.raises(HoldfastError, match="nothing is packaged"):
        make(proof, models)
    with pytest.raises(UsageError, match="did not pass"):
        make(proof, models, "named", choose="gguf-big")


def test_another_model_than_the_proved_one_is_refused(make: Make, models: dict[str, Artifact], tmp_path: Path) -> None:
    proof = proof_of(tmp_path / "proof", models, {"gguf-big": "PASS"})
    with pytest.raises(ArtifactError, match="not the model that was proved"):
        make(proof, {"gguf-big": models["gguf-small"]})


def test_a_bare_model_is_packaged_as_unproven(make: Make, models: dict[str, Artifact]) -> None:
    lone = open_artifact(models["gguf-big"].path / "model.gguf")
    folder, facts = make(lone, {})
    manifest = json.loads((folder / "manifest.json").read_text())
    assert not facts["proved"]
    assert manifest["note"].startswith("unproven")
    assert len(manifest["golden"]) == 3
    assert "unproven" in (folder / "README.md").read_text()
    bom = json.loads((folder / "sbom.json").read_text())
    assert bom["bomFormat"] == "CycloneDX"
    assert bom["components"][0]["purl"].startswith("pkg:pypi/llama-cpp-python@")
    assert "FROM ./model.gguf" in (folder / "Modelfile").read_text()


def test_one_of_several_files_is_not_guessed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tiny_gguf(tmp_path / f"{name}.gguf")
    with pytest.raises(ArtifactError, match=r"holds 2 models: a.gguf, b.gguf"):
        copy_model(open_artifact(tmp_path), tmp_path)


def test_one_of_several_templates_ships_as_the_default(tmp_path: Path) -> None:
    folder = tmp_path / "named"
    folder.mkdir()
    write_tiny_gguf(folder / "model.gguf", templates={"a": "A{{ strftime_now('%Y') }}", "b": "B{{ eos_token }}"})
    artifact = sealed(folder, "gguf")
    for name, why in ((None, "there are: a, b"), ("c", "no chat template 'c'")):
        with pytest.raises(UsageError, match=why):
            packaged(tmp_path / f"none{name}", artifact, template=name)
    out = packaged(tmp_path / "a", artifact, template="a")
    assert (out / "chat_template.jinja").read_text() == "A{{ strftime_now('%Y') }}"
    assert "TEMPLATE" in (out / "Modelfile").read_text().split("there is no ")[1]
    said = [{"role": "user", "content": "x"}]
    with runtime.load(out, slots=1) as session, runtime.load(out, slots=1, template="b") as other:
        assert session.template != other.template == "B{{ eos_token }}"
        assert other.encode_chat(said) == session.engine.encode("B<|end|>")
        assert session.encode_chat(said, now=STILL) == session.engine.encode("A2025")
    with pytest.raises(UsageError, match="there are: a, b, default"):
        runtime.load(out, template="z")


def packaged(place: Path, artifact: Artifact, **params: Any) -> Path:
    (place / "scratch").mkdir(parents=True)
    (place / "out").mkdir()
    job = Job(
        params=BundleParams(golden=1, golden_tokens=2, **params),
        out=place / "out",
        scratch=place / "scratch",
        inputs=(artifact,),
    )
    ExportBundle().run(job)
    return job.out
