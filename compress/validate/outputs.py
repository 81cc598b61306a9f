"""The files beside ``proof.json``: every reply, and the readings of the machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.stage import Job
from compress.validate.drift import spread_rows
from compress.validate.items import Item
from compress.validate.models import Heard, Setting
from compress.validate.progress import Ticker

if TYPE_CHECKING:
    from compress.validate.params import ValidateParams


def write_replies(folder: Path, setting: Setting, heard: Sequence[Heard]) -> None:
    """Every reply in the recorded format: one row per item that was asked, as the model wrote it and as the guard let
    it out."""
    folder.mkdir()
    for one in heard:
        plain, items = [(reply.text, reply.truncated) for reply in one.replies], setting.items[: len(one.replies)]
        _write_rows(folder / f"{one.model.name}.jsonl", items, plain)
        _write_rows(folder / f"{one.model.name}.enforced.jsonl", items, [(r.text, False) for r in one.guarded])


def _write_rows(path: Path, items: Sequence[Item], replies: Sequence[tuple[str, bool]]) -> None:
    with open(path, "w", encoding="utf-8") as handle:
        for item, (text, truncated) in zip(items, replies, strict=True):
            row = {"id": item.id, "messages": [dict(m) for m in item.messages], "reply": text, "truncated": truncated}
            sources = [{"id": name, "text": text} for name, text in item.turn.sources]
            turn, expected = item.turn, {"answer": item.answer, "match": item.match}
            known = {"facts": turn.facts, "labels": turn.labels, "prompted": turn.prompted, "sources": sources}
            known |= {"expected": expected, "cluster": item.cluster}
            row |= {name: value for name, value in known.items() if value}
            handle.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")


BENCH_UNITS = 16
"""The share of the progress that timing one model takes."""


def bench_units(job: Job[ValidateParams]) -> int:
    """What the timings of all models take of the progress."""
    return BENCH_UNITS * (len(job.inputs) + 1) if job.params.bench_runs else 0


def timings(job: Job[ValidateParams], setting: Setting, heard: Sequence[Heard], ticker: Ticker) -> dict[str, Any]:
    """Latency, speed and memory of the baseline and every candidate, with the machine they were taken on."""
    from compress.validate.bench import bench

    chosen = spread_rows(len(setting.items), job.params.bench_runs + 1)
    prompts = [setting.items[row].messages for row in chosen]
    found = {}
    for one in heard if job.params.bench_runs else ():
        path, name = one.model.artifact.path, one.model.name
        tick = ticker.of(name, BENCH_UNITS).phase("timings", BENCH_UNITS)
        runs = job.params.bench_runs
        found[name] = bench(path, prompts=prompts, runs=runs, threads=job.threads, progress=tick)
    machine = {"cpus": os.cpu_count(), "platform": platform.platform(), "threads": job.threads}
    return {"bench": found, "machine": machine}
