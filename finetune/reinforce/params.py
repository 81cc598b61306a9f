"""Parameters of ``finetune.reinforce``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from finetune.train.params import TuningParams


class ReinforceParams(TuningParams):
    algorithm: Literal["rejection_sampling", "grpo"] = "rejection_sampling"
    """rejection_sampling: the model's own replies that pass every check, learnt as by ``finetune.sft``; grpo: policy
    gradients by rewards normalised within each prompt's replies."""
    samples: int = Field(8, ge=2)
    """Replies drawn for each prompt."""
    probes: int = Field(2, ge=1)
    """rejection_sampling: replies drawn for each prompt at first; where all of them pass, no more are."""
    temperature: float = Field(1.0, gt=0, le=10)
    """Of the draws; gradients (grpo) are those at 1."""
    max_tokens: int = Field(128, ge=1)
    """Longest reply; one that is cut fails every check."""
    type: Literal["Q8_0", "F16", "BF16", "F32"] = "Q8_0"
    """Type of the file in which the runtime answers."""
    soft_weight: float = Field(0.5, ge=0)
    """Reward of a soft rule kept beside a hard one's 1; at 0 soft rules do not count."""
    answer_weight: float = Field(1.0, ge=0)
    """Reward of the expected answer; at 0 any answer will do."""
    prompts: int = Field(1000, ge=1)
    """rejection_sampling: training prompts that are answered, a random choice."""
    keep: int = Field(1, ge=1)
    """rejection_sampling: most different replies kept of a prompt."""
    easy: float = Field(0.5, ge=0, le=1)
    """rejection_sampling: share kept of the prompts whose every reply passes; they teach little and hold the rest."""
    demonstrations: bool = True
    """rejection_sampling: learn the data's own reply where none of the model's passes."""
    refresh: int = Field(4, ge=1)
    """grpo: steps that learn from replies of one state of the model (``batch`` prompts a step)."""
    beta: float = Field(0.02, ge=0)
    """grpo: weight of the KL divergence from the model before training."""
    clip: float = Field(0.2, gt=0, lt=1)
    """grpo: how far the ratio of probabilities may move in ``refresh`` steps before its gradient stops."""

    @model_validator(mode="after")
    def _more_than_probes(self) -> Self:
        if self.algorithm != "grpo" and self.probes > self.samples:
            raise ValueError(f"probes: {self.probes} are more than samples, {self.samples}")
        return self

    @model_validator(mode="after")
    def _no_part_to_measure(self) -> Self:
        if self.algorithm == "grpo" and self.validation is not None:
            raise ValueError(
                "validation: grpo has no loss of a part of the data alone; training.json holds its rewards"
            )
        return self
