"""Parameters that the training methods share."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from compress.registry import nearest
from compress.stage import Params

SHAPING = ("beta", "gamma", "label_smoothing", "log_z", "loss", "sft_weight", "weight")
"""What makes another loss of the same replies."""
FIXED = ("augment", "cross_validation", "held_out", "labels", "loss_on", "max_length", "pairs", "search", "validation")
"""What decides which replies are measured, and as what."""
COMBINED = 1000
"""Combinations of the ends of a search's ranges that are tried before it starts."""
INSIDE = 0.381966
"""Share of a range behind its low end: no whole number where the ends are whole."""


class Adapter(Params):
    """What the adapters of qlora and lora are."""

    kind: Literal["lora", "rslora", "dora", "pissa", "loftq", "lora+"] = "lora"
    """See docs/finetuning.md; pissa needs ``method: lora``, loftq ``method: qlora``."""
    targets: list[str] = Field(default_factory=list)
    """Names of the linears that get one, e.g. ``[q_proj, v_proj]``; by default all but the head."""
    ratio: float = Field(default=16.0, gt=0)
    """lora+: how many times faster B learns than A."""


class Validation(Params):
    """A part of the training data that is only measured."""

    share: float = Field(0.05, gt=0, lt=0.5)
    """Of the examples, after augmentation."""
    every: int = Field(50, ge=1)
    """Steps between measurements."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many measurements without a better one, and keep the best weights; null trains to the end."""


