"""Losses of preference training, as functions of the replies' log-probabilities.

r is the log-ratio log π(y|x) − log π_ref(y|x) of a reply; the reference is the model before training. Replies of a pair
lie one after another: the chosen one, then the rejected one. All tensors are float32 ``[replies]``; a loss is
returned per pair (``[replies / 2]``) or per reply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def logsigmoid(values: Tensor) -> Tensor:
    """log σ(x), without overflow."""
    from torch.nn import functional  # imported here: the stages must load without torch

    return functional.logsigmoid(values)


@dataclass(frozen=True)
class Replies:
    """What is known of the replies of a batch, or of a part of it."""

    logps: Tensor
    """log π(y|x): the sum over the reply's tokens, in nats."""
    lengths: Tensor
    """Tokens of each reply."""
    reference: Tensor
    """log π_ref(y|x)."""
    good: Tensor
    """1 for a wanted reply, 0 for one that is not; in between where labels are continuous."""

    @property
    def ratios(self) -> Tensor:
        return self.logps - self.reference


def pairs(values: Tensor) -> tuple[Tensor, Tensor]:
    """(of the chosen, of the rejected)."""
    return values[0::2], values[1::2]


def agrees(replies: Replies, *, with_reference: bool) -> Tensor:
    """Whether the model prefers the chosen reply of each pair, ``[pairs]`` bool: by its log-ratio to the reference, or
    (methods without one) by its mean log-probability per token."""
    chosen, rejected = pairs(replies.ratios if with_reference else replies.logps / replies.lengths)
    return chosen > rejected


def dpo(replies: Replies, *, beta: float, kind: str = "sigmoid", smoothing: float = 0.0) -> Tensor:
    """Direct preference optimization; Δ = r_chosen − r_rejected.

    sigmoid: −log σ(βΔ) (Rafailov et al. 2023, eq. 7), with label smoothing ε as (1 − ε)(−log σ(βΔ)) + ε(−log σ(−βΔ))
    (Mitchell 2023, cDPO); robust: the same divided so that it is unbiased, (1 − ε)(…) − ε(…) over 1 − 2ε (Chowdhury et
    al. 2024); hinge: max(0, 1 − βΔ) (Zhao et al. 2023, SLiC); ipo: (Δ̄ − 1/(2β))² with r averaged over tokens (Azar et
    al. 2023, eq. 17); apo_zero: 1 − σ(βr_c) + σ(βr_r) (D'Oosterlinck et al. 2024, eq. 7).
    """
    ratios = replies.ratios / replies.lengths if kind == "ipo" else replies.ratios
    chosen, rejected = pairs(ratios)
    delta = chosen - rejected
    if kind == "sigmoid":
        return -(1 - smoothing) * logsigmoid(beta * delta) - smoothing * logsigmoid(-beta * delta)
    if kind == "robust":
        plain = -(1 - smoothing) * logsigmoid(beta * delta) + smoothing * logsigmoid(-beta * delta)
        return plain / (1 - 2 * smoothing)
    if kind == "hinge":
        return (1 - beta * delta).relu()
    if kind == "ipo":
        return (delta - 1 / (2 * beta)) ** 2
    assert kind == "apo_zero", kind
    return 1 - (beta * chosen).sigmoid() + (beta * rejected).sigmoid()


def kto(replies: Replies, *, beta: float, kl: Tensor, wanted: float = 1.0, unwanted: float = 1.0) -> Tensor:
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024), per reply: λ_D (1 − σ(β(r − z₀))) for a wanted one,
    λ_U (1 − σ(β(z₀ − r))) for the others; z₀ = ``kl``, a scalar that carries no gradient."""
    up = wanted * (1 - (beta * (replies.ratios - kl)).sigmoid())
    down = unwanted * (1 - (beta * (kl - replies.ratios)).sigmoid())
    return up.where(replies.good > 0.5, down)


def orpo(replies: Replies, *, weight: float) -> Tensor:
    """Odds-ratio preference optimization (Hong et al. 2024, eqs. 6 and 7), per pair: −log p̄(chosen) plus ``weight``
    times −log σ(log odds(chosen) − log odds(rejected)), all of the mean log-probability per token. No reference."""
    mean = replies.logps / replies.lengths
    odds = mean - (-mean.exp().clamp(max=1 - 1e-7)).log1p()
    chosen, rejected = pairs(odds)
    return -mean[0::2] - weight * logsigmoid(chosen - rejected)


def simpo(replies: Replies, *, beta: float, gamma: float) -> Tensor:
    """SimPO (Meng et al. 2024, eq. 6), per pair: −log σ(β (mean log p chosen − mean log p rejected) − γ). No
    reference."""
    chosen, rejected = pairs(replies.logps / replies.lengths)
    return -logsigmoid(beta * (chosen - rejected) - gamma)


def ulma(replies: Replies, *, beta: float, log_z: float = 0.0) -> Tensor:
    """ULMA (Cai et al. 2023, arXiv 2312.02554), per reply: −log π̄(y|x) for a demonstration (``good`` = 1), and for the
    others −log(1 − σ(βr̄ + β log Z)); averages over the reply's tokens, as its authors' trainer takes them."""
    mean, ratio = replies.logps / replies.lengths, replies.ratios / replies.lengths
    return (-mean).where(replies.good > 0.5, -logsigmoid(-(beta * ratio + beta * log_z)))


def ulma_continuous(replies: Replies, *, beta: float, offset: float = 0.0) -> Tensor:
    """ULMA for labels z in a range (Cai et al. 2023): (z − βr̄ − c)² per reply, c = ``offset``."""
    ratio = replies.ratios / replies.lengths
    return (replies.good - beta * ratio - offset) ** 2
