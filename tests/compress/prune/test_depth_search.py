"""The search against transformers models from which blocks were deleted."""

import pytest
import torch
from tiny_families import PLAIN, ids, save_tiny

from compress.model.blocks import ModelFolder
from compress.prune.depth_search import losses_without, search


def loss_with(model, kept):
    """Loss of transformers' model with only these blocks, each with its own kind of attention."""
    name = "h" if model.config.model_type == "gpt2" else "layers"
    blocks, config = getattr(model.base_model, name), model.config
    kinds, count = getattr(config, "layer_types", None), config.num_hidden_layers
    setattr(model.base_model, name, torch.nn.ModuleList(blocks[i] for i in kept))
    if kinds:
        config.layer_types = [kinds[i] for i in kept]
    config.num_hidden_layers = len(kept)
    try:
        with torch.no_grad():
            return float(model(ids(6), labels=ids(6), use_cache=False).loss)
    finally:
        setattr(model.base_model, name, blocks)
        config.num_hidden_layers = count
        if kinds:
            config.layer_types = kinds


@pytest.mark.parametrize("family", PLAIN)
def test_losses_are_those_of_the_shortened_model(family, tmp_path):
    whole = save_tiny(family, tmp_path)
    with torch.inference_mode():
        loss, without = losses_without(ModelFolder(tmp_path), ids(6), [0, 2])
    assert loss == pytest.approx(loss_with(whole, [0, 2]), rel=1e-4)
    assert without == {
        0: pytest.approx(loss_with(whole, [2]), rel=1e-4),
        2: pytest.approx(loss_with(whole, [0]), rel=1e-4),
    }


def test_the_search_is_greedy(tmp_path):
    whole = save_tiny("llama", tmp_path)
    found = search(ModelFolder(tmp_path), ids(6), 2, lambda *_: None)
    kept = [0, 1, 2]
    for removed, loss in zip(found.removed, found.losses[1:], strict=True):
        losses = {block: loss_with(whole, [b for b in kept if b != block]) for block in kept}
        assert removed == min(losses, key=losses.__getitem__)
        assert loss == pytest.approx(losses[removed], rel=1e-2)
        kept.remove(removed)
    assert found.losses[0] == pytest.approx(loss_with(whole, [0, 1, 2]), rel=1e-2)