class Space(Params):
    """Values that a search may try: from ``low`` to ``high`` (whole numbers where both are), or one ``of`` a list."""

    low: int | float | None = None
    """The least one."""
    high: int | float | None = None
    """The greatest one."""
    log: bool = False
    """As many tries between 0.001 and 0.01 as between 0.01 and 0.1."""
    of: list[Any] | None = Field(None, min_length=1)
    """The values themselves."""

    @field_validator("low", "high", mode="before")
    @classmethod
    def _a_number(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("true and false are no ends of a range; write of: [true, false]")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Space:
        ranged = self.low is not None and self.high is not None
        if ranged == (self.of is not None) or (self.of is not None and (self.low, self.high) != (None, None)):
            raise ValueError("takes low and high, or of")
        if self.low is not None and self.high is not None and (self.low >= self.high or (self.log and self.low <= 0)):
            raise ValueError("low must be below high, and above 0 with log")
        if self.log and self.of is not None:
            raise ValueError("log goes with low and high, not with of")
        return self

    def ends(self) -> list[Any]:
        """Values that must all be valid."""
        return [self.low, self.high] if self.of is None else self.of

    def samples(self) -> list[Any]:
        """Values of every kind that may come: the ends, and where one is no whole number, one between them."""
        if self.low is None or self.high is None or (isinstance(self.low, int) and isinstance(self.high, int)):
            return self.ends()
        return [*self.ends(), float(f"{self.low + INSIDE * (self.high - self.low):.6g}")]

    def distribution(self, optuna: Any) -> Any:
        """As Optuna knows it; a value that is a list or an object goes as its JSON."""
        if self.of is not None:
            return optuna.distributions.CategoricalDistribution(
                [json.dumps(value, sort_keys=True) for value in self.of]
            )
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        kind = optuna.distributions.IntDistribution if whole else optuna.distributions.FloatDistribution
        return kind(self.low, self.high, log=self.log)

    def given(self, value: Any) -> Any:
        """The other way round."""
        return value if self.of is None else json.dumps(value, sort_keys=True)

    def value(self, given: Any) -> Any:
        """What Optuna's value stands for; numbers with six digits, as they are written."""
        if self.of is not None:
            return json.loads(given)
        assert self.low is not None
        assert self.high is not None
        return given if isinstance(given, int) else min(max(float(f"{given:.6g}"), self.low), self.high)


class Search(Params):
    """Try several values of parameters and keep the model that measures best."""

    over: dict[str, Space] = Field(min_length=1)
    """Parameter -> the values to try; parts of a parameter with a dot, e.g. ``adapter.kind``."""
    trials: int = Field(20, ge=2)
    """Trainings in all."""
    random: int = Field(5, ge=1)
    """Trials that are drawn at random before the others are proposed, and that none may be ended for."""
    measure: Literal["loss", "agreement", "held_out"] = "loss"
    """What is best: the validation loss; the share of validation pairs on which the model agrees; the same of the pairs
    of ``held_out``, at the end alone."""
    prune: bool = True
    """End a trial whose measurement is worse than the median of the earlier ones' at the same step."""


class CrossValidation(Params):
    """Train on all parts of the data but one and measure that one, each in turn."""

    folds: int = Field(5, ge=2)
    """Parts; what answers one question is in one of them."""


class Unfreeze(Params):
    """Gradual unfreezing: the last blocks learn from the start, each one below joins later."""

    first: int = Field(1, ge=1)
    """Blocks that learn from the start, besides what stands behind the last block."""
    every: int | None = Field(None, ge=1)
    """Steps until the next block joins."""
    every_epoch: float | None = Field(None, gt=0)
    """The same in passes over the data."""

    @model_validator(mode="after")
    def _one_unit(self) -> Unfreeze:
        if (self.every is None) == (self.every_epoch is None):
            raise ValueError("unfreeze takes every (steps) or every_epoch")
        return self

    def steps(self, epoch: int) -> int:
        """Steps until the next block joins, where a pass over the data has ``epoch``."""
        return self.every or max(1, round((self.every_epoch or 0) * epoch))


class TuningParams(Params):
    method: Literal["qlora", "lora", "full"] = "qlora"
    """qlora: adapter on an NF4 base; lora: adapter on the base as it is; full: all weights."""
    rank: int = Field(32, ge=1)
    """Rank of the adapter."""
    alpha: int | None = Field(None, ge=1)
    """Scale of the adapter (alpha / rank); by default the rank."""
    adapter: Adapter = Adapter()
    """Kind of the adapter and the linears that get one."""
    rate: float | None = Field(None, gt=0)
    """Peak learning rate; by default one that suits the method and the width of the model."""
    schedule: Literal["linear", "cosine", "constant", "inverse_sqrt", "polynomial"] = "linear"
    """How the learning rate goes down after the warm-up."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps in which the rate rises to its peak."""
    optimizer: Literal["adamw", "adafactor", "sgd", "adamw_8bit", "paged_adamw_8bit", "lion_8bit"] = "adamw"
    """The 8-bit ones are bitsandbytes' and need a CUDA device."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the augmented training data."""
    steps: int | None = Field(None, ge=1)
    """Optimiser steps; replaces ``epochs``."""
    batch: int = Field(16, ge=1)
    """Conversations per step."""
    max_length: int = Field(512, ge=16)
    """Longest conversation in tokens; longer ones are left out."""
    freeze: list[str] = Field(default_factory=list)
    """Patterns of names of weights that do not learn (``*`` and ``?``), e.g. ``model.layers.0.*``."""
    freeze_blocks: int = Field(0, ge=0)
    """The first blocks, and the embedding in front of them, that do not learn."""
    unfreeze: Unfreeze | None = None
    """Let blocks join one after another, from the last to the first."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Each block's learning rate over that of the block above it."""
    validation: Validation | None = None
    """Keep a part of the data out and measure its loss; stop early with ``patience``."""
    log_to: list[Literal["mlflow", "tensorboard"]] = Field(default_factory=list)
    """Programs that get the figures of every step in a file of theirs, in the artifact's ``logs`` folder."""
    search: Search | None = None
    """Train with several values of some parameters, keep the best model and tell what each trial measured."""
    cross_validation: CrossValidation | None = None
    """Measure by k-fold cross-validation before the training on all data."""
    augment: bool = True
    """Counterfactual toggles of optional rules and varied system prompts."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between checkpoints."""
    max_logit_gap: float = Field(0.02, gt=0)
    """Largest difference allowed between the logits of the adapter model and of the merged one."""

    @model_validator(mode="after")
    def _adapter_fits_the_method(self) -> Self:
        wanted = {"pissa": "lora", "loftq": "qlora"}.get(self.adapter.kind)
        if self.method != "full" and wanted not in (None, self.method):
            raise ValueError(f"adapter.kind {self.adapter.kind} needs method: {wanted}")
        if self.method == "full" and self.adapter != Adapter():
            raise ValueError(
                "method: full trains all weights and has no adapter; leave adapter out, or set method: lora"
            )
        own = (
            self.freeze or self.freeze_blocks or self.unfreeze or self.layer_decay != 1 or self.adapter.kind == "lora+"
        )
        if own and self.optimizer != "adamw":
            raise ValueError(f"freezing, layer_decay and lora+ go with optimizer: adamw, not {self.optimizer}")
        return self

    @model_validator(mode="after")
    def _roots_have_a_length(self) -> Self:
        if self.schedule == "inverse_sqrt" and self.warmup == 0:
            raise ValueError(
                "schedule: inverse_sqrt goes down with the root of the warm-up's length; set warmup above 0"
            )
        return self

    @model_validator(mode="after")
    def _search_can_work(self) -> Self:
        if self.search is None:
            return self
        if self.cross_validation is not None:
            raise ValueError("search measures by validation; cross-validate what it found in a stage of its own")
        if self.search.measure != "held_out" and self.validation is None:
            raise ValueError(f"search.measure {self.search.measure} needs validation: a part that is only measured")
        if self.search.measure == "agreement" and not hasattr(self, "pairs"):
            raise ValueError("search.measure agreement is one of pairs, and this method has none; measure the loss")
        if self.search.measure == "held_out" and not getattr(self, "held_out", 0):
            raise ValueError("search.measure held_out needs held_out: pairs kept out of training")
        for name, space in self.search.over.items():
            if name.split(".")[0] in FIXED:
                raise ValueError(f"search.over: {name} must stay the same, or trials cannot be compared")
            graded = getattr(self, "labels", "binary") == "continuous"  # its loss is the distance to the labels
            if self.search.measure == "loss" and name in SHAPING and not graded:
                what = f"search.over: {name} is a part of the loss itself, so the losses of trials cannot be compared"
                raise ValueError(f"{what}; set search.measure: agreement or held_out")
            for value in space.samples():
                self._try({name: value})
        ends = [space.ends() for space in self.search.over.values()]
        for values in itertools.islice(itertools.product(*ends), COMBINED):
            self._try(dict(zip(self.search.over, values, strict=True)))
        return self

    def _try(self, values: Mapping[str, Any]) -> None:
        """Raise ValueError where a trial with these values could not begin."""
        try:
            self.with_values(values)
        except ValidationError as error:
            said = error.errors()[0]
            if said["type"] == "extra_forbidden":
                unknown = ".".join(map(str, said["loc"]))
                inner = [name for space in type(self).model_fields for name in _names(self, space)]
                raise ValueError(f"search.over: there is no parameter {unknown}{nearest(unknown, inner)}") from None
            place = "".join(f"{part}." for part in said["loc"]).rstrip(".")
            told = " with ".join(f"{name} cannot be {value!r}" if not i else f"{name} {value!r}"
                                 for i, (name, value) in enumerate(values.items()))  # fmt: skip
            why = f"{place}: {said['msg']}" if place else said["msg"].removeprefix("Value error, ")
            raise ValueError(f"search.over: {told} ({why})") from None

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """The same without ``search``, with other values of some parameters (names with dots lead inside)."""
        given = self.model_dump(exclude={"search"})
        for name, value in values.items():
            *outer, last = name.split(".")
            inner = given
            for part in outer:
                if not isinstance(inner.get(part) or {}, dict):
                    raise ValueError(f"search.over: {name} leads into {part}, which has no parts")
                inner[part] = inner.get(part) or {}
                inner = inner[part]
            inner[last] = value
        return type(self).model_validate(given)


def _names(p: Params, field: str) -> list[str]:
    """The name of a parameter and those of its parts, where it is set."""
    value = getattr(p, field)
    return [field, *(f"{field}.{part}" for part in type(value).model_fields)] if isinstance(value, Params) else [field]


class SftParams(TuningParams):
    loss_on: Literal["last", "all"] = "last"
    """Which assistant turns of a conversation are learnt; those with ``weight: 0`` never are."""
    packing: bool = False
    """Let short conversations of a batch share a row as long as its longest one, without seeing each other: the same
    losses, less padding where lengths differ much within a batch."""


class PreferenceParams(TuningParams):
    pairs: Literal["auto", "given", "mutations"] = "auto"
    """Where rejected replies come from: the data's ``rejected`` (or, for methods that judge replies one by one, its
    ``label``), or one-rule mutations of good replies by the rule file; ``auto``: what the data have, else mutations."""
    held_out: int = Field(0, ge=0)
    """Pairs kept out of training, by prompt, on which agreement with the preferences is measured at the end."""


class PairParams(PreferenceParams):
    sft_weight: float | None = Field(None, ge=0)
    """Weight of −log p per token of the chosen reply beside it; by default 1 for mutations, 0 for given pairs. Replies
    that differ in a few words are told apart at once, and the loss then makes both less likely (Pal et al., 2024)."""


class DpoParams(PairParams):
    loss: Literal["sigmoid", "hinge", "ipo", "robust", "apo_zero"] = "sigmoid"
    """Which loss of the log-ratios."""
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the model before training."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of pairs that are expected to be the wrong way round (sigmoid and robust)."""

    @model_validator(mode="after")
    def _smooths_what_can_be(self) -> Self:
        if self.label_smoothing and self.loss not in ("sigmoid", "robust"):
            raise ValueError(f"label_smoothing goes with loss sigmoid or robust; {self.loss} has none")
        return self


class KtoParams(PreferenceParams):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the model before training."""
    wanted: float = Field(1.0, gt=0)
    """Weight of the wanted replies."""
    unwanted: float = Field(1.0, gt=0)
    """Weight of the others."""

    @model_validator(mode="after")
    def _has_no_loss_of_a_part(self) -> Self:
        if self.validation is not None or self.cross_validation is not None:
            what = "finetune.kto has no loss for a part of the data alone: its KL term goes by whole batches"
            raise ValueError(f"{what}; leave validation and cross_validation out, or use held_out")
        return self


class OrpoParams(PreferenceParams):
    weight: float = Field(0.1, gt=0)
    """Weight of the odds ratio beside the loss of the chosen reply."""


class SimpoParams(PairParams):
    beta: float = Field(2.0, gt=0)
    """Scale of the mean log-probabilities."""
    gamma: float = Field(1.0, ge=0)
    """Margin by which the chosen reply should lead."""


class UlmaParams(PreferenceParams):
    beta: float = Field(1.0, gt=0)
    """How much replies that are not wanted count beside the demonstrations: of averages over tokens the gradient of one
    begins at beta / 2 of a demonstration's, so that 0.1, DPO's for sums, leaves little but SFT."""
    log_z: float = 0.0
    """log Z of the normalisation, a constant."""
    labels: Literal["binary", "continuous"] = "binary"
    """binary: demonstrations (1) and replies that are not wanted (0); continuous: labels between 0 and 1."""
    offset: float = 0.0
    """c of the continuous loss (z − βr − c)²."""
