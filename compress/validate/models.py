"""Runs one model over the items and keeps what it said, so that a killed validation does not ask twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from compress.artifact import Artifact
from compress.json_files import digest_json, write_json
from compress.validate import drift, parity
from compress.validate.answers import Guarded, Score, ask, from_json, guard, guarded, said, score, to_json
from compress.validate.in_torch import HfRunner
from compress.validate.items import Item
from compress.validate.kept import SEGMENT, Cache, Kept
from compress.validate.progress import Phases
from compress.validate.runner import Completion, Runner
from compress.validate.runners import open_runner
from compress.validate.sequential import Looks
from compress.validate.wording import WORDINGS, Reworded, reword
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
    cache: Cache
    """What later validations may use again."""
    again_rows: int = 0
    """Items that the baseline is asked twice."""
    wording_rows: int = 0
    """Of those, items that it is asked again in other wordings."""

    def few(self, rows: Sequence[int]) -> Setting:
        """The same with these items alone."""
        return replace(self, items=[self.items[row] for row in rows])

    def digest(self) -> str:
        """Of everything that the models are asked, and by which rules what they say is guarded."""
        asked = [[i.messages, i.turn.facts, i.turn.labels, i.turn.sources, i.turn.prompted] for i in self.items]
        return digest_json([asked, self.book.digest, self.max_tokens, SEGMENT])


@dataclass(frozen=True)
class Heard:
    """Everything one model said, judged."""

    model: Named
    replies: Sequence[Completion]
    guarded: Sequence[Guarded]
    again: Mapping[int, Completion] = field(default_factory=dict)
    """The baseline's second replies, by the place of their item."""
    forced: Sequence[drift.Forced] = ()
    """The baseline's replies that drift is measured on."""
    vocabulary: int = 0
    longest: int = 0
    """Tokens of the longest prompt."""
    drift: drift.Drift | None = None
    parity: parity.Parity | None = None
    note: str = ""
    reworded: Sequence[Reworded] = ()
    """What the baseline said in other wordings."""
    looks: Looks | None = None
    """After how many items it was judged, where it was asked in rounds."""

    def score(self, setting: Setting) -> Score:
        """The model's own replies, judged."""
        return score(setting.book, setting.items, said(self.replies))

    def to_json(self) -> dict[str, Any]:
        """What is kept in scratch."""
        return {
            "replies": to_json(self.replies),
            "guarded": [[r.text, list(r.interventions)] for r in self.guarded],
            "again": [list(self.again), to_json(list(self.again.values()))],
            "forced": [[list(f.prompt), list(f.reply)] for f in self.forced],
            "vocabulary": self.vocabulary,
            "longest": self.longest,
            "drift": asdict(self.drift) if self.drift else None,
            "parity": asdict(self.parity) if self.parity else None,
            "note": self.note,
            "reworded": [one.to_json() for one in self.reworded],
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
        guarded(value["guarded"]),
        dict(zip(value["again"][0], from_json(value["again"][1]), strict=True)),
        [drift.Forced(tuple(prompt), tuple(reply)) for prompt, reply in value["forced"]],
        value["vocabulary"],
        value["longest"],
        drift.Drift(**value["drift"]) if value["drift"] else None,
        parity.Parity(**value["parity"]) if value["parity"] else None,
        value["note"],
        [Reworded.from_json(one) for one in value["reworded"]],
    )


def once(folder: Path, model: Named, make: Callable[[], Heard]) -> Heard:
    """What was heard from this model before and stands in ``folder``, or ``make()``."""
    path = folder / "heard.json"
    if not path.is_file():
        write_json(path, make().to_json())
        for part in folder.glob("*.jsonl"):  # all of it stands in the other file
            part.unlink()
    return _heard(model, json.loads(path.read_text(encoding="utf-8")))


def units(setting: Setting, *, baseline: bool = False) -> int:
    """The share of the whole that a model takes; the baseline answers some items more than once."""
    count = len(setting.items)
    again = min(setting.again_rows, count)
    more = again + len(WORDINGS) * min(setting.wording_rows, again) if baseline else 0
    return 2 * count + min(setting.drift_rows, count) + parity.PROMPTS + more


def _open(setting: Setting, model: Named, ticks: Phases, context: int | None = None) -> Runner:
    ticks.phase("loading", 0)
    return open_runner(model.artifact.kind, model.artifact.path, threads=setting.threads, many=True, context=context)


def hear_baseline(setting: Setting, model: Named, ticks: Phases, folder: Path) -> Heard:
    """A pass over every item, a second one over some in batches of another composition, and the logits that drift is
    measured from (``folder / LOGITS``)."""
    count = len(setting.items)
    with _open(setting, model, ticks) as runner:
        replies = _ask(setting, runner, folder, ticks, "answers")
        rows = drift.spread_rows(count, setting.again_rows)
        again = _ask(setting.few(rows), runner, folder, ticks, "answers again", regroup=True) if rows else []
        prompts = [tuple(runner.encode(item.messages)) for item in setting.items]
        chosen = drift.spread_rows(count, setting.drift_rows)
        forced = [drift.Forced(prompts[i], replies[i].token_ids) for i in chosen]
        reference = drift.Reference(folder / LOGITS, forced, runner.vocabulary)
        tick = ticks.phase("logits", len(chosen))
        if not reference.recorded():
            reference.record(runner, tick)
        guarded = _guard(setting, runner, replies, folder, ticks)
        longest, note = max(map(len, prompts)), runner.note
        others = _reworded(setting, rows, runner, folder, ticks)
        twice = dict(zip(rows, again, strict=True))
        return Heard(model, replies, guarded, twice, forced, runner.vocabulary, longest, note=note, reworded=others)


