"""Who is asked, in which order, and what is compared with what."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from compress.stage import Job
from compress.validate.drift import spread_rows
from compress.validate.items import load_items
from compress.validate.models import (
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
from runtime.rules import load_rules

if TYPE_CHECKING:
    from compress.validate.params import ValidateParams

IN_TORCH = ("hf", "gptq")


def make_setting(job: Job[ValidateParams]) -> Setting:
    """The rule book and the items of a job that passed ``check``."""
    assert job.rules is not None
    assert job.data is not None
    book = load_rules(job.rules)
    items = load_items(job.data.path / "eval.jsonl", book)
    return Setting(book, items, job.scratch, job.params.max_tokens, job.threads, job.params.drift_rows)


def listen(job: Job[ValidateParams], setting: Setting, ticker: Ticker) -> Everyone:
    """Ask every model. A model that an earlier, killed attempt finished is not asked again."""
    baseline = Named(_name(job.params.baseline, "baseline"), job.refs["baseline"])
    models = [Named(name, artifact) for name, artifact in zip(job.names, job.inputs, strict=True)]
    models.sort(key=lambda m: (-m.artifact.size_bytes(), m.name))
    ticks = ticker.of(baseline.name, units(setting, 2))
    first = once(setting, baseline, "baseline", lambda: hear_baseline(setting, baseline, ticks))
    references: dict[str, list[Start]] = {}
    heard = []
    for model in models:
        ticks = ticker.of(model.name, units(setting))
        against = _comparison(job, setting, model, baseline, references, ticks)
        ask = partial(hear_candidate, setting, model, first, against, ticks)
        heard.append(once(setting, model, "candidate", ask))
    base, rows = _listen_base(job, setting, ticker)
    return Everyone(first, heard, base, rows)


def total_units(job: Job[ValidateParams], setting: Setting) -> int:
    """What all models together take."""
    base = min(len(setting.items), job.params.base_rows) if "base" in job.refs else 0
    return units(setting, 2) + len(job.inputs) * units(setting) + base


def _comparison(
    job: Job[ValidateParams],
    setting: Setting,
    model: Named,
    baseline: Named,
    kept: dict[str, list[Start]],
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
        if reference.artifact.digest not in kept:
            kept[reference.artifact.digest] = starts_of(setting, reference, ticks)
        return kept[reference.artifact.digest]

    return Comparison(parent, starts)


def _listen_base(job: Job[ValidateParams], setting: Setting, ticker: Ticker) -> tuple[Heard | None, list[int]]:
    """The model before tuning answers fewer items: an untuned model rambles to the token limit."""
    if "base" not in job.refs:
        return None, []
    base = Named(_name(job.params.base or "base", "base"), job.refs["base"])
    rows = spread_rows(len(setting.items), job.params.base_rows)
    few = replace(setting, items=[setting.items[row] for row in rows])
    return once(setting, base, "base", lambda: hear_base(few, base, ticker.of(base.name, len(rows)))), rows


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
