"""Runs one model over the items and keeps what it said, so that a killed validation does not ask twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compress.artifact import Artifact
from compress.json_files import write_json
from compress.validate import drift, parity
from compress.validate.answers import Guarded, Score, ask, from_json, guard, said, score, to_json
from compress.validate.items import Item
from compress.validate.progress import Phases
from compress.validate.runner import Runner
from compress.validate.runners import Completion, HfRunner, open_runner
from runtime.rules import RuleBook

CELLS = 256
"""llama.cpp rounds a context up to so many tokens."""


@dataclass(frozen=True)
class Named:
    """An artifact under the name that the report calls it by."""

    name: str
    artifact: Artifact


@dataclass(frozen=True)
class Setting:
    """What all models of one validation are asked, and how."""

    book: RuleBook
    items: Sequence[Item]
    scratch: Path
    max_tokens: int
    threads: int
    drift_rows: int


@dataclass(frozen=True)
class Heard:
    """Everything one model said, judged."""

    model: Named
    replies: Sequence[Completion]
    guarded: Sequence[Guarded]
    again: Sequence[Completion] = ()
    """The baseline's second pass."""
    forced: Sequence[drift.Forced] = ()
    """The baseline's replies that drift is measured on."""
    vocabulary: int = 0
    longest: int = 0
    """Tokens of the longest prompt."""
    drift: drift.Drift | None = None
    parity: parity.Parity | None = None
    note: str = ""

    def score(self, setting: Setting) -> Score:
        """The model's own replies, judged."""
        return score(setting.book, setting.items, said(self.replies))

    def to_json(self) -> dict[str, Any]:
        """What is kept in scratch."""
        return {
            "replies": to_json(self.replies),
            "guarded": [[r.text, list(r.interventions)] for r in self.guarded],
            "again": to_json(self.again),
            "forced": [[list(f.prompt), list(f.reply)] for f in self.forced],
            "vocabulary": self.vocabulary,
            "longest": self.longest,
            "drift": asdict(self.drift) if self.drift else None,
            "parity": asdict(self.parity) if self.parity else None,
            "note": self.note,
        }


@dataclass(frozen=True)
class Everyone:
    """All that was heard; the candidates from least to most compressed."""

    baseline: Heard
    candidates: Sequence[Heard]
    base: Heard | None = None
    """The model before tuning, on ``base_items`` only."""
    base_items: Sequence[int] = ()


def _heard(model: Named, value: dict[str, Any]) -> Heard:
    return Heard(
        model,
        from_json(value["replies"]),
        [Guarded(text, tuple(done)) for text, done in value["guarded"]],
        from_json(value["again"]),
        [drift.Forced(tuple(prompt), tuple(reply)) for prompt, reply in value["forced"]],
        value["vocabulary"],
        value["longest"],
        drift.Drift(**value["drift"]) if value["drift"] else None,
        parity.Parity(**value["parity"]) if value["parity"] else None,
        value["note"],
    )


def once(setting: Setting, model: Named, role: str, make: Callable[[], Heard]) -> Heard:
    """What an earlier, killed attempt heard from this model, or ``make()``."""
    path = setting.scratch / f"{role}-{model.name}-{model.artifact.digest[:16]}.json"
    if not path.is_file():
        write_json(path, make().to_json())
    return _heard(model, json.loads(path.read_text(encoding="utf-8")))


def units(setting: Setting, passes: int = 1) -> int:
    """The share of the whole that a model takes which answers ``passes`` times."""
    return (passes + 1) * len(setting.items) + min(setting.drift_rows, len(setting.items)) + parity.PROMPTS


def _open(setting: Setting, model: Named, ticks: Phases, context: int | None = None) -> Runner:
    ticks.phase("loading", 0)
    return open_runner(model.artifact.kind, model.artifact.path, threads=setting.threads, many=True, context=context)


