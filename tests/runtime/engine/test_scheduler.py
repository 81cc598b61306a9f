from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from counting import N_VOCAB, POISON, STOP, Counting, expected, following, next_token

from runtime.engine.backends.base import Span
from runtime.engine.pace import CHUNK, FIRST
from runtime.engine.requests import Request
from runtime.engine.sampling import Chances, Sampling
from runtime.engine.scheduler import Scheduler
from runtime.errors import HoldfastError, Overloaded, UsageError


@pytest.fixture
def backend() -> Counting:
    return Counting()


@pytest.fixture
def scheduler(backend: Counting) -> Iterator[Scheduler]:
    made = Scheduler(backend, queue=8)  # type: ignore[arg-type]
    yield made
    backend.gate.set()
    made.close()


def test_every_reply_is_its_own(scheduler: Scheduler) -> None:
    rng = np.random.default_rng(1)
    head = [int(t) for t in rng.integers(1, N_VOCAB, 40)]
    prompts = [head[: int(rng.integers(0, 40))] + [int(t) for t in rng.integers(1, N_VOCAB, 5)] for _ in range(60)]
    requests = [Request(p, max_tokens=int(rng.integers(1, 30))) for p in prompts]
    scheduler.submit(requests, bounded=False)
    for request in requests:
        request.wait(10)
        assert request.tokens == expected(request.prompt, request.max_tokens)
        assert request.finish_reason == "length"
    assert scheduler.counters.reused_tokens > 0


def test_a_shared_prefix_is_decoded_once(backend: Counting, scheduler: Scheduler) -> None:
    head = list(range(1, 41))
    requests = [Request([*head, tail], max_tokens=3) for tail in (41, 42, 43, 44)]
    scheduler.submit(requests)
    for request in requests:
        request.wait(10)
        assert request.tokens == expected(request.prompt, 3)
    assert [r.reused for r in requests] == [0, 40, 40, 40]
    assert sum(len(s.tokens) for batch in backend.batches for s in batch) == 41 + 3 * 1 + 4 * 2


def test_a_long_prompt_is_read_in_chunks_beside_running_replies(backend: Counting, scheduler: Scheduler) -> None:
    backend.gate.clear()
    short, long = Request([5], max_tokens=40), Request([7] * 500, max_tokens=2)
    scheduler.submit([short, long])
    backend.gate.set()
    long.wait(10)
    short.wait(10)
    sizes = [max(len(s.tokens) for s in batch) for batch in backend.batches[1:]]
    assert max(sizes) <= CHUNK
    assert all(any(s.slot == 0 for s in batch) for batch in backend.batches[: len(short.tokens)])


def test_the_queue_is_bounded(backend: Counting, scheduler: Scheduler) -> None:
    backend.gate.clear()
    scheduler.submit([Request([1], max_tokens=1) for _ in range(4)])
    while scheduler.running < 4:
        time.sleep(0.001)
    waiting = [Request([1], max_tokens=1) for _ in range(8)]
    scheduler.submit(waiting)
    with pytest.raises(Overloaded, match="queue is full") as caught:
        scheduler.submit([Request([1])])
    assert caught.value.retry_after >= 1
    backend.gate.set()
    for request in waiting:
        request.wait(10)


def test_cancelling_frees_the_slot(backend: Counting, scheduler: Scheduler) -> None:
    request = Request([3], max_tokens=500)
    scheduler.submit([request])
    request.cancel()
    request.wait(10)
    assert request.finish_reason == "cancelled"
    assert len(request.tokens) < 500
    assert scheduler.running == 0


def test_whoever_leaves_does_not_wait_for_the_step(backend: Counting, scheduler: Scheduler) -> None:
    backend.slow = True  # a step does not end until it is stopped
    running = [Request([number] * 300, max_tokens=5) for number in (1, 2, 3, 4)]
    queued = Request([5], max_tokens=5)
    scheduler.submit([*running, queued])
    while scheduler.running < 4:
        time.sleep(0.001)
    queued.cancel()
    queued.wait(5)
    backend.slow = False
    running[0].cancel()
    running[0].wait(5)
    assert (queued.finish_reason, running[0].finish_reason) == ("cancelled", "cancelled")
    for request in running[1:]:
        request.wait(5)
        assert request.tokens == expected(request.prompt, 5)
    assert max(len(span.tokens) for span in backend.batches[0]) == FIRST  # nobody may stop this one


def test_a_broken_engine_fails_everybody_cleanly(backend: Counting, scheduler: Scheduler) -> None:
    backend.gate.clear()
    requests = [Request([i + 1]) for i in range(7)]
    scheduler.submit(requests)
    backend.broken = True
    backend.gate.set()
    for request in requests:
        with pytest.raises(HoldfastError, match="engine broke"):
            request.wait(10)
    with pytest.raises(HoldfastError, match="engine broke"):
        scheduler.submit([Request([1])])
    assert not scheduler.alive


