"""How many prompt tokens stand beside replies, and when a draft is worth its step."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
from counting import Counting, expected

from runtime.engine.backends.base import Span
from runtime.engine.lookup import WIDEST, Draft, Drafts
from runtime.engine.pace import FIRST, LEAST, SMOOTH, STALL, Pace
from runtime.engine.requests import Request
from runtime.engine.scheduler import Scheduler


@pytest.mark.parametrize(("quiet", "token"), [(0.006, 0.002), (0.15, 0.05), (0.0002, 0.00002), (0.03, 0.5)])
def test_steps_with_prompts_stay_short(quiet: float, token: float) -> None:
    pace = Pace()
    assert pace.room(1) == FIRST
    for _ in range(20):
        pace.note(1, 0, quiet)
        room = pace.room(1)
        pace.note(1, room, quiet + room * token)
    allowed = max(STALL * quiet, SMOOTH)
    assert pace.room(1) == pytest.approx(max(LEAST, (allowed - quiet) / token), rel=0.05, abs=1)
    assert quiet + (pace.room(1) - 1) * token <= allowed or pace.room(1) == LEAST


def test_a_step_that_waited_for_another_process_hardly_counts() -> None:
    pace = Pace()
    for _ in range(20):
        pace.note(2, 0, 0.01)
        pace.note(2, 10, 0.03)
    before = pace.room(2)
    pace.note(2, 10, 5.0)
    assert pace.room(2) == pytest.approx(before, rel=0.15)


class Slow(Counting):
    """A step takes a few milliseconds."""

    def decode(self, spans: Sequence[Span]) -> np.ndarray:
        time.sleep(0.003)
        return super().decode(spans)


def test_a_prompt_beside_a_reply_that_is_read_comes_in_small_pieces() -> None:
    backend = Slow()
    scheduler = Scheduler(backend)
    try:
        reply, long = Request([5], max_tokens=100, read=True), Request([7] * 300, max_tokens=2, read=True)
        scheduler.submit([reply])
        while not reply.tokens:
            time.sleep(0.001)
        scheduler.submit([long])
        long.wait(10)
        reply.wait(10)
        beside = [s for batch in backend.batches for s in batch if len(batch) > 1 and len(s.tokens) > 1]
        assert beside[0].start + len(beside[0].tokens) <= FIRST
        assert (reply.tokens, long.tokens) == (expected([5], 100), expected([7] * 300, 2))
    finally:
        scheduler.close()


def priced(pass_seconds: float, token_seconds: float) -> Drafts:
    drafts = Drafts()
    for width in range(1, WIDEST + 1):
        drafts.allow(width, pass_seconds + width * token_seconds)
    return drafts


def test_what_only_one_of_several_replies_drafts_is_a_step_of_its_own() -> None:
    sure = Draft([1, 2, 3, 4], [0] * 4)  # what a grammar forces
    cheap = priced(1.0, 0.01)
    assert cheap.lengths([sure], 1) == [4]
    assert cheap.lengths([sure, Draft([], [])], 2) == [4, 0]
    assert cheap.lengths([sure] + [Draft([], [])] * 5, 6) == [0] * 6, "six tokens for the price of a second pass"
    assert priced(0.0, 1.0).lengths([sure], 1) == [0]


def test_a_machine_that_others_slowed_while_drafts_were_measured_drafts_once_they_are_gone() -> None:
    sure = Draft([1, 2, 3, 4], [0] * 4)
    drafts = priced(0.5, 0.25)  # five times what it will take
    for _ in range(60):
        drafts.timed(1, 0.15)
    assert drafts.seconds[5] == pytest.approx(0.35, rel=0.02)
    assert drafts.lengths([sure], 1) == [4]


def test_drafts_are_measured_before_anybody_asks() -> None:
    backend = Counting()
    scheduler = Scheduler(backend)
    try:
        scheduler.prepare(range(1, 2 * WIDEST + 1))
        until = time.monotonic() + 10
        while scheduler._drafter.drafts.widest < WIDEST and time.monotonic() < until:
            time.sleep(0.001)
        assert scheduler._drafter.drafts.widest == WIDEST
        assert scheduler.counters.requests == 0
        request = Request([3, 4], max_tokens=12, drafts=True)
        scheduler.submit([request])
        request.wait(10)
        assert request.tokens == expected([3, 4], 12)
    finally:
        scheduler.close()