def hear_baseline(setting: Setting, model: Named, ticks: Phases) -> Heard:
    """Two passes over every item in batches of different composition, and the logits that drift is measured from."""
    count = len(setting.items)
    with _open(setting, model, ticks) as runner:
        replies = ask(runner, setting.items, setting.max_tokens, progress=ticks.phase("answers", count))
        again = ask(
            runner, setting.items, setting.max_tokens, regroup=True, progress=ticks.phase("answers again", count)
        )
        prompts = [tuple(runner.encode(item.messages)) for item in setting.items]
        chosen = drift.spread_rows(count, setting.drift_rows)
        forced = [drift.Forced(prompts[i], replies[i].token_ids) for i in chosen]
        _reference(setting, forced, runner.vocabulary).record(runner, ticks.phase("logits", len(chosen)))
        guarded = _guard(setting, runner, replies, ticks)
        longest = max(map(len, prompts))
        return Heard(model, replies, guarded, again, forced, runner.vocabulary, longest, note=runner.note)


def _guard(setting: Setting, runner: Runner, replies: Sequence[Completion], ticks: Phases) -> list[Guarded]:
    tick = ticks.phase("rules", len(setting.items))
    return guard(runner, setting.book, setting.items, replies, setting.max_tokens, progress=tick)


def _reference(setting: Setting, forced: Sequence[drift.Forced], vocabulary: int) -> drift.Reference:
    return drift.Reference(setting.scratch / "baseline-logits.f32", forced, vocabulary)


@dataclass(frozen=True)
class Comparison:
    """What a candidate is held against besides the baseline: the weights it was made from."""

    parent: Named | None = None
    """None where the baseline stands in."""
    starts: Callable[[], Sequence[parity.Start]] | None = None
    """How the reference begins its replies; None where there is nothing to compare."""
    proved: parity.Parity | None = None
    """What ``export.parity`` found, instead of ``starts``."""


def hear_candidate(setting: Setting, model: Named, baseline: Heard, comparison: Comparison, ticks: Phases) -> Heard:
    """One pass in the candidate's own runtime, its drift from the baseline, its parity with its reference."""
    starts = comparison.starts() if comparison.starts else ()
    needed = baseline.longest + setting.max_tokens + 1
    with _open(setting, model, ticks, -(-needed // CELLS) * CELLS) as runner:
        replies = ask(runner, setting.items, setting.max_tokens, progress=ticks.phase("answers", len(setting.items)))
        guarded = _guard(setting, runner, replies, ticks)
        reference = _reference(setting, baseline.forced, baseline.vocabulary)
        moved = drift.measure(reference, runner, ticks.phase("drift", len(reference.rows)))
        compared = comparison.proved
        if starts:
            rows = parity_rows(setting)
            ids = [runner.encode(setting.items[i].messages) for i in rows]
            name = (comparison.parent or baseline.model).name
            same = comparison.parent is not None
            compared = parity.compare(name, starts, ids, [replies[i] for i in rows], same=same)
        return Heard(model, replies, guarded, drift=moved, parity=compared, note=runner.note)


def hear_base(setting: Setting, model: Named, ticks: Phases) -> Heard:
    """One pass of the model before tuning, without the guard: it was never meant to ship."""
    with _open(setting, model, ticks) as runner:
        tick = ticks.phase("answers", len(setting.items))
        return Heard(model, ask(runner, setting.items, setting.max_tokens, progress=tick), (), note=runner.note)


def parity_rows(setting: Setting) -> list[int]:
    """The items whose prompts and first tokens are compared across formats."""
    return drift.spread_rows(len(setting.items), parity.PROMPTS)


def starts_of(setting: Setting, model: Named, ticks: Phases) -> list[parity.Start]:
    """The reference's side of the parity check, in torch."""
    prompts = [setting.items[i].messages for i in parity_rows(setting)]
    with _open(setting, model, ticks) as runner:
        assert isinstance(runner, HfRunner)
        tick = ticks.phase(f"first tokens of {model.name}", parity.PROMPTS)
        return parity.take_starts(runner, prompts, min(parity.TOKENS, setting.max_tokens), tick)