def test_text_comes_in_whole_characters(scheduler: Scheduler) -> None:
    pieces: list[str] = []
    request = Request([2, 9], max_tokens=60, sink=pieces.append)
    scheduler.submit([request])
    request.wait(10)
    assert "".join(pieces) == request.text
    assert pieces[-1] == ""
    assert request.text == b"".join("é".encode()[t % 2 :][:1] for t in request.tokens).decode("utf-8", "replace")


def test_scoring_returns_every_row(scheduler: Scheduler) -> None:
    prompt = [int(t) for t in np.random.default_rng(2).integers(1, N_VOCAB, 150)]
    request = Request(prompt, score=len(prompt))
    scheduler.submit([request])
    request.wait(10)
    rows = np.concatenate(request.logits)
    assert rows.argmax(1).tolist() == [next_token(prompt[: i + 1]) for i in range(150)]


@pytest.mark.parametrize("prompt", [[], [N_VOCAB], [-1], [1] * 600])
def test_bad_prompts_are_refused(scheduler: Scheduler, prompt: list[int]) -> None:
    with pytest.raises(UsageError):
        scheduler.submit([Request(prompt)])


def test_a_full_context_ends_the_reply(scheduler: Scheduler) -> None:
    request = Request([1] * 590, max_tokens=100)
    scheduler.submit([request])
    request.wait(10)
    assert request.finish_reason == "length"
    assert request.tokens == expected([1] * 590, 11)


def fine(count: int) -> list[Request]:
    return [Request([i + 2, 3, 4], max_tokens=12) for i in range(count)]


def listener(piece: str) -> None:
    raise ValueError("nobody listens")


class Stuck:
    """A grammar whose library fails."""

    def allow(self, row: np.ndarray) -> np.ndarray:
        raise RuntimeError("native trouble")

    def permits(self, token: int) -> bool:
        return False

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "bad",
    [
        {"sampling": Sampling(temperature=1.0, seed="x")},  # type: ignore[arg-type]
        {"sink": listener},
        {"constraint": Stuck()},
        {"prompt": POISON},
        {"prompt": POISON, "score": len(POISON)},
    ],
)
def test_what_fails_with_one_request_fails_it_alone(backend: Counting, scheduler: Scheduler, bad: dict) -> None:
    good, wrong = fine(3), Request(**{"prompt": [7, 7], "max_tokens": 12} | bad)
    backend.gate.clear()
    scheduler.submit([good[0], wrong, *good[1:]])
    backend.gate.set()
    with pytest.raises(HoldfastError, match="the request failed"):
        wrong.wait(5)
    for request in [*good, *later(scheduler)]:
        request.wait(5)
        assert request.tokens == expected(request.prompt, 12)
    assert scheduler.alive


def later(scheduler: Scheduler) -> list[Request]:
    requests = fine(4)
    scheduler.submit(requests)
    return requests


def test_a_lone_request_that_cannot_be_decoded_leaves_the_engine_alone(scheduler: Scheduler) -> None:
    wrong = Request(POISON)
    scheduler.submit([wrong])
    with pytest.raises(HoldfastError, match="a bad token"):
        wrong.wait(5)
    assert [r.wait(5) or r.tokens for r in later(scheduler)] == [expected(r.prompt, 12) for r in fine(4)]


def test_whoever_leaves_the_queue_is_gone_while_others_run(backend: Counting, scheduler: Scheduler) -> None:
    long = [Request([i + 1], max_tokens=500) for i in range(4)]
    scheduler.submit(long)
    waiting = [Request([9], deadline=None if i % 2 else time.monotonic() + 0.05) for i in range(6)]
    backend.gate.clear()
    scheduler.submit(waiting, bounded=False)
    for request in waiting[1::2]:
        request.cancel()
    time.sleep(0.06)
    backend.gate.set()
    for request in waiting[1::2]:
        request.wait(0.2)
        assert request.finish_reason == "cancelled"
    for request in waiting[::2]:
        with pytest.raises(Overloaded, match="deadline"):
            request.wait(0.2)
    assert scheduler.depth == 0
    for request in long:
        request.cancel()


def test_a_dead_thread_is_not_alive(backend: Counting, scheduler: Scheduler, caplog: pytest.LogCaptureFixture) -> None:
    del backend.held[0]  # bookkeeping that no request is to blame for
    requests = [Request([1] * 20), Request([1] * 20)]
    scheduler.submit(requests)
    for request in requests:
        with pytest.raises(HoldfastError, match="failed"):
            request.wait(5)
    with pytest.raises(HoldfastError, match="the engine failed"):
        scheduler.submit([Request([1])])
    assert not scheduler.alive
    assert "the decode loop failed" in caplog.text


class Looping(Counting):
    """Says what depends on its last two tokens alone, so that it comes back to what it said before."""

    def decode(self, spans: Sequence[Span]) -> np.ndarray:
        rows = super().decode(spans)
        at = 0
        for slot, _, tokens, wanted in spans:
            for number in range(wanted):
                end = len(self.held[slot]) - wanted + number + 1
                two = self.held[slot][max(0, end - 2) : end]
                noise = np.random.default_rng([*two, len(tokens) == 0]).normal(size=N_VOCAB)
                rows[at] = noise.astype(np.float32)
                rows[at, STOP] = -50
                at += 1
        return rows


