"""Rankings of channels and KV groups against what they add to the residual stream."""

import pytest
import torch

from compress.errors import UsageError
from compress.prune.width_math import (
    activation_importance,
    keep_most,
    kept_width,
    magnitude_importance,
    members,
    random_importance,
    removed_count,
    rounded,
)


def test_kept_width_rounds_and_explains():
    assert kept_width(768, 0.25, 256) == 512
    assert kept_width(1024, 0.6, 256) == 512
    assert kept_width(768, 0.5, 128) == 384
    with pytest.raises(UsageError, match=r"(?s)widths that fit: 256, 512"):
        kept_width(768, 0.05, 256)
    with pytest.raises(UsageError, match="widths that fit: none"):
        kept_width(256, 0.5, 256)


def test_few_of_many_widths_are_named():
    with pytest.raises(UsageError, match=r"(?s)removing 0.01% of 4096 .* fit: 1, 2, 3, 4, …, 4092, 4093, 4094, 4095;"):
        kept_width(4096, 0.0001, 1)


def test_another_share_than_was_asked_for_is_said():
    said = rounded(0.25, 1536, kept_width(1536, 0.25, 256), "FFN channels", " (a multiple of 256)")
    assert said == "FFN channels: 1536 become 1024 (a multiple of 256), which removes 33.3% where 25.0% was asked for"
    assert rounded(0.25, 768, 576, "FFN channels", "") is None
    assert rounded(2, 8, 6, "KV groups", "") is None
    assert rounded(None, 8, 8, "KV groups", "") is None


def test_a_number_or_a_fraction_is_removed():
    assert [removed_count(amount, 8, "blocks") for amount in (0.25, 1, 3.0, 0.9)] == [2, 1, 3, 7]
    for amount in (0.01, 8, 1.5, 0.99):
        with pytest.raises(UsageError, match=r"of 8 blocks would remove"):
            removed_count(amount, 8, "blocks")
    with pytest.raises(UsageError, match="leave it out"):
        removed_count(1, 1, "KV groups")


@pytest.mark.parametrize("size", [1, 2])
def test_importance_is_the_mean_squared_contribution(size):
    g = torch.Generator().manual_seed(0)
    a, down = torch.randn(300, 6, generator=g), torch.randn(4, 6, generator=g)
    parts = [slice(j, j + size) for j in range(0, 6, size)]
    slow = torch.stack([(a[:, part] @ down[:, part].T).square().sum(1).mean() for part in parts])
    torch.testing.assert_close(activation_importance(down, a.T @ a / 300, size), slow)


def test_magnitude_is_the_product_of_norms():
    g = torch.Generator().manual_seed(0)
    gate, up, down = torch.randn(6, 4, generator=g), torch.randn(6, 4, generator=g), torch.randn(4, 6, generator=g)
    slow = torch.stack([gate[j].norm() * up[j].norm() * down[:, j].norm() for j in range(6)])
    torch.testing.assert_close(magnitude_importance([gate, up], down, 6), slow)
    pairs = torch.stack([gate[j : j + 2].norm() * down[:, j : j + 2].norm() for j in (0, 2, 4)])
    torch.testing.assert_close(magnitude_importance([gate], down, 3), pairs)


def test_the_most_important_stay_in_order():
    assert keep_most(torch.tensor([1.0, 3.0, 3.0, 0.0]), 2).tolist() == [1, 2]
    assert keep_most(torch.ones(4), 2).tolist() == [0, 1]
    assert members(torch.tensor([0, 2]), 3).tolist() == [0, 1, 2, 6, 7, 8]
    assert torch.equal(random_importance(5, 1), random_importance(5, 1))
    assert not torch.equal(random_importance(5, 1), random_importance(5, 2))
