"""Parameters of ``validate``."""

from __future__ import annotations

from pydantic import Field

from compress.stage import Params, StageRef


class Margins(Params):
    """How much worse a candidate may be, as a share of items or checks."""

    accuracy: float = Field(default=0.02, gt=0, lt=1)
    """Accuracy."""
    adherence: float = Field(default=0.02, gt=0, lt=1)
    """Hard rules pooled, model-only."""
    rule: float = Field(default=0.05, gt=0, lt=1)
    """Each single rule without a ``margin:`` of its own, and soft rules pooled, model-only. It protects against a rule
    that falls by so much (such a fall passes in at most 5 % of validations), and not against smaller ones."""


class ValidateParams(Params):
    """Parameters of ``validate``."""

    baseline: StageRef
    """The model that no candidate may be worse than, normally the fine-tuned one before compression."""
    base: StageRef | None = None
    """The model before tuning, for the before/after page."""
    parity: StageRef | None = None
    """The ``export.parity`` stage that compared these candidates with their weights: what it found is taken over."""
    margins: Margins = Margins()
    """Non-inferiority margins."""
    max_baseline_violations: float = Field(default=0.1, gt=0, lt=1)
    """Largest share of replies in which the baseline, model-only, may break a hard rule and still be a measure."""
    sequential: bool = False
    """Ask in rounds, in random order, and stop as soon as the verdict is sure (docs/gate.md). Off, every item is asked,
    so that all figures stand on all items."""
    again_rows: int = Field(default=300, ge=1)
    """Items that the baseline is asked twice, in other company (A/A): what flips there flips without compression."""
    wording_rows: int = Field(default=48, ge=0)
    """Of those, items that it is asked again in harmless other wordings; 0 leaves that out."""
    max_tokens: int = Field(default=160, ge=1)
    """Most tokens of a reply."""
    drift_rows: int = Field(default=200, ge=0)
    """Items on which KL divergence and perplexity are measured."""
    base_rows: int = Field(default=200, ge=1)
    """Items that the model before tuning answers."""
    samples: int = Field(default=24, ge=0)
    """Items on the before/after page."""
    bench_runs: int = Field(default=9, ge=0)
    """Timed replies per artifact; 0 leaves latency and memory out."""