def _reworded(setting: Setting, again: Sequence[int], runner: Runner, folder: Path, ticks: Phases) -> list[Reworded]:
    """Some of the items that were asked ``again`` in every wording of ``WORDINGS``."""
    rows = [again[place] for place in drift.spread_rows(len(again), setting.wording_rows)]
    if not rows:
        return []
    found = []
    for number, name in enumerate(WORDINGS):
        tick = ticks.phase("other wordings", len(rows))
        items = reword(setting.few(rows).items, name)
        kept = Kept(folder / f"wording-{number}.jsonl")
        found.append(Reworded(name, rows, said(ask(runner, items, setting.max_tokens, kept, progress=tick))))
    return found


LOGITS = "baseline-logits.f32"


def _ask(
    setting: Setting, runner: Runner, folder: Path, ticks: Phases, phase: str, *, regroup: bool = False
) -> list[Completion]:
    kept, tick = Kept(folder / f"{phase.replace(' ', '-')}.jsonl"), ticks.phase(phase, len(setting.items))
    return ask(runner, setting.items, setting.max_tokens, kept, regroup=regroup, progress=tick)


def _guard(
    setting: Setting, runner: Runner, replies: Sequence[Completion], folder: Path, ticks: Phases
) -> list[Guarded]:
    kept, tick = Kept(folder / "guarded.jsonl"), ticks.phase("rules", len(setting.items))
    return guard(runner, setting.book, setting.items, replies, setting.max_tokens, kept, progress=tick)


def reference_of(setting: Setting, baseline: Heard) -> drift.Reference:
    """The baseline's logits, as the candidates read them."""
    return drift.Reference(setting.scratch / LOGITS, baseline.forced, baseline.vocabulary)


@dataclass(frozen=True)
class Comparison:
    """What a candidate is held against besides the baseline: the weights it was made from."""

    parent: Named | None = None
    """None where the baseline stands in."""
    starts: Callable[[], Sequence[parity.Start]] | None = None
    """How the reference begins its replies; None where there is nothing to compare."""
    proved: parity.Parity | None = None
    """What ``export.parity`` found, instead of ``starts``."""


def hear_candidate(
    setting: Setting, model: Named, baseline: Heard, comparison: Comparison, ticks: Phases, folder: Path
) -> Heard:
    """One pass in the candidate's own runtime, its drift from the baseline, its parity with its reference."""
    starts = comparison.starts() if comparison.starts else ()
    needed = baseline.longest + setting.max_tokens + 1
    with _open(setting, model, ticks, -(-needed // CELLS) * CELLS) as runner:
        replies = _ask(setting, runner, folder, ticks, "answers")
        guarded = _guard(setting, runner, replies, folder, ticks)
        reference = reference_of(setting, baseline)
        moved = drift.measure(reference, runner, ticks.phase("drift", len(reference.rows)))
        compared = comparison.proved
        if starts:
            rows = parity_rows(setting)
            ids = [runner.encode(setting.items[i].messages) for i in rows]
            name = (comparison.parent or baseline.model).name
            same = comparison.parent is not None
            compared = parity.compare(name, starts, ids, [replies[i] for i in rows], same=same)
        return Heard(model, replies, guarded, drift=moved, parity=compared, note=runner.note)


def hear_base(setting: Setting, model: Named, ticks: Phases, folder: Path) -> Heard:
    """One pass of the model before tuning, without the guard: it was never meant to ship."""
    with _open(setting, model, ticks) as runner:
        return Heard(model, _ask(setting, runner, folder, ticks, "answers"), (), note=runner.note)


def parity_rows(setting: Setting) -> list[int]:
    """The items whose prompts and first tokens are compared across formats."""
    return drift.spread_rows(len(setting.items), parity.PROMPTS)


def starts_of(setting: Setting, model: Named, ticks: Phases, folder: Path) -> list[parity.Start]:
    """The reference's side of the parity check, in torch; what stands in ``folder`` is not asked again."""
    path = folder / "starts.npz"
    if not path.is_file():
        prompts = [setting.items[i].messages for i in parity_rows(setting)]
        with _open(setting, model, ticks) as runner:
            assert isinstance(runner, HfRunner)
            tick = ticks.phase(f"first tokens of {model.name}", parity.PROMPTS)
            starts = parity.take_starts(runner, prompts, min(parity.TOKENS, setting.max_tokens), tick)
        parity.save_starts(path, starts)
    return parity.load_starts(path)
