import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.validate.drift import Forced, Reference, measure, spread_rows
from compress.validate.runner import Scored


class Table:
    """Logits looked up by the fed token: row t depends on ids[t] alone."""

    def __init__(self, table: NDArray[np.float32]) -> None:
        self.table = table

    def score(self, rows: Sequence[Scored]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The last row first: rows may come in any order."""
        for number, row in reversed(list(enumerate(rows))):
            yield number, self.table[[row.ids[at] for at in row.where]]


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


def test_positions_beyond_the_budget_are_drawn_from_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.validate.drift.REFERENCE_BYTES", 400 * 5 * 4 + 19)
    long = [Forced((1, 2), tuple(np.random.default_rng(n).integers(0, 5, 160).tolist())) for n in range(20)]
    a, b = (Table(np.random.default_rng(n).normal(size=(5, 5)).astype(np.float32)) for n in (3, 4))
    some, same = (Reference(tmp_path / name, long, 5) for name in ("some", "same"))
    assert [row.where for row in some.rows] == [row.where for row in same.rows]
    assert (len(some.rows), some.tokens) == (20, 400)
    assert len({at for row in some.rows for at in row.where}) > 120, "early and late positions alike"
    some.record(a)
    assert some.path.stat().st_size == 400 * 5 * 4
    drawn = measure(some, b)
    monkeypatch.setattr("compress.validate.drift.REFERENCE_BYTES", 1 << 20)
    whole = Reference(tmp_path / "whole", long, 5)
    whole.record(a)
    every = measure(whole, b)
    assert (every.tokens, drawn.tokens) == (3200, 400)
    assert drawn.kl_mean == pytest.approx(every.kl_mean, rel=0.15)


def test_progress_reaches_the_end_on_both_sides(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    model, reference = Table(np.eye(5, dtype=np.float32)), Reference(tmp_path / "r", ROWS, 5)
    reference.record(model, lambda done, total: told.append((done, total)))
    measure(reference, model, lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)] * 2


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
