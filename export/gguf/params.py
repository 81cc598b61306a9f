"""Parameters of ``export.gguf``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from compress.stage import CalibratedParams
from export.gguf import ggml, mix


class GgufParams(CalibratedParams):
    """Parameters of ``export.gguf``."""

    type: str = "Q4_K_M"
    """Named type of the file; most tensors get it, the sensitive ones more bits, as llama.cpp mixes them."""
    imatrix: bool | Path = True
    """Weigh rounding errors by the calibration's mean squared inputs (the importance matrix), or by those in a file
    of llama-imatrix or ``export.imatrix``. Such a file has no Hessians, so errors are not fed back."""
    feedback: Literal["upstream", "shared", "off"] = "upstream"
    """GPTQ's error feedback inside the block formats, where a calibration pass is read: less error, more time.
    ``upstream`` calibrates each linear behind the ones already quantized, ``shared`` on the float model."""
    mix: Literal["named", "measured"] = "named"
    """Types of the block linears: ``named`` as llama.cpp mixes them for ``type``; ``measured`` those that cost least
    KL divergence by a backward pass over the calibration text, in the bytes of the named mix or within a budget."""
    budget_mb: float | None = Field(None, gt=0)
    """With ``mix: measured``: size of the whole file in 10⁶ bytes."""
    bits_per_weight: float | None = Field(None, gt=0)
    """With ``mix: measured``: bits per weight of the block linears."""
    choose: tuple[str, ...] = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
    """With ``mix: measured``: tensor types to choose from (rows that do not fit fall back as in the named mix)."""
    name: str = ""
    """``general.name`` in the file; by default architecture and size."""

    @field_validator("feedback", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false

    @field_validator("type")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in mix.FILE_TYPES:
            raise ValueError(f"unknown type; known: {', '.join(mix.FILE_TYPES)}")
        return value

    @field_validator("choose")
    @classmethod
    def _known_choices(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [kind for kind in value if kind not in ggml.TYPE_IDS]
        if unknown or not value:
            raise ValueError(f"unknown tensor type {unknown[:1]}; known: {', '.join(ggml.TYPE_IDS)}")
        return value

    @model_validator(mode="after")
    def _measurable(self) -> GgufParams:
        budget = self.budget_mb is not None or self.bits_per_weight is not None
        if budget and self.mix != "measured":
            raise ValueError("budget_mb and bits_per_weight need mix: measured")
        if self.budget_mb is not None and self.bits_per_weight is not None:
            raise ValueError("give budget_mb or bits_per_weight, not both")
        if self.mix == "measured" and (self.imatrix is not True or mix.FILE_TYPES[self.type][1] in ggml.PLAIN):
            raise ValueError("mix: measured needs imatrix: true and a quantized type")
        return self
