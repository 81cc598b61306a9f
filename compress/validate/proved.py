"""What ``export.parity`` proved of a candidate, read from its ``parity.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from compress.artifact import Artifact
from compress.validate.parity import Parity

FILE = "parity.json"


def find_proved(artifacts: Iterable[Artifact], candidate: str, reference: str) -> Parity | None:
    """The result for the artifact of digest ``candidate`` against the weights of digest ``reference``, from the first
    of ``artifacts`` that compared all of it and passed; None where none did."""
    for artifact in artifacts:
        if artifact.kind != "parity":
            continue
        report = json.loads((artifact.path / FILE).read_text(encoding="utf-8"))
        if report["verdict"] != "PASS" or report["reference"]["digest"] != reference:
            continue
        for entry in report["candidates"]:
            if entry["digest"] == candidate and entry["passed"] and not entry["not_run"]:
                return _parity(report["reference"]["name"], entry)
    return None


def _parity(reference: str, entry: Mapping[str, Any]) -> Parity:
    """Differing first tokens that passed were ties within the runtime's arithmetic."""
    checks = {check["check"]: check for check in entry["checks"]}
    read, said = checks["token ids"], checks["greedy"]
    return Parity(
        reference=reference,
        prompts=read["compared"],
        same_prompts=read["compared"] - read["different"],
        starts=said["compared"],
        same_starts=max(said["compared"] - said["near_ties"], 0),
        unexplained=0,
        difference=None,
        failed=False,
        proved_by="export.parity",
    )
