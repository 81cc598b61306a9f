"""Hyper-parameter search: which values to try next, which trainings to end early, and what came of each.

Optuna proposes (tree-structured Parzen estimator, Bergstra et al. 2011) and prunes (a trial whose measurement is worse
than the median of the earlier ones' at that step, Golovin et al. 2017). The study is a JSON file: what is proposed
follows from the trials in it and the seed alone, so a search that was killed goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import launch
from compress.errors import HoldfastError, UsageError
from compress.extras import need
from compress.json_files import write_json
from finetune.train.starting import known

if TYPE_CHECKING:
    from finetune.train.params import Search

STUDY = "study.json"
"""In the artifact and, while a search runs, in its scratch folder."""
ABOVE = {"loss": False, "agreement": True, "held_out": True}
"""What may be measured -> whether more is better."""


class Pruned(HoldfastError):
    """A training that is not worth its end."""


@dataclass(frozen=True)
class Trial:
    """One training and what came of it."""

    values: dict[str, Any]
    state: str
    """done, pruned or diverged."""
    value: float | None
    measured: list[list[float]]
    """``[step, value]`` of each measurement on the way."""


class Study:
    """The trials so far and the one that runs."""

    def __init__(self, how: Search, place: Path, seed: int) -> None:
        self.how, self.place, self.seed = how, place, seed
        self.optuna = need("optuna")
        self.optuna.logging.set_verbosity(self.optuna.logging.ERROR)
        self.trials: list[Trial] = []
        if place.is_file():
            self.trials = [Trial(**trial) for trial in known(place)["trials"]]

    def ask(self) -> dict[str, Any]:
        """The values of the next trial."""
        optuna, kept = self.optuna, self.optuna.trial
        study = optuna.create_study(
            direction="maximize" if ABOVE[self.how.measure] else "minimize",
            sampler=optuna.samplers.TPESampler(seed=self.seed + len(self.trials), n_startup_trials=self.how.random),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=self.how.random, n_min_trials=2)
            if self.how.prune
            else optuna.pruners.NopPruner(),
        )
        spaces = {name: space.distribution(optuna) for name, space in self.how.over.items()}
        for trial in self.trials:
            done = trial.state == "done"
            try:
                past = kept.create_trial(
                    state=kept.TrialState.COMPLETE if done else kept.TrialState.PRUNED,
                    params={name: self.how.over[name].given(value) for name, value in trial.values.items()},
                    distributions=spaces,
                    value=trial.value if done else None,
                    intermediate_values={int(step): value for step, value in trial.measured},
                )
            except (KeyError, ValueError):
                what = f"{self.place} holds a search over other values: a trial had {trial.values}"
                hint = f"remove {self.place.parent}, or give the search.over it began with"
                raise UsageError(what, next=hint) from None
            study.add_trial(past)
        self.running = study.ask(spaces)
        self.measured: list[list[float]] = []
        return {name: self.how.over[name].value(given) for name, given in self.running.params.items()}

    def report(self, step: int, value: float) -> None:
        """A measurement of the running trial. Raises Pruned if it should end."""
        self.measured.append([step, value])
        self.running.report(value, step)
        if self.running.should_prune():
            raise Pruned(f"worse than most trials at step {step}")

    def better(self, value: float) -> bool:
        """Whether ``value`` is better than that of every trial so far."""
        best = self.best()
        if best is None or best.value is None:
            return True
        return value > best.value if ABOVE[self.how.measure] else value < best.value

    def tell(self, values: dict[str, Any], state: str, value: float | None = None) -> None:
        """The running trial has ended."""
        self.trials.append(Trial(values, state, value, self.measured))
        if launch.place().leads:
            write_json(self.place, self.told())

    def told(self) -> dict[str, Any]:
        """The study as it is written."""
        return {"measure": self.how.measure, "trials": [asdict(trial) for trial in self.trials], "best": self.first()}

    def best(self) -> Trial | None:
        """The best trial that came to its end."""
        first = self.first()
        return None if first is None else self.trials[first]

    def first(self) -> int | None:
        """The number of the best trial, the earlier one of equals."""
        sign = -1.0 if ABOVE[self.how.measure] else 1.0
        ended = [(sign * t.value, i) for i, t in enumerate(self.trials) if t.state == "done" and t.value is not None]
        return min(ended, default=(math.inf, None))[1]


def spread(values: Sequence[float]) -> dict[str, float]:
    """``mean`` and ``deviation``, the standard deviation with n − 1 below."""
    mean = math.fsum(values) / len(values)
    square = math.fsum((value - mean) ** 2 for value in values)
    return {"mean": round(mean, 6), "deviation": round(math.sqrt(square / (len(values) - 1)), 6)}
