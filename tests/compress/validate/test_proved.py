import json
from pathlib import Path
from typing import Any

import pytest

from compress.artifact import Artifact
from compress.validate.proved import find_proved


def parity(folder: Path, **changed: Any) -> Artifact:
    """What ``export.parity`` writes, in short."""
    checks = [
        {"check": "token ids", "passed": True, "compared": 200, "different": 0},
        {"check": "greedy", "passed": True, "compared": 64, "different": 0, "near_ties": 2},
    ]
    entry = {"name": "q8", "kind": "gguf", "digest": "c1", "passed": True, "not_run": [], "checks": checks}
    report = {"verdict": "PASS", "reference": {"name": "slim", "digest": "r1"}, "candidates": [entry | changed]}
    (folder / "parity.json").write_text(json.dumps(report | {k: v for k, v in changed.items() if k in report}))
    return Artifact("parity", folder, "0" * 64)


def test_what_was_proved_is_read(tmp_path: Path) -> None:
    other = Artifact("gguf", tmp_path, "c1")
    found = find_proved([other, parity(tmp_path)], "c1", "r1")
    assert found is not None
    assert (found.reference, found.prompts, found.same_prompts, found.starts) == ("slim", 200, 200, 64)
    assert (found.same_starts, found.unexplained, found.failed) == (62, 0, False)
    assert found.proved_by == "export.parity"


@pytest.mark.parametrize(
    "changed",
    [{"verdict": "FAIL"}, {"passed": False}, {"not_run": ["logits", "greedy"]}, {"digest": "c2"}],
)
def test_what_was_not_proved_of_this_very_file_is_not(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert find_proved([parity(tmp_path, **changed)], "c1", "r1") is None


def test_other_weights_prove_nothing(tmp_path: Path) -> None:
    assert find_proved([parity(tmp_path)], "c1", "r2") is None
    assert find_proved([], "c1", "r1") is None
