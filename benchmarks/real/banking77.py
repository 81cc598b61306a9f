"""Banking77 (PolyAI, CC BY 4.0: 77 intents of a bank's customers) as training and evaluation rows of an intent router.

    python benchmarks/real/banking77.py DATA_FOLDER OUT [--per-label 13] [--seed 17]

DATA_FOLDER holds the set's train.csv and test.csv (columns ``text`` and ``category``) as published with Casanueva et
al. (2020, "Efficient Intent Detection with Dual Sentence Encoders"). OUT gets train.csv, calibration.csv and eval.csv,
which ``data: {adapter: intent}`` reads: the answer to a message is the bare name of its intent.

The published test set repeats some training messages, letters and digits alone being compared as ``data.files`` does.
They are dropped from the test rows and counted here, and ``overlap: error`` (the default) stays on in the pipeline, so
that the stage would end the run if one were left.

``--per-label`` test rows of each label are drawn. Thirteen make 1,001 items: by ``sample_size(0.02, share)`` of
compress/validate/statistics.py a margin of 2 points is then shown with a chance of 90 % while up to 4 % of the answers
change (947 items; 5 % would need 1,146). The 35 that every label has would allow 12 % in nearly three times the time.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from finetune.data.adapters import intent
from finetune.data.fingerprint import fingerprint
from runtime.rules import load_rules

RULES = Path(__file__).with_name("banking77.rules.yaml")
COLUMNS = ("id", "system", "text", "category")
CALIBRATION_ROWS = 1200

Row = dict[str, str]


def read(path: Path, split: str, system: str) -> list[Row]:
    """The rows of a published CSV file, each with an id and the system prompt ``system``."""
    with open(path, encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    return [{"id": f"{split}-{number}", "system": system, **row} for number, row in enumerate(rows, 1)]


def without_leaks(held: Iterable[Row], train: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """(rows of ``held`` whose message is not in ``train``, the others), compared as ``data.files`` compares them."""
    known = {fingerprint(intent(row)) for row in train}
    kept: list[Row] = []
    leaked: list[Row] = []
    for row in held:
        (leaked if fingerprint(intent(row)) in known else kept).append(row)
    return kept, leaked


def stratified(rows: Sequence[Row], per_label: int, seed: int) -> list[Row]:
    """``per_label`` rows of every label, drawn by ``seed``, in order. ValueError where a label has fewer."""
    by_label: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        by_label.setdefault(row["category"], []).append(number)
    short = {label: len(found) for label, found in by_label.items() if len(found) < per_label}
    if short:
        label = min(short, key=short.__getitem__)
        raise ValueError(f"{label} has {short[label]} test rows, fewer than --per-label {per_label}: ask for fewer")
    rng = random.Random(seed)
    return [rows[n] for n in sorted(n for found in by_label.values() for n in rng.sample(found, per_label))]


def write(path: Path, rows: Iterable[Row]) -> None:
    """A CSV file with a header."""
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train.csv and test.csv")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--per-label", type=int, default=13, help="test rows of each label")
    parser.add_argument("--seed", type=int, default=17)
    given = parser.parse_args()
    system = load_rules(RULES).system_prompt()
    train, test = (read(given.data / f"{split}.csv", split, system) for split in ("train", "test"))
    held, leaked = without_leaks(test, train)
    chosen = stratified(held, given.per_label, given.seed)
    given.out.mkdir(parents=True, exist_ok=True)
    write(given.out / "train.csv", train)
    write(given.out / "calibration.csv", random.Random(given.seed).sample(train, CALIBRATION_ROWS))
    write(given.out / "eval.csv", chosen)
    print(f"{len(train)} training rows; {len(test)} test rows, {len(leaked)} of them in training and dropped:")
    for row in leaked:
        print(f"  {row['id']}: {' '.join(row['text'].split())}")
    print(f"{len(chosen)} evaluation rows, {given.per_label} of each of {len({r['category'] for r in chosen})} labels")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
