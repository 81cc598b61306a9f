"""Parameters that the training methods share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compress.stage import Params


class SftParams(Params):
    method: Literal["qlora", "lora", "full"] = "qlora"
    """qlora: adapter on an NF4 base; lora: adapter on the base as it is; full: all weights."""
    rank: int = Field(32, ge=1)
    """Rank of the adapter."""
    alpha: int | None = Field(None, ge=1)
    """Scale of the adapter (alpha / rank); by default the rank."""
    rate: float | None = Field(None, gt=0)
    """Peak learning rate; by default one that suits the method and the width of the model."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the augmented training data."""
    steps: int | None = Field(None, ge=1)
    """Optimiser steps; replaces ``epochs``."""
    batch: int = Field(16, ge=1)
    """Conversations per step."""
    max_length: int = Field(512, ge=16)
    """Longest conversation in tokens; longer ones are left out."""
    loss_on: Literal["last", "all"] = "last"
    """Which assistant turns of a conversation are learnt; those with ``weight: 0`` never are."""
    augment: bool = True
    """Counterfactual toggles of optional rules and varied system prompts."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between checkpoints."""
    max_logit_gap: float = Field(0.02, gt=0)
    """Largest difference allowed between the logits of the adapter model and of the merged one."""
