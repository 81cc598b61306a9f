"""Stage ``data.world``: the demo's data, made by us: no one's personal data, no licence, no download.

Training and evaluation are drawn from two sides of a split by scenario (``finetune.world.scenes``), and the
stage asserts that no scenario and no near-duplicate text is on both.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from compress.costs import WORKER, Work
from compress.errors import DataError
from compress.outline import SAMPLE, Outline, Split
from compress.stage import Job, JobOutline, Needs, Params, Stage
from finetune.world import scenes
from runtime.rules import RuleBook, Turn, load_rules

EVALUATION_MIX = {
    "legal": 310, "human": 310, "disallowed": 310, "plain": 190, "legal_near": 70, "human_near": 70, "allowed": 60,
}  # fmt: skip
"""Items per kind in 1,320: each escalation and the refusal in more than the 299 that a bound of 1 % needs."""
SMALL_MIX = {
    "legal": 70, "human": 65, "disallowed": 70, "plain": 100, "legal_near": 115, "human_near": 115, "allowed": 65,
}  # fmt: skip
"""Items per kind in 600. With fewer than ``FEW`` items in all, every rule is in force in the 59 that a margin of 5
points needs (one in a seventh to a quarter of the plain items and near misses: about 70)."""
FEW = 1300
TRAINING_MIX = {"plain": 5, "legal": 3, "human": 3, "disallowed": 3, "legal_near": 3, "human_near": 3, "allowed": 3}

ROW_S = 0.00023
"""Seconds of the interpreter for a row."""
ROW_BYTES = 1000
"""Bytes of a row in memory that the worker does not have anyway."""

Row = dict[str, Any]


class WorldParams(Params):
    train: int = Field(4800, ge=1)
    """Training conversations."""
    calibration: int = Field(420, ge=1)
    """Conversations for calibration: drawn like the training ones, with their answers."""
    evaluation: int = Field(1320, ge=1)
    """Evaluation items, all from held-out scenarios."""
    wordings: Literal["shared", "held_out"] = "shared"
    """held_out (the hard form, for models that know English): threats, wishes and requests of the evaluation are worded
    as none in training is."""


class WorldData(Stage[WorldParams]):
    """Writes train.jsonl, calibration.jsonl and eval.jsonl of a made-up customer service."""

    Params = WorldParams
    accepts = frozenset()
    version = 5
    produces = "data"
    uses = frozenset({"rules"})

    def outline(self, job: JobOutline[WorldParams]) -> Outline:
        """A few rows of each split, made as all will be, stand for them."""
        book, p = _rules(job.rules), job.params
        make = partial(make_rows, book, random.Random(f"outline {job.seed}"), hard=p.wordings == "held_out")
        asked = {"train": p.train, "calibration": p.calibration, "eval": p.evaluation}
        splits = {}
        for name, count in asked.items():
            held = name == "eval"
            rows = make(evaluation_mix(p.evaluation) if held else TRAINING_MIX, min(count, SAMPLE), evaluation=held)
            written = [question_row(row) if held else plain_row(row) for row in rows]
            size = sum(len(_line(row)) for row in written)
            splits[name] = Split(count, size * count // len(rows), written)
        return Outline("data", sum(split.disk_bytes for split in splits.values()), splits=splits)

    def needs(self, job: JobOutline[WorldParams]) -> Needs:
        """Rows in memory; each is drawn, judged by every rule and written."""
        p = job.params
        rows = p.train + p.calibration + p.evaluation
        return Needs(self.outline(job).disk_bytes, WORKER + rows * ROW_BYTES, Work(python=rows * ROW_S))

    def run(self, job: Job[WorldParams]) -> Mapping[str, Any]:
        book, p = _rules(job.rules), job.params
        make = partial(make_rows, book, hard=p.wordings == "held_out")
        train = make(random.Random(f"train {job.seed}"), TRAINING_MIX, p.train, evaluation=False)
        calibration = make(random.Random(f"calibration {job.seed}"), TRAINING_MIX, p.calibration, evaluation=False)
        held = make(
            random.Random(f"evaluation {job.seed}"), evaluation_mix(p.evaluation), p.evaluation, evaluation=True
        )
        job.progress(1, 1, "checking the split")
        assert_disjoint(train + calibration, held)
        assert_kept(book, train + calibration + held)
        _write(job.out / "train.jsonl", (plain_row(row) for row in train))
        _write(job.out / "calibration.jsonl", (plain_row(row) for row in calibration))
        _write(job.out / "eval.jsonl", (question_row(row) for row in held))
        return _facts(book, train, calibration, held)


def _rules(path: Path | None) -> RuleBook:
    if path is None:
        raise DataError("data.world", None, "needs a rule file", next="name it under rules: in the pipeline file")
    return load_rules(path)


def evaluation_mix(count: int) -> Mapping[str, int]:
    """The kinds of ``count`` evaluation items."""
    return SMALL_MIX if count < FEW else EVALUATION_MIX


def make_rows(
    book: RuleBook, rng: random.Random, mix: Mapping[str, int], count: int, *, evaluation: bool, hard: bool = False
) -> list[Row]:
    """``count`` different rows whose kinds are in the proportions of ``mix``, shuffled."""
    kinds = _apportion(mix, count)
    rows: list[Row] = []
    seen: set[str] = set()
    for kind in kinds:
        for _ in range(1000):
            row = scene_row(book, scenes.draw(rng, kind, evaluation, hard=hard))
            if row["text"] not in seen:
                break
        else:
            raise DataError(
                "data.world", None, f"the world has fewer than {count} different messages", next="ask for fewer"
            )
        seen.add(row["text"])
        rows.append(row)
    rng.shuffle(rows)
    width = len(str(count))
    return [{"id": f"{'e' if evaluation else 't'}{i:0{width}d}", **row} for i, row in enumerate(rows)]


def _apportion(mix: Mapping[str, int], count: int) -> list[str]:
    """``count`` kinds, as near to the mix as whole numbers get (largest remainders)."""
    total = sum(mix.values())
    exact = {kind: count * weight / total for kind, weight in mix.items()}
    whole = {kind: int(value) for kind, value in exact.items()}
    for kind in sorted(mix, key=lambda k: (whole[k] - exact[k], k))[: count - sum(whole.values())]:
        whole[kind] += 1
    return [kind for kind in mix for _ in range(whole[kind])]


def scene_row(book: RuleBook, scene: scenes.Scene) -> Row:
    """A scene as a row, with ``scenario`` and ``text`` (the normalised message) for the split's check."""
    message = scenes.user_text(scene)
    known = scenes.facts(scene)
    return {
        "messages": [
            {"role": "system", "content": book.system_prompt(known, scene.prompted)},
            {"role": "user", "content": message},
            {"role": "assistant", "content": scenes.answer(scene)},
        ],
        "facts": known,
        "kind": scene.kind,
        "labels": [label for label in scenes.labels(scene) if label in book.labels],
        "prompted": list(scene.prompted),
        "expected": {"answer": scenes.decision(scene), "match": "json"},
        "scenario": scene.scenario,
        "text": normalise(message),
    }


