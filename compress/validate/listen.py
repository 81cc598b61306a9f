"""Who is asked, in which order, and what is compared with what."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from compress.stage import Job
from compress.validate.drift import spread_rows
from compress.validate.items import load_items
from compress.validate.models import (
    Everyone,
    Heard,
    Named,
    Setting,
    Tick,
    hear_base,
    hear_baseline,
    hear_candidate,
    once,
    starts_of,
)
from compress.validate.parity import Start
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


def listen(job: Job[ValidateParams], setting: Setting) -> Everyone:
    """Ask every model. A model that an earlier, killed attempt finished is not asked again."""
    baseline = Named(_name(job.params.baseline, "baseline"), job.refs["baseline"])
    models = [Named(name, artifact) for name, artifact in zip(job.names, job.inputs, strict=True)]
    models.sort(key=lambda m: (-m.artifact.size_bytes(), m.name))
    tick = _Ticker(job, len(setting.items), len(models))
    first = once(setting, baseline, "baseline", lambda: hear_baseline(setting, baseline, tick.of(baseline.name, 2)))
    references: dict[str, list[Start]] = {}
    heard = []
    for model in models:
        parent, ticks = _parent(job, model), tick.of(model.name)
        ask = partial(_ask, setting, model, first, parent, references, ticks)
        heard.append(once(setting, model, "candidate", ask))
    base, rows = _listen_base(job, setting, tick)
    return Everyone(first, heard, base, rows)


def _ask(
    setting: Setting, model: Named, baseline: Heard, parent: Named | None, kept: dict[str, list[Start]], tick: Tick
) -> Heard:
    starts = _starts(setting, model, parent or baseline.model, kept)
    return hear_candidate(setting, model, baseline, parent, starts, tick)


def _listen_base(job: Job[ValidateParams], setting: Setting, tick: _Ticker) -> tuple[Heard | None, list[int]]:
    """The model before tuning answers fewer items: an untuned model rambles to the token limit."""
    if "base" not in job.refs:
        return None, []
    base = Named(_name(job.params.base or "base", "base"), job.refs["base"])
    rows = spread_rows(len(setting.items), job.params.base_rows)
    few = replace(setting, items=[setting.items[row] for row in rows])
    return once(setting, base, "base", lambda: hear_base(few, base, tick.of(base.name))), rows


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


def _starts(setting: Setting, model: Named, reference: Named, kept: dict[str, list[Start]]) -> list[Start]:
    """How the reference begins its replies; nothing to compare where the candidate runs in torch itself."""
    if model.artifact.kind in IN_TORCH or reference.artifact.kind not in IN_TORCH:
        return []
    if reference.artifact.digest not in kept:
        kept[reference.artifact.digest] = starts_of(setting, reference)
    return kept[reference.artifact.digest]


class _Ticker:
    """Turns the progress of one pass into the progress of the stage."""

    def __init__(self, job: Job[ValidateParams], items: int, candidates: int) -> None:
        self.job, self.items, self.done = job, items, 0
        self.total = items * (2 + candidates) + (min(items, job.params.base_rows) if "base" in job.refs else 0)

    def of(self, name: str, passes: int = 1) -> Tick:
        """The progress function of one model that goes over its items ``passes`` times."""
        start, before, finished = self.done, 0, 0
        self.done += self.items * passes

        def tick(done: int, total: int) -> None:
            nonlocal before, finished
            if done < before:
                finished += total
            before = done
            self.job.progress(min(start + finished + done, self.total), self.total, name)

        return tick
