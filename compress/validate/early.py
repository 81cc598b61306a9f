"""Asking in rounds until the verdict is sure, instead of asking everything (``sequential: true``).

Items come in an order drawn with a fixed seed, because only a random beginning stands for the whole. After every round
the gate judges what was said so far; a verdict may be taken at any of these looks (``sequential``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from compress.validate.models import Everyone, Heard, Named, Setting
from compress.validate.proof import verdict_of
from compress.validate.sequential import Looks, plan_looks
from compress.validate.statistics import INCONCLUSIVE, PASS

SEED = 0
"""Of the order of the items."""

First = Callable[[Setting], Heard]
"""The baseline on the items of a setting."""
Next = Callable[[Setting, Named, Heard, bool], Heard]
"""A candidate on the items of a setting, given what the baseline said to them; parity is looked at where wanted."""


def shuffled(setting: Setting) -> Setting:
    """The setting with its items in random order."""
    order = np.random.default_rng(SEED).permutation(len(setting.items))
    return setting.few(order.tolist())


def listen_early(
    setting: Setting, models: Sequence[Named], margins: Mapping[str, float], first: First, then: Next
) -> tuple[Setting, Everyone]:
    """Ask baseline and candidates (from least to most compressed) round by round, and what was asked of whom.

    The baseline is asked no further than the candidate that took longest. Once a candidate did not pass, those behind
    it are asked one round only: they are shown, not judged.
    """
    ends = plan_looks(len(setting.items))
    rounds = [_round(setting, number, *place) for number, place in enumerate(pairwise((0, *ends)))]
    told: list[Heard] = []
    heard: list[Heard] = []
    passing = True
    for model in models:
        parts: list[Heard] = []
        for number, part in enumerate(rounds):
            if number == len(told):
                told.append(first(part))
            parts.append(then(part, model, told[number], number == 0))
            looks = Looks(ends[: number + 1], complete=number + 1 == len(rounds))
            joined = replace(join(parts), looks=looks)
            if not passing or verdict_of(setting, margins, join(told[: number + 1]), joined) != INCONCLUSIVE:
                break
        heard.append(joined)
        passing = passing and verdict_of(setting, margins, join(told), joined) == PASS
    asked = sum(len(part.replies) for part in told)
    return replace(setting, items=setting.items[:asked]), Everyone(join(told), heard)


def _round(setting: Setting, number: int, begin: int, end: int) -> Setting:
    """The items of one round. Drift is measured on the first, which is also the one to be asked twice."""
    scratch = setting.scratch / f"round-{number}"
    scratch.mkdir(exist_ok=True)
    part = replace(setting, items=setting.items[begin:end], scratch=scratch)
    return part if number == 0 else replace(part, drift_rows=0, again_rows=0, wording_rows=0)


def join(parts: Sequence[Heard]) -> Heard:
    """What a model said in several rounds; drift, parity and the like are those of the first."""
    return replace(
        parts[0],
        replies=[reply for part in parts for reply in part.replies],
        guarded=[reply for part in parts for reply in part.guarded],
        longest=max(part.longest for part in parts),
    )
