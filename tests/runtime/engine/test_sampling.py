from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.sampling import Sampler, Sampling
from runtime.errors import HoldfastError, UsageError

ROW = np.array([0.5, 3.0, -2.0, 2.9, 3.0 - 1e-6], np.float32)


def drawn(row: np.ndarray, **how: float | int | None) -> list[int]:
    sampler = Sampler(Sampling(**how), None)  # type: ignore[arg-type]
    return [sampler.pick(row) for _ in range(8)]


@given(
    temperature=st.floats(0, 10) | st.sampled_from([5e-324, 1e-310, 1e-30]),
    top_p=st.floats(0, 1, exclude_min=True),
    seed=st.none() | st.integers(-(2**80), 2**80),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
)
def test_every_setting_gives_tokens(temperature: float, top_p: float, seed: int | None, scale: float) -> None:
    assert set(drawn(ROW * np.float32(scale), temperature=temperature, top_p=top_p, seed=seed)) <= set(range(5))


def test_the_coldest_temperature_is_none() -> None:
    assert set(drawn(ROW, temperature=1e-310, seed=1)) == {1}


def test_seeds_that_are_equal_modulo_two_to_the_64_are_one() -> None:
    def of(seed: int) -> list[int]:
        return drawn(np.zeros(1000, np.float32), temperature=1.0, seed=seed)

    assert of(-1) == of(2**64 - 1) == of(-1 - 2**70)
    assert of(-1) != of(1)


@pytest.mark.parametrize("top_p", [1.0, 1 - 1e-9])
def test_draws_follow_the_softmax(top_p: float) -> None:
    sampler = Sampler(Sampling(temperature=2.0, top_p=top_p, seed=3), None)
    counts = np.bincount([sampler.pick(ROW) for _ in range(20_000)], minlength=5) / 20_000
    expected = np.exp(ROW / 2.0) / np.exp(ROW / 2.0).sum()
    np.testing.assert_allclose(counts, expected, atol=0.02)


def test_what_is_impossible_is_never_drawn() -> None:
    row = np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf], np.float32)
    sampler = Sampler(Sampling(temperature=1.0, seed=3), None)
    assert {sampler.pick(row) for _ in range(200)} == {1, 3}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_an_error(value: float) -> None:
    with pytest.raises(HoldfastError, match="no numbers"):
        drawn(np.full(5, value, np.float32), temperature=1.0, seed=1)


class Never:
    """A grammar that has come to a dead end."""

    def allow(self, row: np.ndarray) -> np.ndarray:
        return np.full_like(row, -np.inf)

    def permits(self, token: int) -> bool:
        return False


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_that_allows_nothing_is_the_callers_fault(temperature: float) -> None:
    sampler = Sampler(Sampling(temperature), Never())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="allows no token"):
        sampler.pick(ROW)
