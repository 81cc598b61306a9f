"""The papers of a bundle: model card and software bill of materials. Pure functions of the manifest."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any


def model_card(content: Mapping[str, Any]) -> str:
    """README.md of a bundle."""
    backend = content["backend"]
    tested = ", ".join(f"{name} {number}" for name, number in sorted(backend["tested"].items())) or "nothing"
    lines = [
        f"# {content['name']}",
        "",
        f"A language model packaged by Holdfast: {content['model']['kind']}, "
        f"run by {backend['name']} (tested with {tested}).",
        f"It needs about {content['memory_bytes'] / 2**20:.0f} MiB of memory per conversation"
        + (f" of {content['context']} tokens." if content["context"] else "."),
        "",
        "```python",
        "from holdfast import load",
        "",
        'with load("this folder") as session:',
        '    print(session.chat([{"role": "user", "content": "Hello"}]).text)',
        "```",
        "",
        "## Proof",
        "",
        *_proof_lines(content),
        "",
        "## Where it comes from",
        "",
        *(f"- {name}: {entry['kind']} `{entry['digest'][:16]}`" for name, entry in content["lineage"].items()),
        "",
        "Licences of the models upstream are under `licences/`; what is inside is listed in `sbom.json`.",
        "",
    ]
    return "\n".join(lines)


def _proof_lines(content: Mapping[str, Any]) -> list[str]:
    gate = content["gate"]
    if gate is None:
        return ["None: this bundle is unproven. It was packaged straight from a model and no gate was run."]
    candidate = gate["candidate"]
    lines = [
        f"{gate['verdict']} against `{gate['baseline']['name']}` on {gate['n_items']} items "
        "(all numbers: `proof.json`).",
        "",
        "| suite | n | baseline | this model | difference | 90 % interval | margin | verdict |",
        "|---|---:|---:|---:|---:|---|---:|---|",
    ]
    for suite in candidate["suites"]:
        figures = [_number(suite[key]) for key in ("baseline", "candidate", "difference")]
        interval = f"{_number(suite['low'])} to {_number(suite['high'])}"
        cells = [suite["name"], str(suite["n"]), *figures, interval, _number(suite["margin"]), suite["verdict"]]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "–"


def sbom(content: Mapping[str, Any]) -> dict[str, Any]:
    """CycloneDX 1.6: the model and the libraries that run it."""
    digest = content["model"]["digest"]
    model = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{digest}",
        "name": content["name"],
        "version": str(content["version"]),
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }
    libraries = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{number}",
            "name": name,
            "version": number,
            "purl": f"pkg:pypi/{name}@{number}",
        }
        for name, number in sorted(content["backend"]["tested"].items())
    ]
    upstream = [
        {
            "type": "data" if entry["kind"] in ("data", "calibration", "proof") else "machine-learning-model",
            "bom-ref": f"stage:{name}",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": entry["digest"]}],
        }
        for name, entry in content["lineage"].items()
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
        "metadata": {"component": model},
        "components": [*libraries, *upstream],
        "dependencies": [{"ref": model["bom-ref"], "dependsOn": [library["bom-ref"] for library in libraries]}],
    }
