from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from validate_models import prompts

from compress.errors import ArtifactError, UsageError
from compress.validate.batches import common_prefix, plan_batches
from compress.validate.in_torch import HfRunner
from compress.validate.runners import open_runner


def slow_greedy(runner: HfRunner, ids: list[int], max_tokens: int) -> tuple[tuple[int, ...], bool]:
    """One token at a time over the whole sequence, without a cache: the obvious reference."""
    reply: list[int] = []
    for _ in range(max_tokens):
        token = int(runner.logits([*ids, *reply])[-1].argmax())
        if token in runner.stop_ids():
            return tuple(reply), False
        reply.append(token)
    return tuple(reply), True


def test_batched_greedy_equals_one_token_at_a_time(tiny_hf: Path) -> None:
    with HfRunner(tiny_hf) as runner:
        asked = prompts(9)
        replies = runner.complete(asked, 12)
        for messages, reply in zip(asked, replies, strict=True):
            assert (reply.token_ids, reply.truncated) == slow_greedy(runner, runner.encode(messages), 12)


def test_a_reply_that_stops_early_leaves_the_others_running(tiny_hf: Path) -> None:
    with HfRunner(tiny_hf) as runner:
        asked = prompts(8)
        free = runner.complete(asked, 16)
        stop = free[3].token_ids[4]
        runner.model.generation_config.eos_token_id = [1, stop]
        cut = runner.complete(asked, 16)
        for messages, reply in zip(asked, cut, strict=True):
            assert (reply.token_ids, reply.truncated) == slow_greedy(runner, runner.encode(messages), 16)
        assert any(not reply.truncated for reply in cut)
        assert any(reply.truncated for reply in cut)


def test_regrouping_keeps_order_and_replies(tiny_hf: Path) -> None:
    with HfRunner(tiny_hf) as runner:
        first, second = runner.complete(prompts(7), 6), runner.complete(prompts(7), 6, regroup=True)
    assert [reply.token_ids for reply in first] == [reply.token_ids for reply in second]


def test_prompt_longer_than_the_context_is_named(tiny_hf: Path) -> None:
    with HfRunner(tiny_hf) as runner, pytest.raises(UsageError, match="prompt 2 has"):
        runner.complete([*prompts(1), [{"role": "user", "content": "order " * 300}]], 8)


def test_logits_have_a_row_per_token(tiny_hf: Path) -> None:
    with HfRunner(tiny_hf) as runner:
        assert runner.logits([2, 10, 11]).shape == (3, runner.vocabulary)


def test_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not answer prompts"):
        open_runner("calibration", tmp_path)


rows = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=9)


@settings(max_examples=60, deadline=None)
@given(rows)
def test_prefix_is_shared_by_all_and_leaves_a_token(prompt_rows: list[list[int]]) -> None:
    shared = common_prefix(prompt_rows)
    assert len({tuple(row[:shared]) for row in prompt_rows}) == 1
    assert all(len(row) > shared for row in prompt_rows)
    longer = shared + 1
    assert len({tuple(row[:longer]) for row in prompt_rows}) > 1 or min(map(len, prompt_rows)) == longer


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(1, 4), st.booleans())
def test_batches_cover_every_prompt_once(prompt_rows: list[list[int]], size: int, reverse: bool) -> None:
    batches = plan_batches(prompt_rows, size, reverse=reverse)
    assert sorted(i for batch in batches for i in batch) == list(range(len(prompt_rows)))
    assert all(1 <= len(batch) <= size for batch in batches)


def test_templates_are_told_a_time_that_stands_still(tiny_hf: Path) -> None:
    with HfRunner(tiny_hf) as runner:
        runner.tokenizer.chat_template = "{{ strftime_now('%Y') }}"
        assert runner.render(prompts(1)[0]) == "2025"
        runner.tokenizer.chat_template = {"a": "a", "b": "b"}
        with pytest.raises(UsageError, match="there are: a, b"):
            runner.render(prompts(1)[0])