def normalise(text: str) -> str:
    """Lower case, letters and digits only, single spaces: what a near-duplicate shares."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def plain_row(row: Row) -> Row:
    """A training row: ends with the answer."""
    return {k: v for k, v in row.items() if k not in ("expected", "kind", "scenario", "text")}


def question_row(row: Row) -> Row:
    """An evaluation row: ends with the question; its scenario is its cluster only where scenarios repeat."""
    return {k: v for k, v in row.items() if k not in ("kind", "scenario", "text", "messages")} | {
        "messages": row["messages"][:-1]
    }


def assert_disjoint(train: Iterable[Row], evaluation: Iterable[Row]) -> None:
    """No scenario, message, name, order number or policy id of the evaluation occurs in training."""
    train, evaluation = list(train), list(evaluation)
    for key in ("scenario", "text"):
        both = {row[key] for row in train} & {row[key] for row in evaluation}
        assert not both, f"{key} on both sides of the split: {sorted(both)[:3]}"
    policies = {row["facts"]["policy"] for row in train} & {row["facts"]["policy"] for row in evaluation}
    assert not policies, f"policy on both sides of the split: {sorted(policies)[:3]}"


def assert_kept(book: RuleBook, rows: Iterable[Row]) -> None:
    """Every answer that is taught or expected passes every rule in force."""
    for row in rows:
        verdicts = book.check(Turn.from_row(row), row["messages"][-1]["content"])
        broken = [f"{v.rule}: {v.why}" for v in verdicts if not v.passed]
        if broken:
            what = f"the world's own answer to {row['messages'][-2]['content']!r} breaks {broken}"
            hint = "use configs/rules/customer_service.yaml, or bring your own data with data.files"
            raise DataError("data.world", None, what, next=hint)


def _facts(book: RuleBook, train: list[Row], calibration: list[Row], held: list[Row]) -> dict[str, Any]:
    active = Counter(rule.id for row in held for rule in book.active(Turn.from_row(row)))
    counts = {"train": len(train), "calibration": len(calibration), "evaluation": len(held)}
    kinds = Counter(row["kind"] for row in held)
    return {**counts, "evaluation_kinds": dict(sorted(kinds.items())), "rules_active": dict(sorted(active.items()))}


def _write(path: Path, rows: Iterable[Row]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        for row in rows:
            handle.write(_line(row))


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n"
