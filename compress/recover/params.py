"""How a pruned model is recovered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from compress.stage import Params

AT_ONCE = 512
"""Tokens that go through both models together: more are no faster on a CPU, and their activations fill the memory."""


class Recover(Params):
    """How a pruned model is recovered."""

    distill_steps: int = Field(default=300, ge=1)
    """Optimizer steps."""
    batch: int = Field(default=16, ge=1)
    """Rows per step."""
    lr: float = Field(default=1e-4, gt=0)
    """Peak learning rate."""
    loss: Literal["distill", "text"] = "distill"
    """Learn the unpruned model's next-token distributions, or the rows' own next tokens."""
    temperature: float = Field(default=1.0, gt=0)
    """Softens both distributions; 1 compares them as they are used."""
    hidden: float = Field(default=0.0, ge=0)
    """Weight of the mean squared error between normalised block outputs of the pruned and the unpruned model."""
    lora: int | None = Field(default=None, ge=1)
    """Rank of LoRA adapters that are trained and merged; null trains all parameters."""
    max_length: int = Field(default=512, ge=16)
    """Longer chats are left out, longer texts are cut."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints; a crash loses at most these."""

    @model_validator(mode="after")
    def _one_loss_has_a_temperature(self) -> Recover:
        if self.loss == "text" and self.temperature != 1:
            raise ValueError("temperature belongs to loss: distill")
        return self

    @property
    def guided(self) -> bool:
        """Whether the unpruned model is needed."""
        return self.loss == "distill" or self.hidden > 0
