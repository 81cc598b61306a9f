"""What comparisons of training methods share: running a stage, asking its model in the runtime, counting."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

Replies = list[tuple[str, bool]]
GENERAL_LENGTH = 256
"""Tokens of a window of general text."""


@dataclass(frozen=True)
class Took:
    """Seconds on the clock, and of all processors together (with those of processes that were started)."""

    wall: float
    cpu: float


def run_stage(name: str, params: Mapping[str, Any], base: Path, data: Path, rules: Path | None, place: Path) -> Took:
    """Run ``name`` on ``base`` into ``place / "out"``, unless it is there; what it took."""
    from compress.artifact import open_artifact, seal
    from compress.registry import load_stage
    from compress.stage import Job

    out, scratch, took = place / "out", place / "scratch", place / "seconds.json"
    if took.is_file():
        return Took(**json.loads(took.read_text()))
    shutil.rmtree(place, ignore_errors=True)
    for part in (out, scratch):
        part.mkdir(parents=True)
    stage = load_stage(name)
    rows = seal(data, kind="data", stage="benchmark", stage_version=1, params={}, inputs={}, facts={})
    told = f"{place.name}: {name}"
    job = Job(
        params=stage.Params(**params),
        out=out,
        scratch=scratch,
        inputs=(open_artifact(base),),
        data=rows,
        rules=rules,
        seed=17,
        threads=1,
        progress=lambda done, total, note="": print(f"\r{told} {done}/{total} {note}    ", end="", file=sys.stderr),
    )
    stage.check(job)
    before, started = os.times(), time.monotonic()
    facts = stage.run(job)
    wall, after = time.monotonic() - started, os.times()
    found = Took(round(wall, 1), round(sum(after[:4]) - sum(before[:4]), 1))
    print(f"\n{told} {found} {json.dumps(facts)}", file=sys.stderr)
    shutil.rmtree(scratch)
    took.write_text(json.dumps(asdict(found)))
    return found


def subset(data: Path, rows: int, place: Path) -> Path:
    """The first ``rows`` training rows of ``data``, and its evaluation."""
    place.mkdir(parents=True, exist_ok=True)
    lines = (data / "train.jsonl").read_text().splitlines(keepends=True)
    (place / "train.jsonl").write_text("".join(lines[:rows]))
    shutil.copyfile(data / "eval.jsonl", place / "eval.jsonl")
    return place


def answer(folder: Path, items: Sequence[Any], place: Path, *, max_tokens: int = 160) -> Replies:
    """Raw greedy replies of a Hugging Face folder, as a Q8_0 file in the runtime; kept in ``place``."""
    from export.gguf.snapshot import write_snapshot
    from runtime.engine.template import STILL
    from runtime.session import load

    known = place / "replies.json"
    if known.is_file():
        return [(text, cut) for text, cut in json.loads(known.read_text())]
    place.mkdir(parents=True, exist_ok=True)
    file = place / "asked.gguf"
    write_snapshot(folder, file, "Q8_0")
    with load(file, context=512, slots=64) as session:
        prompts = [session.encode_chat(item.messages, now=STILL) for item in items]
        said = session.continue_many(prompts, max_tokens=max_tokens)
    file.unlink()
    replies = [(reply.text, reply.finish_reason == "length") for reply in said]
    known.write_text(json.dumps(replies))
    return replies


@dataclass(frozen=True)
class Told:
    """Of each item: whether it is right, whether it broke a hard rule, and each rule's verdict; and side effects."""

    right: np.ndarray
    broke: np.ndarray
    rules: Sequence[Mapping[str, bool]]
    escalated: np.ndarray
    refused: np.ndarray
    """Needlessly, of the items whose right action is another one (NaN elsewhere)."""


def judge(book: Any, items: Sequence[Any], replies: Replies) -> Told:
    """Raw replies by the gate's own checkers."""
    from compress.validate.answers import score

    found = score(book, items, replies)
    hard = {rule.id for rule in book.rules if rule.severity == "hard"}
    broke = [any(not kept for name, kept in verdicts.items() if name in hard) for verdicts in found.rules]
    effects = {action: np.full(len(items), np.nan) for action in ("escalate", "refuse")}
    for i, (item, (text, _)) in enumerate(zip(items, replies, strict=True)):
        done = (book.parse(text).fields or {}).get("action")
        for action, values in effects.items():
            if item.match == "json" and item.answer.get("action") != action:
                values[i] = done == action
    return Told(np.array(found.accurate), np.array(broke), found.rules, effects["escalate"], effects["refuse"])


def share(values: np.ndarray) -> str:
    """A share with its 95 % interval (Wilson 1927) and n."""
    from scipy.stats import binomtest

    seen = values[~np.isnan(values.astype(float))].astype(bool)
    interval = binomtest(int(seen.sum()), len(seen)).proportion_ci(method="wilson")
    bounds = f"{100 * interval.low:.2f} to {100 * interval.high:.2f}"
    return f"{100 * seen.mean():.2f} % ({bounds}; {seen.sum()} of {len(seen)})"


def difference(before: np.ndarray, after: np.ndarray) -> tuple[float, float, float]:
    """(after − before, low, high) of paired shares: Tango's score interval (1998), 95 % on each side."""
    from compress.validate.statistics import tango_bounds

    both = ~np.isnan(before.astype(float)) & ~np.isnan(after.astype(float))
    a, b = before[both].astype(bool), after[both].astype(bool)
    lost, won = int((a & ~b).sum()), int((b & ~a).sum())
    low, high = tango_bounds(len(a), lost, won)
    return (won - lost) / len(a), low, high


def points(found: tuple[float, float, float]) -> str:
    """A difference in points."""
    value, low, high = (100 * part for part in found)
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def general_texts(given: str, tokenizer: Any) -> list[list[int]]:
    """Windows of general text: a file's paragraphs, or (``world``) what the demo's base was made to read."""
    if given == "world":
        from finetune.world.corpus import conversations

        talks = conversations(99, 400)
        return [tokenizer.apply_chat_template(talk)["input_ids"] for talk in talks]
    text = Path(given).read_text(encoding="utf-8")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][: 120 * GENERAL_LENGTH]
    return [ids[i : i + GENERAL_LENGTH] for i in range(0, len(ids) - GENERAL_LENGTH + 1, GENERAL_LENGTH)]


def nll(folder: Path, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """Mean −log p per token of each text in nats, float64 ``[texts]``."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    with torch.inference_mode():
        for ids in texts:
            given = torch.tensor([list(ids)])
            logits = model(input_ids=given).logits[0, :-1].float()
            found.append(float(torch.nn.functional.cross_entropy(logits, given[0, 1:])))
    return np.array(found)


def mean_change(before: np.ndarray, after: np.ndarray) -> str:
    """Change of a paired mean with its 95 % interval (Student's t)."""
    from scipy.stats import t

    change = after - before
    half = t.ppf(0.975, len(change) - 1) * change.std(ddof=1) / np.sqrt(len(change))
    return f"{change.mean():+.4f} ± {half:.4f} (n = {len(change)})"
