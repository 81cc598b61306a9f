from pathlib import Path

import numpy as np
from validate_models import prompts

from compress.validate.in_torch import HfRunner
from compress.validate.parity import MOST_UNEXPLAINED, PROMPTS, TOKENS, Start, compare, take_starts
from compress.validate.runner import Completion


def start(reply: tuple[int, ...], sure: float, size: int = 8) -> Start:
    """A reference that prefers its own tokens with probability ``sure``."""
    rows = np.full((len(reply), size), (1 - sure) / (size - 1))
    rows[range(len(reply)), reply] = sure
    return Start((1, 2, 3), reply, np.log(rows).astype(np.float32))


def replies(*tokens: tuple[int, ...]) -> list[Completion]:
    return [Completion("", ids, False) for ids in tokens]


def test_equal_formats_agree(tiny_hf: Path) -> None:
    asked = prompts(5)
    with HfRunner(tiny_hf) as runner:
        starts = take_starts(runner, asked)
        ids = [runner.encode(messages) for messages in asked]
        given = runner.complete(asked, 12)
        for one in starts:
            assert one.reply == tuple(one.log_probs.argmax(1).tolist())
    result = compare("slim", starts, ids, given, same=True)
    assert (result.same_prompts, result.same_starts, result.unexplained, result.failed) == (5, 5, 0, False)
    assert result.difference is None


def test_a_doubled_bos_fails_and_is_described() -> None:
    result = compare("slim", [start((4, 5), 0.9)], [[1, 1, 2, 3]], replies((4, 5)), same=True)
    assert result.failed
    assert result.difference == "prompt 1 reads as other tokens from position 1: 2, 3 in the reference, 1, 2, 3 here"


def test_a_shorter_prompt_is_a_difference_too() -> None:
    result = compare("slim", [start((4,), 0.9)], [[1, 2]], replies((4,)), same=True)
    assert result.failed
    assert result.difference is not None
    assert "3 in the reference, the end here" in result.difference


def test_a_near_tie_is_explained_by_quantization() -> None:
    result = compare("slim", [start((4, 5), 0.3)], [[1, 2, 3]], replies((4, 6)), same=True)
    assert (result.same_starts, result.unexplained, result.failed) == (0, 0, False)


def test_overturned_certainty_fails_above_the_tolerated_share() -> None:
    ids = [[1, 2, 3]] * 8
    few = int(8 * MOST_UNEXPLAINED)
    for wrong, failed in ((few, False), (few + 1, True)):
        given = replies(*[(4, 7)] * wrong, *[(4, 5)] * (8 - wrong))
        result = compare("slim", [start((4, 5), 0.95)] * 8, ids, given, same=True)
        assert (result.unexplained, result.failed) == (wrong, failed)
        assert result.difference == "reply 1, token 2: 7 here, 5 in the reference, which was 94% surer"
    assert not compare("tune", [start((4, 5), 0.95)] * 8, ids, replies(*[(4, 7)] * 8), same=False).failed


def test_a_reply_that_ends_too_early_is_another_start() -> None:
    result = compare("slim", [start((4, 5), 0.9)], [[1, 2, 3]], replies((4,)), same=True)
    assert result.same_starts == 0


def test_enough_prompts_are_compared() -> None:
    assert PROMPTS >= 32
    assert TOKENS >= 8
