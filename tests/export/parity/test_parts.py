"""The parts of the parity check, each against a slow and obvious reference."""

from __future__ import annotations

import numpy as np
import pytest

from export.parity.answers import Answers, _judge_reply, _Rules, _thoughts
from export.parity.logits import Gap, divergence
from export.parity.noise import rounded
from export.parity.prompts import asked
from export.parity.reading import first_difference, part
from export.parity.weights import ROW_ERROR, Stored, halves, row_errors, unexplained


@pytest.mark.parametrize("shape", [(64, 5), (64,)])
def test_halves_undo_the_rotary_permutation(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    order = [16 * head + half * 8 + i for head in range(4) for i in range(8) for half in range(2)]
    assert order[:4] == [0, 8, 1, 9]
    assert np.array_equal(halves(values[order], 16), values)


def test_rounding_is_that_of_q8_0() -> None:
    import torch
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    x = np.random.default_rng(1).standard_normal((3, 96)).astype(np.float32)
    kind = GGMLQuantizationType.Q8_0
    expected = dequantize(quantize(x, kind), kind)
    got = rounded(torch.from_numpy(x), "int8/32").numpy()
    assert np.abs(got - expected).max() < 2e-3 * np.abs(x).max()  # ggml keeps its scale in float16
    assert np.abs(got - x).max() > 2e-3
    assert rounded(torch.from_numpy(x), "int8/64").shape == (3, 96)
    assert np.array_equal(rounded(torch.from_numpy(x), "f16").numpy(), x.astype(np.float16).astype(np.float32))


def test_divergence_is_kl() -> None:
    from scipy.special import log_softmax

    p, q = np.random.default_rng(2).standard_normal((2, 4, 50)).astype(np.float32) * 4
    a, b = log_softmax(p, 1), log_softmax(q, 1)
    assert np.allclose(divergence(p, q), (np.exp(a) * (a - b)).sum(1), rtol=1e-4)
    assert np.all(divergence(p, p + 3) < 1e-6)


def test_a_gap_counts_nan_as_the_worst() -> None:
    found = Gap()
    row = np.zeros((2, 5), np.float32)
    found.add(0, row, row)
    found.add(1, row, np.full((2, 5), np.nan, np.float32))
    assert not found.rms <= 1e9
    assert not found.largest_row <= 1e9


@pytest.mark.parametrize("kind", [k for k in ROW_ERROR if k not in ("F32", "F16", "BF16")])
def test_bounds_tell_rounding_from_another_row(kind: str) -> None:
    draw = np.random.default_rng(3)
    source = draw.standard_normal((8, 256)).astype(np.float32)
    noise = draw.standard_normal((8, 256)).astype(np.float32) * ROW_ERROR[kind] * 0.8
    assert unexplained(Stored("w", source + noise, kind), source)[1] is None
    moved = source[[1, 0, 2, 3, 4, 5, 6, 7]]
    assert "row" in str(unexplained(Stored("w", moved, kind), source)[1])
    source[3] = 0
    assert unexplained(Stored("w", source * 1, kind), source)[1] is None
    assert "shape" in str(unexplained(Stored("w", source.T, kind), source)[1])


def test_feedback_may_move_single_rows_and_no_whole_tensor() -> None:
    draw = np.random.default_rng(5)
    source = draw.standard_normal((64, 256)).astype(np.float32)
    values = source + draw.standard_normal(source.shape).astype(np.float32) * 0.05
    values[7] += 0.3 * draw.standard_normal(256).astype(np.float32)
    fed = Stored("w", values, "Q6_K")
    assert unexplained(fed, source, fed=True)[1] is None
    assert "row 7" in str(unexplained(fed, source)[1])
    assert "half of w" in str(unexplained(Stored("w", 1.2 * source, "Q6_K"), source, fed=True)[1])
    for damage in (0.0, -1.0):
        values[9] = damage * source[9]
        assert "row 9" in str(unexplained(fed, source, fed=True)[1])
    values[9] = source[11]
    assert "row 9" in str(unexplained(fed, source, fed=True)[1])


def test_a_row_may_move_across_its_source_and_not_along_it() -> None:
    draw = np.random.default_rng(7)
    source = draw.standard_normal((64, 256)).astype(np.float32)
    values = source + draw.standard_normal(source.shape).astype(np.float32) * 0.05
    fed = Stored("w", values, "Q6_K")
    across = draw.standard_normal(256).astype(np.float32)
    across -= source[9] * (across @ source[9]) / (source[9] @ source[9])
    across *= np.linalg.norm(source[9]) / np.linalg.norm(across)
    values[9] = source[9] + 1.2 * across
    assert unexplained(fed, source, fed=True)[1] is None
    assert "row 9" in str(unexplained(fed, source)[1])
    for damaged in (source[9] + 2 * across, 0.05 * source[9], 1.95 * source[9], across, np.full(256, np.nan)):
        values[9] = damaged
        assert "row 9" in str(unexplained(fed, source, fed=True)[1])
    values[9], values[20] = source[9] + 1.2 * across, 0
    assert "row" in str(unexplained(fed, source, fed=True)[1])


@pytest.mark.parametrize("fed", [False, True])
@pytest.mark.parametrize("factor", [0.9, 1.05, 1.1])
def test_a_scale_that_is_off_is_no_rounding(factor: float, fed: bool) -> None:
    draw = np.random.default_rng(6)
    source = draw.standard_normal((64, 256)).astype(np.float32)
    values = source + draw.standard_normal(source.shape).astype(np.float32) * 0.07
    assert unexplained(Stored("w", values, "Q4_K"), source, fed=fed)[1] is None
    least_squares = values / np.float32(1 + 0.07**2)
    assert unexplained(Stored("w", least_squares, "Q4_K"), source, fed=fed)[1] is None
    found = str(unexplained(Stored("w", factor * values, "Q4_K"), source, fed=fed)[1])
    assert "of its size" in found


def test_a_matrix_behind_coarse_ones_may_make_good_what_they_lost() -> None:
    draw = np.random.default_rng(9)
    source = draw.standard_normal((64, 256)).astype(np.float32)
    values = source + draw.standard_normal(source.shape).astype(np.float32) * 0.2

    def found(factor: float, behind: str, *, fed: bool = True) -> bool:
        return unexplained(Stored("w", factor * values, "Q3_K", behind=behind), source, fed=fed)[1] is not None

    assert not found(1.04, "Q2_K")
    assert found(1.04, "Q2_K", fed=False)
    assert found(1.04, "Q4_K")
    assert found(1.04, "")
    assert found(1.1, "Q2_K")


def test_exact_tensors_bear_an_offset_only() -> None:
    norm = np.random.default_rng(4).standard_normal(64).astype(np.float32) * 1e-3
    assert float(row_errors((norm + 1) - np.float32(1), norm, exact=True).max()) < 1e-6
    assert "F32 explains" in str(unexplained(Stored("norm", norm + 1, "F32"), norm)[1])
    assert "F32 explains" in str(unexplained(Stored("bias", norm[::-1].copy(), "F32"), norm)[1])


def judged(exact: list[list[float]], reply: list[int], *, ends: frozenset[int] = frozenset({2})) -> Answers:
    found = Answers(Gap(), {})
    _judge_reply(found, 0, list(_thoughts(np.array(exact, np.float32), reply, ends)), reply, _Rules(ends, 3, 0.5))
    return found


def test_replies_are_judged_by_what_the_exact_model_thought() -> None:
    rows = [[0.0, 5, 0, 0], [0, 0, 1, 4.0], [0, 0, 9, 0]]
    assert judged(rows, [1, 3]).greedy == []
    assert "2 of the reply: 1 instead of 3" in judged(rows, [1, 1]).greedy[0]
    assert "the end instead of 3" in judged(rows[:2], [1]).greedy[0]
    assert "instead of the end" in judged([*rows, rows[0]], [1, 3, 1]).greedy[0]
    tied = judged([[0, 5, 0, 4.8], *rows[1:]], [3, 3])
    assert (tied.greedy, tied.near_ties) == ([], 1)
    assert "the end instead of 3" in judged(rows[:2], [1], ends=frozenset()).greedy[0]


def test_words_for_differences() -> None:
    assert first_difference([1, 2, 3], [1, 2]) == 2
    assert part("abc", "abd") == "at character 2 'abd' instead of 'abc'"
    assert part(None, "abd") == "'abd' instead of a refusal"
    assert part("abc", None) == "refused instead of 'abc'"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert asked(talk) == talk[:1]
    assert asked(talk[1:]) == talk[1:]
