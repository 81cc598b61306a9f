"""The config.json of a model from which FFN channels, heads or blocks were cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compress.errors import UsageError

if TYPE_CHECKING:
    from compress.model.layout import BlockLayout, Settings


def narrowed(
    config: Mapping[str, Any],
    layout: BlockLayout,
    settings: Settings,
    *,
    ffn: int | None,
    heads: int | None,
    kv_heads: int | None,
    blocks: Sequence[int] | None,
) -> dict[str, Any]:
    """A copy of ``config`` with the sizes that are given, and only the blocks with these indices.

    ``head_dim`` is written out when heads change. UsageError where the family's config cannot say it.
    """
    sizes: dict[str, Any] = {}
    if ffn is not None:
        sizes["intermediate_size"] = ffn
    if heads is not None or kv_heads is not None:
        sizes.update(_heads(layout, settings, heads, kv_heads))
    if blocks is not None:
        sizes.update(_blocks(layout, settings, blocks))
    return {**config, **{layout.keys.get(name, name): value for name, value in sizes.items()}}


def _heads(layout: BlockLayout, settings: Settings, heads: int | None, kv_heads: int | None) -> dict[str, Any]:
    heads = settings["num_attention_heads"] if heads is None else heads
    kv_heads = settings["num_key_value_heads"] if kv_heads is None else kv_heads
    problem = None
    if heads % kv_heads:
        problem = f"{kv_heads} KV heads do not divide {heads} heads"
    elif settings["hidden_size"] % heads:
        problem = f"transformers wants heads that divide the hidden size {settings['hidden_size']}; {heads} do not"
    elif layout.fixed_heads(settings) and heads != settings["num_attention_heads"]:
        problem = f"a {settings['model_type']} config cannot hold another number of heads with the same head_dim"
    if problem:
        raise UsageError(problem, next="keep another number of heads")
    if layout.fixed_heads(settings):
        return {}
    return {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": settings["head_dim"]}


def _blocks(layout: BlockLayout, settings: Settings, blocks: Sequence[int]) -> dict[str, Any]:
    if settings.get("scale_attn_by_inverse_layer_idx") and list(blocks) != list(range(len(blocks))):
        raise UsageError(
            "scale_attn_by_inverse_layer_idx ties attention to the block's index: only the last blocks can go",
            next="remove blocks from the end",
        )
    sizes: dict[str, Any] = {"num_hidden_layers": len(blocks)}
    if layout.own_layer_types:
        sizes["layer_types"] = [settings["layer_types"][block] for block in blocks]
    return sizes
