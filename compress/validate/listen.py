"""Who is asked, in which order, and what is compared with what."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from compress.stage import Job
from compress.validate.drift import spread_rows
from compress.validate.early import listen_early, shuffled
from compress.validate.items import load_items
from compress.validate.kept import Cache, take
from compress.validate.models import (
    LOGITS,
    Comparison,
    Everyone,
    Heard,
    Named,
    Setting,
    hear_base,
    hear_baseline,
    hear_candidate,
    once,
    starts_of,
    units,
)
from compress.validate.parity import Start
from compress.validate.progress import Phases, Ticker
from compress.validate.proved import find_proved
from compress.validate.remembered import remember
from compress.validate.runners import TORCH as IN_TORCH
from runtime.rules import load_rules

if TYPE_CHECKING:
    from compress.validate.params import ValidateParams


def make_setting(job: Job[ValidateParams]) -> Setting:
    """The rule book and the items of a job that passed ``check``."""
    assert job.rules is not None
    assert job.data is not None
    book = remember(load_rules(job.rules))
    items = load_items(job.data.path / "eval.jsonl", book)
    cache = Cache(job.cache or job.scratch / "cache")
    p = job.params
    rows = (p.again_rows, p.wording_rows)
    return Setting(book, items, job.scratch, p.max_tokens, job.threads, p.drift_rows, cache, *rows)


def listen(
    job: Job[ValidateParams], setting: Setting, margins: Mapping[str, float], ticker: Ticker
) -> tuple[Setting, Everyone]:
    """Ask every model; also the setting, whose items are those that were asked, in their order. What an earlier, killed
    attempt heard is not asked again, nor what an earlier validation heard of the same baseline."""
    baseline = Named(_name(job.params.baseline, "baseline"), job.refs["baseline"])
    models = [Named(name, artifact) for name, artifact in zip(job.names, job.inputs, strict=True)]
    models.sort(key=lambda m: (-m.artifact.size_bytes(), m.name))

    def first(part: Setting) -> Heard:
        ticks = ticker.of(baseline.name, units(part, baseline=True))
        rows = {"drift": part.drift_rows, "again": part.again_rows, "wording": part.wording_rows}
        with _folder(part, "baseline", baseline, **rows) as folder:
            if not (folder / LOGITS).is_file():
                (folder / "heard.json").unlink(missing_ok=True)
            told = once(folder, baseline, lambda: hear_baseline(part, baseline, ticks, folder))
            take(folder / LOGITS, part.scratch / LOGITS)
            return told

    def then(part: Setting, model: Named, told: Heard, compared: bool = True) -> Heard:
        ticks = ticker.of(model.name, units(part))
        against = _comparison(job, part, model, baseline, ticks) if compared else Comparison()
        place = part.scratch / f"{model.name}-{model.artifact.digest[:16]}"
        place.mkdir(exist_ok=True)
        return once(place, model, partial(hear_candidate, part, model, told, against, ticks, place))

    if job.params.sequential:
        setting, everyone = listen_early(shuffled(setting), models, margins, first, then)
    else:
        told = first(setting)
        everyone = Everyone(told, [then(setting, model, told) for model in models])
    base, rows = _listen_base(job, setting, ticker)
    return setting, replace(everyone, base=base, base_items=rows)


def _folder(setting: Setting, what: str, model: Named, **more: int) -> AbstractContextManager[Path]:
    """Where what is heard of a model stands for this validation and later ones that ask the same."""
    told = {"what": what, "format": FORMAT, "model": model.artifact.digest, "kind": model.artifact.kind}
    return setting.cache.folder({**told, "asked": setting.digest(), **more}, LIBRARIES)


FORMAT = 3
"""Raise it when what is kept of a model would be read or made otherwise."""
LIBRARIES = ("llama-cpp-python", "onnxruntime-genai", "torch", "transformers")


def total_units(job: Job[ValidateParams], setting: Setting) -> int:
    """What all models together take."""
    base = min(len(setting.items), job.params.base_rows) if "base" in job.refs else 0
    return units(setting, baseline=True) + len(job.inputs) * units(setting) + base


def _comparison(
    job: Job[ValidateParams],
    setting: Setting,
    model: Named,
    baseline: Named,
    ticks: Phases,
) -> Comparison:
    """What ``export.parity`` found where it ran on this file and these weights; otherwise the reference begins to
    answer. Nothing to compare where the candidate runs in torch itself."""
    parent = _parent(job, model)
    reference = parent or baseline
    if model.artifact.kind in IN_TORCH or reference.artifact.kind not in IN_TORCH:
        return Comparison(parent)
    proved = find_proved(
        [*job.refs.values(), *job.ancestors.values()], model.artifact.digest, reference.artifact.digest
    )
    if proved is not None:
        return Comparison(parent, proved=proved)

    def starts() -> list[Start]:
        with _folder(setting, "starts", reference) as folder:
            return starts_of(setting, reference, ticks, folder)

    return Comparison(parent, starts)


def _listen_base(job: Job[ValidateParams], setting: Setting, ticker: Ticker) -> tuple[Heard | None, list[int]]:
    """The model before tuning answers fewer items: an untuned model rambles to the token limit."""
    if "base" not in job.refs:
        return None, []
    base = Named(_name(job.params.base or "base", "base"), job.refs["base"])
    rows = spread_rows(len(setting.items), job.params.base_rows)
    few = setting.few(rows)
    with _folder(few, "base", base) as folder:
        return once(folder, base, lambda: hear_base(few, base, ticker.of(base.name, len(rows)), folder)), rows


def _name(reference: str, role: str) -> str:
    """A stage's id; artifacts given by path alone are called by their role."""
    return role if reference.startswith("ref-") else reference


def _parent(job: Job[ValidateParams], model: Named) -> Named | None:
    """The Hugging Face weights that an exported candidate was made from."""
    if model.artifact.kind in IN_TORCH:
        return None
    made_from = set((model.artifact.record.get("inputs") or {}).values())
    for name, artifact in sorted(job.ancestors.items()):
        if artifact.kind in IN_TORCH and artifact.digest in made_from:
            return Named(name, artifact)
    return None
