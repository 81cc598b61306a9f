# ruff: noqa: E501  (rows are read by the line)
"""Precision and recall of the checkers on data that is named.

Usage: checkers.py [--data FOLDER]; FOLDER holds sgd, gsm8k and advbench as their repositories have them (JSON, JSONL, CSV; .gz is
fine). Without it only our own labelled replies and generated numbers are measured. Seeded; about half a minute.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def show(name, right, found):
    """One row of a table; ``right`` and ``found`` are booleans side by side."""
    hit = sum(a and b for a, b in zip(right, found, strict=True))
    wanted, shown = sum(right), sum(found)
    precision = f"{hit / shown:.3f}" if shown else "–"
    recall = f"{hit / wanted:.3f}" if wanted else "–"
    f1 = f"{2 * hit / (wanted + shown):.3f}" if wanted else "–"
    alarms = f"{shown - hit} of {len(right) - wanted}"
    print(f"| {name} | {len(right):,} ({wanted:,}) | {precision} | {recall} | {f1} | {alarms} |")


def lines(path):
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as handle:
        yield from handle


def refusals():
    from runtime.rules.refusal import refuses
    from runtime.rules.text import plain

    rows = [json.loads(line) for line in lines(ROOT / "tests/runtime/rules/refusals.jsonl")]
    for kind in ("chat", "support"):
        for name, sets in (
            ("replies of our own", range(1, 7)),
            ("hard replies of our own", range(7, 18)),
            ("replies of the last five rounds", range(18, 23)),
        ):
            own = [row for row in rows if row["kind"] == kind and row["set"] in sets]
            for known in ("question known", "reply alone"):
                asked = [plain(row.get("asked", "")) if known == "question known" else "" for row in own]
                found = [refuses(plain(row["reply"]), question) for row, question in zip(own, asked, strict=True)]
                show(f"refuse, {kind}: {name}, {known}", [row["refuses"] for row in own], found)


def sgd(folder):
    """``(utterance, whether it names a telephone number)`` of the system's turns, by the data's own slots."""
    for path in sorted([*folder.rglob("*.json"), *folder.rglob("*.json.gz")]):
        dialogues = json.loads("".join(lines(path)))
        for dialogue in dialogues if isinstance(dialogues, list) else ():
            for turn in dialogue.get("turns", ()):
                slots = [slot["slot"] for frame in turn["frames"] for slot in frame.get("slots", ())]
                if turn["speaker"] == "SYSTEM":
                    yield turn["utterance"], "phone_number" in slots


def real(folder):
    from runtime.rules.leaks import FINDERS
    from runtime.rules.refusal import refuses
    from runtime.rules.text import plain

    turns = list(sgd(folder / "sgd"))
    texts = [plain(text) for text, _ in turns]
    show(
        "leaks phone, SGD system turns, slot phone_number",
        [has for _, has in turns],
        [bool(FINDERS["phone"](t)) for t in texts],
    )
    for name in ("card", "iban", "email"):
        show(
            f"leaks {name}, SGD system turns (none has one)",
            [False] * len(texts),
            [bool(FINDERS[name](t)) for t in texts],
        )
    show("refuse, SGD system turns (taken to refuse nothing)", [False] * len(texts), [refuses(t) for t in texts])
    answers = [
        json.loads(line)["answer"]
        for p in sorted((folder / "gsm8k").glob("*test*"))
        for line in lines(p)
        if line.startswith("{")
    ]
    answers = [text for text in answers if isinstance(text, str)]
    show("refuse, GSM8K solutions (refuse nothing)", [False] * len(answers), [refuses(plain(t)) for t in answers])
    targets = [row["target"] for p in (folder / "advbench").glob("*.csv") for row in csv.DictReader(lines(p))]
    show("refuse, AdvBench targets (all comply)", [False] * len(targets), [refuses(plain(t)) for t in targets])


def generated(count=2000):
    from runtime.rules.leaks import FINDERS, IBAN_LENGTHS
    from runtime.rules.text import plain

    r = random.Random(0)
    between = ["", " ", "-", ".", "_", "*", "\u00a0", "\u2011", "\u200b", "/"]

    def digits(n):
        return "".join(r.choice("0123456789") for _ in range(n))

    def luhn(body):
        total = sum(sum(divmod(int(d) * 2, 10)) if i % 2 == 0 else int(d) for i, d in enumerate(reversed(body)))
        return body + str(-total % 10)

    def wrong(number):
        return number[:-1] + str((int(number[-1]) + r.randint(1, 9)) % 10)

    def split(text):
        mark, parts = r.choice(between), []
        while text:
            parts, text = [*parts, text[: (size := r.randint(2, 5))]], text[size:]
        return mark.join(parts)

    def iban(good):
        country = r.choice(sorted(IBAN_LENGTHS))
        body = digits(IBAN_LENGTHS[country] - 4)
        check = 98 - int("".join(str(int(c, 36)) for c in f"{body}{country}00")) % 97
        check = check if good else (check + r.randint(1, 90)) % 97
        return f"{country}{check:02d}{body}"

    made = {
        "card": lambda good: luhn("4" + digits(14)) if good else wrong(luhn("4" + digits(14))),
        "iban": iban,
        "phone": lambda good: (
            "+" + r.choice(["49", "1", "44", "351"]) + str(r.randint(2, 9)) + digits(9)
            if good
            else f"{r.randint(1, 28)}.{r.randint(1, 12)}.20{digits(2)} - {r.randint(1, 28)}.{r.randint(1, 12)}.20{digits(2)}"
        ),
    }
    for name, make in made.items():
        right = [r.random() < 0.5 for _ in range(count)]
        shown = [f"It is {split(make(good)) if good or name != 'phone' else make(good)}, please." for good in right]
        show(
            f"leaks {name}, generated in {len(between)} spellings",
            right,
            [bool(FINDERS[name](plain(text))) for text in shown],
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    print(
        "| checker and data | n (positive) | precision | recall | F1 | false alarms |\n|---|---:|---:|---:|---:|---:|"
    )
    refusals()
    generated()
    if args.data:
        real(args.data)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
