import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.validate.drift import Forced, Reference, measure, spread_rows


class Table:
    """Logits looked up by the fed token: row t depends on ids[t] alone."""

    def __init__(self, table: NDArray[np.float32]) -> None:
        self.table = table

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        return self.table[list(ids)]


ROWS = (Forced((0, 1), (2, 3, 1)), Forced((3,), (0,)))
FED = (1, 2, 3, 3)  # the token before each reply token
SAID = (2, 3, 1, 0)


def make_reference(path: Path, model: Table, vocabulary: int = 5) -> Reference:
    reference = Reference(path / "reference.f32", ROWS, vocabulary)
    reference.record(model)
    assert reference.recorded()
    return reference


def test_the_same_model_does_not_drift(tmp_path: Path) -> None:
    model = Table(np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32))
    drift = measure(make_reference(tmp_path, model), model)
    assert (drift.kl_mean, drift.kl_p999, drift.top1, drift.perplexity_ratio) == (0.0, 0.0, 1.0, 1.0)
    assert (drift.rows, drift.tokens) == (2, 4)


def test_figures_equal_the_definition(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=(5, 5)).astype(np.float32) for _ in range(2))
    drift = measure(make_reference(tmp_path, Table(a)), Table(b))
    expected, agree, loss = [], 0, 0.0
    for fed, said in zip(FED, SAID, strict=True):
        p = [math.exp(x) / sum(math.exp(y) for y in a[fed]) for x in a[fed]]
        q = [math.exp(x) / sum(math.exp(y) for y in b[fed]) for x in b[fed]]
        expected.append(sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)))
        agree += p.index(max(p)) == q.index(max(q))
        loss += math.log(p[said] / q[said])
    assert drift.kl_mean == pytest.approx(sum(expected) / 4, rel=1e-5)
    assert drift.kl_p999 == pytest.approx(np.quantile(expected, 0.999), rel=1e-5)
    assert drift.top1 == agree / 4
    assert drift.perplexity_ratio == pytest.approx(math.exp(loss / 4), rel=1e-5)


def test_padded_vocabulary_is_no_drift(tmp_path: Path) -> None:
    table = np.random.default_rng(2).normal(size=(5, 5)).astype(np.float32)
    padded = np.concatenate([table, np.full((5, 3), 9.0, np.float32)], axis=1)
    drift = measure(make_reference(tmp_path, Table(table)), Table(padded))
    assert drift.kl_mean == pytest.approx(0, abs=1e-7)
    assert drift.top1 == 1


def test_rows_beyond_the_budget_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.validate.drift.REFERENCE_BYTES", 3 * 5 * 4)
    reference = Reference(tmp_path / "r", ROWS, 5)
    assert (len(reference.rows), reference.tokens) == (1, 3)


def test_half_a_file_is_not_taken_for_whole(tmp_path: Path) -> None:
    model = Table(np.eye(5, dtype=np.float32))
    reference = make_reference(tmp_path, model)
    reference.path.write_bytes(reference.path.read_bytes()[:-4])
    assert not reference.recorded()


@pytest.mark.parametrize(("count", "wanted"), [(10, 3), (3, 10), (7, 7), (0, 4)])
def test_spread_rows_are_distinct_and_ordered(count: int, wanted: int) -> None:
    chosen = spread_rows(count, wanted)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, wanted)
    assert all(0 <= index < count for index in chosen)
