"""Parameters of ``quantize.gptq``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from compress.stage import CalibratedParams

Bits = Literal[2, 3, 4, 8]
UPSTREAM_BITS = 3
"""Up to so many bits, errors are large enough for the defaults that cost time: ``upstream``, and MANY_SWEEPS."""
FEW_SWEEPS, MANY_SWEEPS = 1, 4


class GptqParams(CalibratedParams):
    """Parameters of ``quantize.gptq``."""

    bits: Bits = 4
    """Bits per weight of the block linears (embeddings, norms and head stay as they are)."""
    group_size: Literal[-1, 32, 64, 128] = 128
    """Inputs that share a scale; -1: all of an output channel's."""
    sym: bool = True
    """Fixed zero point in the middle (what most kernels want) instead of one per group."""
    act_order: bool = True
    """Quantize important inputs first, groups kept together (no g_idx shuffling, no cost at inference)."""
    desc_act: bool = False
    """Classic activation order: groups follow it too, and ``g_idx`` says which; a little better, slower to run."""
    damp: float = Field(0.01, gt=0, le=1)
    """Damping, as a fraction of the Hessian's mean diagonal; raised and reported where it does not suffice."""
    mse: int = Field(16, ge=1, le=100)
    """Ranges tried in the scale search that minimises the Hessian-weighted squared error; 1 turns it off."""
    sweeps: int | None = Field(None, ge=0, le=20)
    """Sweeps of coordinate descent over all codes and scales after GPTQ's pass; by default 1, and 4 up to 3 bits."""
    upstream: bool | Literal["auto"] = "auto"
    """Calibrate each linear behind the ones already quantized and make good what they changed: a fifth less KL
    divergence for twice the time. False takes the calibration pass that other stages share; auto: true up to 3 bits."""
    lm_head: bool = False
    """Quantize the output head too; only if it is not tied to the embedding."""
    sparsity: Literal["2:4", "4:8"] | float | None = None
    """Zeros chosen together with the codes (SparseGPT): a pattern along the inputs, or a fraction."""
    dynamic: dict[str, Literal[0, 2, 3, 4, 8]] = Field(default_factory=dict)
    """Other bits for linears by shell pattern, e.g. ``"*.down_proj": 8``; 0 leaves them as they are."""
    bits_per_weight: float | None = Field(None, gt=0)
    """A budget: bits are chosen per linear so that the whole costs least, codes and scales counted."""
    budget_mb: float | None = Field(None, gt=0)
    """The same as the size of all weights on disk, in 10⁶ bytes."""
    choose: tuple[Bits, ...] = (2, 3, 4, 8)
    """Widths that a budget may choose from."""

    @model_validator(mode="after")
    def _consistent(self) -> GptqParams:
        if self.bits_per_weight is not None and self.budget_mb is not None:
            raise ValueError("bits_per_weight and budget_mb are two ways to say one thing; give one of them")
        if isinstance(self.sparsity, float) and not 0 < self.sparsity < 1:
            raise ValueError("sparsity lies between 0 and 1")
        if self.desc_act and self.group_size == -1:
            raise ValueError("desc_act orders groups; with group_size -1 there is one, and act_order does the same")
        return self

    @property
    def own_streams(self) -> bool:
        """``upstream`` with the default resolved."""
        return self.bits <= UPSTREAM_BITS if self.upstream == "auto" else self.upstream

    def sweeps_at(self, bits: int) -> int:
        """``sweeps`` with the default for a linear of that many bits."""
        if self.sweeps is not None:
            return self.sweeps
        return FEW_SWEEPS if bits > UPSTREAM_BITS else MANY_SWEEPS

    @property
    def budgeted(self) -> bool:
        """Whether bits are chosen per linear."""
        return self.bits_per_weight is not None or self.budget_mb is not None
