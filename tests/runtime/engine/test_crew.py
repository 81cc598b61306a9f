"""Fewer threads where other programs hold the cores; what rounds alike whatever their number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny_gguf import write_tiny_gguf

from runtime.engine.backends.base import Span
from runtime.engine.backends.crew import HOLD, LONGEST_HOLD, WINDOW, Crew
from runtime.engine.backends.llama import LlamaBackend


def steps(crew: Crew, now: float, seconds: float, share: dict[int, float]) -> list[int]:
    """How many threads each window of so many seconds had, where each number of threads gets its share of time."""
    found = []
    for number in range(round(seconds / WINDOW)):
        found.append(crew.threads)
        crew.note(now + (number + 1) * WINDOW, WINDOW, share[crew.threads] * crew.threads * WINDOW)
    return found


def test_idle_cores_are_all_used() -> None:
    assert set(steps(Crew(4), 0, 60, {4: 0.9})) == {4}


def test_busy_cores_are_left_and_come_back_to() -> None:
    crew = Crew(4)
    busy = steps(crew, 0, 120, {4: 0.4, 2: 0.6, 1: 1.0})
    assert busy[:3] == [4, 2, 1]
    assert busy.count(1) / len(busy) > 0.97  # tries are rarer and rarer
    assert busy[round(HOLD / WINDOW) - 1 :].count(2) < 10
    idle = steps(crew, 120, LONGEST_HOLD + 1, {4: 0.95, 2: 0.95, 1: 1.0})
    assert idle[-1] == 4


def test_where_even_one_thread_waits_no_more_are_tried() -> None:
    crew = Crew(2)
    assert steps(crew, 0, 60, {2: 0.3, 1: 0.4}) == [2] + [1] * 1199


def test_one_long_step_is_enough() -> None:
    crew = Crew(2)
    assert not crew.note(0.01, 0.01, 0.005)
    assert crew.note(0.71, 0.7, 0.4)
    assert crew.threads == 1


def tiny(path: Path, threads: int | None) -> LlamaBackend:
    return LlamaBackend(path, threads=threads, slots=4, context=None)


def test_up_to_256_tokens_nothing_depends_on_the_number_of_threads(tmp_path: Path) -> None:
    backend = tiny(write_tiny_gguf(tmp_path / "m.gguf", context=1024), None)
    text = np.random.default_rng(0).integers(5, 250, 1024).tolist()
    found = []
    for threads in (1, 2, 3):
        backend._use(threads)
        assert backend.alike == (1024 if threads == 1 else 256)
        backend.cut(0, 0)
        steps = [(0, 240), *((at, at + 1) for at in range(240, 256))]
        found.append([backend.decode([Span(0, start, text[start:end], 1)])[0].copy() for start, end in steps])
    backend.close()
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_who_names_the_threads_keeps_them(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    named, own = tiny(path, 2), tiny(path, None)
    assert named._crew is None
    assert (own._crew is None) == (own.threads == 1)
    most = own.threads
    own._use(1)
    own.keep_threads()
    assert (own.threads, own._crew) == (most, None)
    for backend in (named, own):
        backend.close()
