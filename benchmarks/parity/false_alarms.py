"""How often ``export.parity`` refuses exports of real models in which nothing is wrong.

    python benchmarks/parity/false_alarms.py OUT.jsonl MODEL=CALIBRATION [MODEL=CALIBRATION …] [--exports 3000]

Export number n takes the models in turn, a type and a way of feeding errors back drawn from n, and a calibration of
its own: rows drawn from CALIBRATION (JSONL of the model's kind of text), as many tokens as the drawn budget says. Its
weights are held against the model as the stage does; every ``--whole``-th export goes through the whole stage, template
to greedy replies. A process per processor makes them, each reading a model's tokenizer once. A line per export goes to
OUT, and a later call makes those that are missing there. The last line printed counts the refused ones, with the 95 %
Clopper-Pearson bound of their rate.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from scipy.stats import beta

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from stages import run_stage  # noqa: E402

import export.tokenizers.translation as translation  # noqa: E402
from compress.errors import ParityFailed  # noqa: E402
from compress.windows import read_rows  # noqa: E402
from export.checkpoint import Checkpoint, open_checkpoint  # noqa: E402
from export.parity.weights import read_gguf, source_of, unexplained  # noqa: E402

TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q5_1", "Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1", "IQ4_NL", "Q3_K_M", "Q2_K")
WAYS = ("upstream", "upstream", "shared", "off")
BUDGETS = (1024, 4096, 16384)
"""Calibration tokens: few of them bend the weights most."""
LENGTH = 128


def refused(reference: Checkpoint, path: Path, *, fed: bool) -> tuple[float, list[str]]:
    """The largest row error, and what no rounding explains."""
    worst, found = 0.0, []
    for stored in read_gguf(path, reference):
        error, difference = unexplained(stored, source_of(reference, stored.name), fed=fed)
        worst = max(worst, error)
        found += [difference] if difference else []
    return worst, found


def export(number: int, model: Path, texts: list[dict[str, Any]], place: Path, *, whole_stage: bool) -> dict[str, Any]:
    """Make and hold one export."""
    drawn = random.Random(number)
    kind, way, budget = drawn.choice(TYPES), drawn.choice(WAYS), drawn.choice(BUDGETS)
    text = place / "calibration.jsonl"
    text.write_text("".join(json.dumps(row) + "\n" for row in drawn.sample(texts, len(texts))), encoding="utf-8")
    given = {"calibration": text, "calibration_tokens": budget, "calibration_length": LENGTH}
    found: dict[str, Any] = {"number": number, "model": model.name, "type": kind, "way": way, "tokens": budget}
    passed = run_stage("calibrate", model, place / "pass", **given)
    made = run_stage("export.gguf", model, place / "gguf", type=kind, feedback=way, pass_=passed, **given)
    worst, differences = refused(open_checkpoint(model), made.path / "model.gguf", fed=way != "off")
    if whole_stage:
        found["whole"] = True
        prompts = {"prompts_file": text, "prompts": 8, "tokens": 16}
        try:
            run_stage("export.parity", model, place / "parity", more=(made,), **prompts)
        except ParityFailed as error:
            differences.append(error.what)
    return found | {"largest_row": round(worst, 4), "refused": differences}


def records_of(path: Path) -> list[dict[str, Any]]:
    """What earlier calls found."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


@functools.cache
def rows_of(text: str) -> list[dict[str, Any]]:
    """The rows of a calibration file."""
    return [row for _, row in read_rows(Path(text))]


def made(turn: tuple[int, str, str, bool]) -> dict[str, Any]:
    """One export, in a worker."""
    number, model, text, whole_stage = turn
    with tempfile.TemporaryDirectory() as place:
        return export(number, Path(model), rows_of(text), Path(place), whole_stage=whole_stage)


def start_worker(processors: Any) -> None:
    """A worker keeps to a processor, and keeps what it read of a model's tokenizer."""
    os.sched_setaffinity(0, {processors.get()})
    translation.translate = functools.cache(translation.translate)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--exports", type=int, default=3000)
    parser.add_argument("--whole", type=int, default=10)
    given = parser.parse_args()
    pairs = [pair.split("=") for pair in given.models]
    done = {record["number"] for record in records_of(given.out)}
    turns = [
        (number, *pairs[number % len(pairs)], number // len(pairs) % given.whole == 0)
        for number in range(given.exports)
        if number not in done
    ]
    spawning = multiprocessing.get_context("spawn")
    processors = spawning.Queue()
    for processor in (usable := os.sched_getaffinity(0)):
        processors.put(processor)
    with (
        spawning.Pool(len(usable), start_worker, (processors,)) as workers,
        open(given.out, "a", encoding="utf-8") as handle,
    ):
        for record in workers.imap_unordered(made, turns):
            handle.write(json.dumps(record) + "\n")
            handle.flush()
    records = records_of(given.out)
    for name, count in sorted(Counter(record["model"] for record in records).items()):
        print(f"{name}: {count} exports, {sum(bool(r['refused']) for r in records if r['model'] == name)} refused")
    n, alarms = len(records), sum(bool(record["refused"]) for record in records)
    bound = float(beta.ppf(0.95, alarms + 1, n - alarms)) if alarms < n else 1.0
    whole_runs = sum("whole" in record for record in records)
    print(f"{alarms} of {n} exports refused ({whole_runs} through the whole stage); at most {bound:.2%} with 95 %")


if __name__ == "__main__":
    main()
