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
from compress.validate.runners import Completion, HfRunner, open_runner
from runtime.rules import RuleBook

Tick = Callable[[int, int], None]


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


def hear_baseline(setting: Setting, model: Named, tick: Tick) -> Heard:
    """Two passes over every item in batches of different composition, and the logits that drift is measured from."""
    with open_runner(model.artifact.kind, model.artifact.path, threads=setting.threads) as runner:
        replies = ask(runner, setting.items, setting.max_tokens, progress=tick)
        again = ask(runner, setting.items, setting.max_tokens, regroup=True, progress=tick)
        chosen = drift.spread_rows(len(replies), setting.drift_rows)
        forced = [drift.Forced(tuple(runner.encode(setting.items[i].messages)), replies[i].token_ids) for i in chosen]
        vocabulary = runner.logits(forced[0].prompt).shape[1] if forced else 0
        _reference(setting, forced, vocabulary).record(runner)
        guarded = guard(runner, setting.book, setting.items, replies, setting.max_tokens)
        return Heard(model, replies, guarded, again, forced, vocabulary, note=runner.note)


def _reference(setting: Setting, forced: Sequence[drift.Forced], vocabulary: int) -> drift.Reference:
    return drift.Reference(setting.scratch / "baseline-logits.f32", forced, vocabulary)


def hear_candidate(
    setting: Setting, model: Named, baseline: Heard, parent: Named | None, starts: Sequence[parity.Start], tick: Tick
) -> Heard:
    """One pass in the candidate's own runtime, its drift from the baseline, its parity with ``starts``."""
    prompts = [setting.items[i].messages for i in parity_rows(setting)]
    with open_runner(model.artifact.kind, model.artifact.path, threads=setting.threads) as runner:
        replies = ask(runner, setting.items, setting.max_tokens, progress=tick)
        guarded = guard(runner, setting.book, setting.items, replies, setting.max_tokens)
        moved = drift.measure(_reference(setting, baseline.forced, baseline.vocabulary), runner)
        compared = None
        if starts:
            same = parent is not None
            ids = [runner.encode(messages) for messages in prompts]
            begun = [replies[i] for i in parity_rows(setting)]
            name = parent.name if parent else baseline.model.name
            compared = parity.compare(name, starts, ids, begun, same=same)
        return Heard(model, replies, guarded, drift=moved, parity=compared, note=runner.note)


def hear_base(setting: Setting, model: Named, tick: Tick) -> Heard:
    """One pass of the model before tuning, without the guard: it was never meant to ship."""
    with open_runner(model.artifact.kind, model.artifact.path, threads=setting.threads) as runner:
        return Heard(model, ask(runner, setting.items, setting.max_tokens, progress=tick), (), note=runner.note)


def parity_rows(setting: Setting) -> list[int]:
    """The items whose prompts and first tokens are compared across formats."""
    return drift.spread_rows(len(setting.items), parity.PROMPTS)


def starts_of(setting: Setting, model: Named) -> list[parity.Start]:
    """The reference's side of the parity check, in torch."""
    with open_runner(model.artifact.kind, model.artifact.path, threads=setting.threads) as runner:
        if not isinstance(runner, HfRunner):
            return []
        return parity.take_starts(runner, [setting.items[i].messages for i in parity_rows(setting)])
