"""Sizes of the base model that tests tune."""

from __future__ import annotations

from finetune.source import tiny

SMALL = tiny.TinyParams(
    hidden=64, layers=2, ffn=128, heads=2, vocabulary=400, conversations=120, steps=9, batch=4, checkpoint_every=4
)