def replies(drafts: bool, sampling: Sampling = Sampling()) -> tuple[list[list[int]], Scheduler]:  # noqa: B008
    scheduler = Scheduler(Looping())  # type: ignore[arg-type]
    warm = Request(list(range(1, 49)), max_tokens=4, drafts=drafts)
    scheduler.submit([warm])
    warm.wait(10)
    give_up = time.monotonic() + 10
    while drafts and not scheduler._drafter.probe.done and time.monotonic() < give_up:
        time.sleep(0.005)
    # as on a machine whose steps all take the same
    scheduler._drafter.drafts.seconds = [1.0] * len(scheduler._drafter.drafts.seconds)
    scheduler._drafter.drafts.timed = lambda width, seconds: None  # type: ignore[method-assign]
    found = []
    for number in range(4):
        requests = [
            Request([number + 1, 7, 9, 7, 9, n + 20], max_tokens=120, sampling=sampling, drafts=drafts)
            for n in range(3)
        ]
        scheduler.submit(requests)
        for request in requests:
            request.wait(10)
            found.append(request.tokens)
    scheduler.close()
    return found, scheduler


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.3, seed=4),
        Sampling(temperature=0.4, top_p=0.9, seed=5, frequency_penalty=0.1),
    ],
)
def test_drafts_change_the_steps_and_not_the_tokens(sampling: Sampling) -> None:
    plain, slow = replies(False, sampling)
    drafted, fast = replies(True, sampling)
    assert plain == drafted
    assert slow.counters.drafted_tokens == 0
    if sampling == Sampling():
        assert fast.counters.taken_tokens > 0.5 * fast.counters.drafted_tokens > 50
        assert fast.counters.steps < 0.7 * slow.counters.steps
    assert all(len(slot.held) == len(fast._backend.held[slot.index]) for slot in fast._slots.all)  # type: ignore[attr-defined]


class Wide(Looping):
    """Its kernels round otherwise when a sequence gives more than three tokens."""

    def decode(self, spans: Sequence[Span]) -> np.ndarray:
        rows = super().decode(spans)
        return rows + np.float32(1e-6) if any(len(span.tokens) > 3 for span in spans) else rows


class Far(Looping):
    """Its kernels round otherwise when a sequence of more than 60 tokens gives several."""

    alike = 60

    def decode(self, spans: Sequence[Span]) -> np.ndarray:
        rows = super().decode(spans)
        apart = any(len(span.tokens) > 1 and span.rows > 1 and span.start + len(span.tokens) > 60 for span in spans)
        return rows + np.float32(1e-6) if apart else rows


def test_nothing_is_drafted_or_measured_where_steps_round_apart() -> None:
    scheduler = Scheduler(Far())  # type: ignore[arg-type]
    for prompt, most in (([4] * 100, 9), (list(range(1, 41)), 9)):  # the first leaves a slot too long to measure on
        request = Request(prompt, max_tokens=most, drafts=True)
        scheduler.submit([request])
        request.wait(10)
    give_up = time.monotonic() + 10
    while not scheduler._drafter.probe.done and time.monotonic() < give_up:
        time.sleep(0.005)
    scheduler._drafter.drafts.seconds = [1.0] * len(scheduler._drafter.drafts.seconds)
    scheduler._drafter.drafts.timed = lambda width, seconds: None  # type: ignore[method-assign]
    again = Request([3, 7, 9, 7, 9], max_tokens=120, drafts=True)
    scheduler.submit([again])
    again.wait(10)
    scheduler.close()
    assert scheduler._drafter.drafts.widest > 3
    assert scheduler.counters.drafted_tokens > 0
    wide = [span for step in scheduler._backend.batches for span in step if span.rows > 1]  # type: ignore[attr-defined]
    assert max(span.start + len(span.tokens) for span in wide) <= 60


def test_a_step_is_no_wider_than_the_widest_that_rounds_alike() -> None:
    scheduler = Scheduler(Wide())  # type: ignore[arg-type]
    request = Request(list(range(1, 49)), max_tokens=4, drafts=True)
    scheduler.submit([request])
    request.wait(10)
    give_up = time.monotonic() + 10
    while not scheduler._drafter.probe.done and time.monotonic() < give_up:
        time.sleep(0.005)
    scheduler.close()
    assert scheduler._drafter.drafts.widest == 3
    assert scheduler._slots.all[0].held == scheduler._backend.held[0]  # type: ignore[attr-defined]


def test_odds_of_the_tokens_are_the_models_own(scheduler: Scheduler) -> None:
    request = Request([3, 4], max_tokens=5, chances=Chances(2), sampling=Sampling(temperature=2.0, seed=1))
    scheduler.submit([request])
    request.wait(10)
    assert request.chances is not None
    assert [token for token, _, _ in request.chances.found] == request.tokens
    held = [3, 4]
    for token, logprob, top in request.chances.found:
        row = following(held).astype(np.float64)
        odds = row - np.log(np.exp(row).sum())
        assert logprob == pytest.approx(odds[token])
        assert top[0] == (next_token(held), pytest.approx(odds.max()))
        assert len(top) == 2
        held.append(token)
