"""The exact side: whatever is shared, fast or left out, the logits are those of plain transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from family_models import save_family

from export.checkpoint import open_checkpoint
from export.parity.twin import WORTH_SHARING, Row, Twin, common, fill

FAMILIES = ("llama", "gemma3", "gpt2")
BEGIN = list(range(5, 5 + WORTH_SHARING + 3))
ROWS = [[*BEGIN, 40, 41, 42], [*BEGIN, 50], [*BEGIN, 60, 61, 62, 63, 64, 65], [9, 8, 7]]


def expected(folder: Path, ids: list[int]) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [ROWS[:3], ROWS])
def test_logits_are_those_of_the_model(family: str, rows: list[list[int]], tmp_path: Path) -> None:
    folder = save_family(family, tmp_path / "hf")
    checkpoint = open_checkpoint(folder)
    twin = Twin(checkpoint)
    fill(twin, checkpoint)
    given = [Row(ids, max(0, len(ids) - 4)) for ids in rows]
    found = dict(twin.logits(given))
    for number, (ids, start) in enumerate(given):
        np.testing.assert_allclose(found[number], expected(folder, ids)[start:], atol=2e-5)


def test_the_common_beginning() -> None:
    assert common(ROWS[:3], 99) == len(BEGIN)
    assert common(ROWS[:3], 4) == 4
    assert common(ROWS, 99) == 0
    assert common([[1, 2], [1, 2, 3]], 99) == 2
