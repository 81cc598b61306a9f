"""What training takes on a GPU: the planner against peaks that a card reported."""

import pytest

from compress.errors import UsageError
from compress.outline import ModelOutline, Shape
from finetune.train import gpu
from finetune.train.params import SftParams

SHAPES = {
    "135M": ModelOutline(Shape(30, 576, 1536, 9, 3, 64, 49152), tied=True, weight_bytes=2.0),
    "0.5B": ModelOutline(Shape(24, 896, 4864, 14, 2, 64, 151936), tied=True, weight_bytes=2.0),
    "1.1B": ModelOutline(Shape(22, 2048, 5632, 32, 4, 64, 32000), tied=False, weight_bytes=2.0),
    "3B": ModelOutline(Shape(28, 3072, 8192, 24, 8, 128, 128256), tied=True, weight_bytes=2.0),
    "8B": ModelOutline(Shape(32, 4096, 14336, 32, 8, 128, 128256), tied=False, weight_bytes=2.0),
}


@pytest.mark.parametrize(
    ("name", "method", "optimizer", "length", "peak"),
    [
        ("135M", "qlora", "adamw", 64, 2.25),
        ("0.5B", "qlora", "adamw", 512, 19.41),
        ("1.1B", "lora", "adamw", 256, 16.12),
        ("1.1B", "full", "adamw_8bit", 256, 20.20),
        ("3B", "qlora", "adamw", 1024, 48.05),
        ("8B", "qlora", "adamw", 512, 49.24),
        ("8B", "qlora", "adamw", 2048, 68.64),
    ],
)
def test_the_plan_is_within_a_quarter_of_what_a_card_reported(name, method, optimizer, length, peak):
    """H100 80 GB, torch 2.11, transformers 5.23, peft 0.21.2, bitsandbytes 0.50.2; rank 16, batch 16; GB."""
    p = SftParams(method=method, optimizer=optimizer, rank=16, batch=16, max_length=length)
    fit = gpu.fitted(SHAPES[name], p, length, 1, 84.3e9)
    assert 0.75 < gpu.peak(SHAPES[name], p, fit) / 1e9 / peak < 1.25


def test_a_small_card_computes_activations_twice_and_a_smaller_one_takes_fewer_rows():
    p = SftParams(method="qlora", rank=16, batch=16, max_length=2048)
    fits = [gpu.fitted(SHAPES["8B"], p, 2048, 1, free) for free in (84e9, 46e9, 22e9)]
    assert [fit.checkpointing for fit in fits] == [False, True, True]
    assert fits[2].tokens < fits[1].tokens
    for fit, free in zip(fits, (84e9, 46e9, 22e9), strict=True):
        assert gpu.peak(SHAPES["8B"], p, fit) < free


def test_pairs_stay_together():
    p = SftParams(method="qlora", rank=16, batch=16, max_length=2048)
    assert gpu.fitted(SHAPES["8B"], p, 2048, 2, 22e9).tokens % 4096 == 0


def test_what_fits_no_way_is_refused_with_the_sizes():
    p = SftParams(method="full", rank=16, max_length=512)
    with pytest.raises(UsageError, match=r"needs 1\d\d\.\d GB of GPU memory for one example of 512 tokens, 84\.0 GB"):
        gpu.fitted(SHAPES["8B"], p, 512, 1, 84e9)
