"""Several trainings of one stage: the trials of a search, the folds of a cross-validation.

Each works in a folder of its own below the stage's scratch folder, continues from its checkpoints there, and leaves
nothing behind but its figures; of a search the best model stays.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from compress import launch
from compress.errors import HoldfastError
from compress.json_files import write_json
from compress.stage import Job
from finetune.train import together
from finetune.train.searching import STUDY, Pruned, Study, spread
from finetune.train.starting import known
from finetune.train.training import Result
from finetune.train.watching import Diverged

Judge = Callable[[int, float, float | None], None]
"""Told the step, loss and agreement of each measurement; raises ``Pruned``."""
FOLDS = "folds.json"


class Trained(Protocol):
    """What a stage offers to those who run it several times."""

    def tune(
        self, job: Job[Any], judge: Judge | None = None, fold: tuple[int, int] | None = None
    ) -> tuple[Result, dict[str, Any]]: ...

    def finish(self, job: Job[Any], result: Result, facts: Mapping[str, Any]) -> dict[str, Any]: ...


def search(stage: Trained, job: Job[Any]) -> dict[str, Any]:
    """Train once for each trial; the best model comes to ``job.out``, its facts are returned."""
    how = job.params.search
    study = Study(how, job.scratch / STUDY, job.seed)
    while len(study.trials) < how.trials:
        _clear(job, study)
        _trial(stage, job, study)
    best = study.first()
    if best is None:
        what = f"none of {how.trials} trials came to its end: all diverged"
        raise HoldfastError(what, next="lower the ranges under search.over")
    facts: dict[str, Any] = {}
    if launch.place().leads:
        folder = _folder(job, best)
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        for path in sorted((folder / "out").iterdir()):
            shutil.move(path, job.out / path.name)
        write_json(job.out / STUDY, study.told())
    states = [trial.state for trial in study.trials]
    counts = {state: states.count(state) for state in sorted(set(states))}
    chosen = study.trials[best]
    found = {"trials": counts, "best": best, "values": chosen.values, "measure": how.measure, "value": chosen.value}
    return facts | {"search": found | {"optuna": study.optuna.__version__}}


def _folder(job: Job[Any], number: int) -> Path:
    return job.scratch / f"trial-{number}"


def _clear(job: Job[Any], study: Study) -> None:
    """Keep the best trial's folder and that of the one to come."""
    kept = {f"trial-{number}" for number in (study.first(), len(study.trials))}
    for folder in job.scratch.glob("trial-*"):
        if folder.name not in kept and launch.place().leads:
            shutil.rmtree(folder)


def _trial(stage: Trained, job: Job[Any], study: Study) -> None:
    number, values = len(study.trials), study.ask()
    label = f"trial {number + 1} of {study.how.trials}"
    inner = _inside(job, _folder(job, number), label, job.params.with_values(values))

    def judge(step: int, loss: float, agreement: float | None) -> None:
        value = {"loss": loss, "agreement": agreement}.get(study.how.measure)
        if value is not None:
            study.report(step, value)

    try:
        result, facts = stage.tune(inner, judge)
    except (Pruned, Diverged) as error:
        together.leave()
        study.tell(values, "pruned" if isinstance(error, Pruned) else "diverged")
        return
    value = _value(study.how.measure, facts)
    if study.better(value) and launch.place().leads:
        write_json(_folder(job, number) / "facts.json", stage.finish(inner, result, facts))
    elif result.logs is not None:
        result.logs.close()
    study.tell(values, "done", value)


def _value(measure: str, facts: dict[str, Any]) -> float:
    if measure == "held_out":
        return round(facts["held_out"]["agrees"] / facts["held_out"]["n"], 6)
    name = {"loss": "validation_loss", "agreement": "validation_agreement"}[measure]
    if facts.get(name) is None:
        what = f"search.measure is {measure}, and the training does not measure it"
        raise HoldfastError(what, next="set validation.every to at most the number of steps, or measure: loss")
    return float(facts[name])


def folds(stage: Trained, job: Job[Any]) -> dict[str, Any]:
    """Train on all parts of the data but one and measure that one, for each part; the figures as facts."""
    count = job.params.cross_validation.folds
    place = job.scratch / FOLDS
    done = known(place) if place.is_file() else []
    for number in range(len(done), count):
        folder = job.scratch / f"fold-{number}"
        params = job.params.model_copy(update={"validation": None, "cross_validation": None})
        label = f"fold {number + 1} of {count}"
        try:
            _, facts = stage.tune(_inside(job, folder, label, params), fold=(number, count))
        except Diverged as error:
            raise Diverged(f"{label}: {error.what}", next="lower rate") from None
        names = {"loss": "validation_loss", "agreement": "validation_agreement", "n": "validation_n"}
        done.append({name: facts[key] for name, key in names.items() if facts.get(key) is not None})
        if launch.place().leads:
            write_json(place, done)
            shutil.rmtree(folder)
    figures = [name for name in ("loss", "agreement") if name in done[0]]
    return {"cross_validation": {"folds": done} | {name: spread([fold[name] for fold in done]) for name in figures}}


def _inside(job: Job[Any], folder: Path, label: str, params: Any) -> Job[Any]:
    """The job of one training in ``folder``, whose ``out`` starts empty."""
    out = folder / "out" if launch.place().leads else job.out / folder.name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    def progress(done: int, total: int, note: str = "") -> None:
        job.progress(done, total, f"{label}: {note}")

    return replace(job, params=params, out=out, scratch=folder, progress=progress)
