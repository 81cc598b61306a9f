"""Schema-Guided Dialogue (Rastogi et al., AAAI 2020, CC BY-SA 4.0) as rows of an assistant that words what it is told.

    python benchmarks/real/sgd.py DATA_FOLDER OUT [--rows 800] [--items 600] [--seed 17]

DATA_FOLDER/test holds dialogues_*.json.gz, the set's published dialogue files. OUT gets train.jsonl, calibration.jsonl
and eval.jsonl, which ``data: {adapter: messages}`` reads.

A row is one turn: the customer's last message with up to two before it, and the system's reply. What the reply has to
tell is a fact of the row, as a booking system would hand it over: the dialogue acts that the set records for the reply,
``confirm: city = New York, number of tickets = 2``. So nothing that the reply names is left to be guessed, and the rule
``must_not: {invents: …}`` can judge it.

Right is a reply that contains every recorded value as recorded (``match: contains``): no slot is missing, in the words
of Wen et al. (2015, "Semantically Conditioned LSTM-based Natural Language Generation"), whose slot error rate counts
missing and redundant slots. That nothing was added is the rules' part; how well a reply reads, neither says.

Left out are turns without a value, those whose own human reply does not hold a value word for word (a yes for True, an
abbreviated name), and those with a value that no rule would let pass (a song called "You Need To Calm Down"); of the
training turns also those whose human reply breaks a rule. Each kind is counted.

Held out are whole domains (``HELD_OUT``): a dialogue of these alone is for evaluation, one of the others alone for
training, a mixed one for neither. Training rows are balanced over the kinds of reply (``KINDS``), as polite
confirmations and bad news are rare among them. Evaluation takes one turn of a dialogue, whichever it be, so that its
items are independent; 648 dialogues are held out, and 563 items show a margin of 2 points with a chance of 90 % while
up to 2 % of the answers change (``sample_size`` of compress/validate/statistics.py).
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.validate.scoring import SCORERS
from finetune.data.augment import broken
from finetune.data.fingerprint import fingerprint
from finetune.data.stage import written
from runtime.rules import RuleBook, Turn, load_rules

RULES = Path(__file__).with_name("sgd.rules.yaml")
HELD_OUT = frozenset({"Media", "Movies", "Music", "Payment", "Restaurants", "Trains"})
WINDOW = 3
CALIBRATION_ROWS = 400
ACTS = {
    "CONFIRM": "confirm",
    "INFORM": "inform",
    "INFORM_COUNT": "found",
    "NOTIFY_FAILURE": "failure",
    "NOTIFY_SUCCESS": "success",
    "OFFER": "offer",
    "REQUEST": "ask",
}
PERCENTAGES = frozenset({"humidity", "percent_rating", "precipitation"})
"""Slots that the set's schema describes as percentages; their values are bare numbers, their replies say the unit."""
FORCED = ("no-promises", "not-rude")
"""Rules that a value may break by itself, such as the title "American Idiot"."""
KINDS = ("failure", "confirm", "ask", "offer", "inform")
"""What the fact ``act`` says of a turn: the first of these among its acts."""

Row = dict[str, Any]
Act = tuple[str, str, Sequence[str]]


def dialogues(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Every dialogue of the folder's files. Raises FileNotFoundError if there is none."""
    paths = sorted(folder.glob("test/dialogues_*.json.gz"))
    if not paths:
        raise FileNotFoundError(
            f"{folder}/test has no dialogues_*.json.gz: give the folder of the published test split"
        )
    for path in paths:
        yield from json.loads(gzip.decompress(path.read_bytes()))


def split_of(dialogue: Mapping[str, Any]) -> str | None:
    """``eval`` for a dialogue of held-out domains alone, ``train`` for one without any, None for a mixed one."""
    domains = {service.rpartition("_")[0] for service in dialogue["services"]}
    if domains <= HELD_OUT:
        return "eval"
    return None if domains & HELD_OUT else "train"


def acts_of(turn: Mapping[str, Any]) -> list[Act]:
    """``(act, slot, values)`` of everything a system turn says, in its order; the slot may be empty."""
    return [(a["act"], a["slot"], a["values"]) for frame in turn["frames"] for a in frame["actions"]]


def told(acts: Sequence[Act]) -> str:
    """The acts in words: ``found: count = 3; offer: place name = Grand Hotel, star rating = 4``."""
    parts: dict[str, list[str]] = {}
    for act, slot, values in acts:
        said = parts.setdefault(ACTS[act], [])
        if slot:
            given = [f"{value} percent" if slot in PERCENTAGES else value for value in values]
            said.append(slot.replace("_", " ") + (f" = {' / '.join(given)}" if given else ""))
    return "; ".join(f"{act}: {', '.join(said)}" if said else act for act, said in parts.items())


def rows_of(dialogue: Mapping[str, Any], book: RuleBook, left_out: Counter[str]) -> Iterator[Row]:
    """Rows of a dialogue that end with the system's reply; turns that cannot be judged are counted in ``left_out``."""
    talk: list[dict[str, str]] = []
    for number, turn in enumerate(dialogue["turns"]):
        talk.append({"role": turn["speaker"].lower().replace("system", "assistant"), "content": turn["utterance"]})
        if turn["speaker"] != "SYSTEM":
            continue
        acts = acts_of(turn)
        values = list(dict.fromkeys(value for _, _, found in acts for value in found))
        if not values or any(act not in ACTS for act, _, _ in acts):
            left_out["turns without a value"] += 1
        elif not SCORERS["contains"](values, turn["utterance"]):
            left_out["turns whose reply does not hold a value word for word"] += 1
        elif forced(book, values):
            left_out["turns with a value that breaks a rule by itself"] += 1
        else:
            facts = {"act": next(kind for kind in KINDS if kind in {ACTS[a] for a, _, _ in acts}), "say": told(acts)}
            messages = [{"role": "system", "content": book.system_prompt(facts)}, *talk[-WINDOW - 1 :]]
            name = f"{dialogue['dialogue_id']}-{number}"
            cluster = dialogue["dialogue_id"]
            yield {"id": name, "messages": messages, "facts": facts, "values": values, "cluster": cluster}


def forced(book: RuleBook, values: Sequence[str]) -> bool:
    """Whether a reply that holds these values must break a rule."""
    turn = Turn.from_row({"messages": [{"role": "user", "content": "; ".join(values)}]})
    return any(not v.passed for v in book.check(turn, "; ".join(values)) if v.rule in FORCED)


def as_training(row: Row) -> Row:
    """The row without what only an evaluation needs."""
    return {name: value for name, value in row.items() if name not in ("values", "cluster")}


def as_item(row: Row) -> Row:
    """The question of a row and the values that its answer must hold."""
    expected = {"answer": row["values"], "match": "contains"}
    return {**as_training(row), "messages": row["messages"][:-1], "cluster": row["cluster"], "expected": expected}


def keeping_rules(rows: Iterable[Row], book: RuleBook, left_out: Counter[str]) -> list[Row]:
    """The rows whose reply keeps every rule in force; the others are counted by the rules that they break."""
    kept = []
    for row in rows:
        wrong = broken(book, row)
        left_out.update(f"training turns whose reply breaks {rule}" for rule in wrong)
        if not wrong:
            kept.append(row)
    return kept


def one_each(rows: Sequence[Row], rng: random.Random) -> list[Row]:
    """One row of each cluster, drawn by ``rng``, in the order of the clusters."""
    by_cluster: dict[str, list[Row]] = {}
    for row in rows:
        by_cluster.setdefault(row["cluster"], []).append(row)
    return [rng.choice(found) for found in by_cluster.values()]


def different(rows: Iterable[Row]) -> list[Row]:
    """The first row of each question (system prompt and customer's words, letters and digits only)."""
    return list({fingerprint(row): row for row in reversed(list(rows))}.values())[::-1]


def balanced(rows: Sequence[Row], count: int, rng: random.Random) -> list[Row]:
    """``count`` rows, one of each kind in turn while there are any, in random order."""
    piles: dict[str, list[Row]] = {}
    for row in rng.sample(rows, len(rows)):
        piles.setdefault(row["facts"]["act"], []).append(row)
    turns = [row for rank in itertools.zip_longest(*piles.values()) for row in rank if row is not None]
    return enough(turns, count, "training turns")[:count]


def draw(rows: Sequence[Row], count: int, rng: random.Random, what: str) -> list[Row]:
    """``count`` of the rows in their order. Raises ValueError when there are fewer."""
    return [rows[n] for n in sorted(rng.sample(range(len(enough(rows, count, what))), count))]


def enough(rows: Sequence[Row], count: int, what: str) -> Sequence[Row]:
    """The rows. Raises ValueError when there are fewer than ``count``."""
    if len(rows) < count:
        raise ValueError(f"there are {len(rows)} {what}, fewer than the {count} asked for: ask for fewer")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with test/dialogues_*.json.gz")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--rows", type=int, default=800, help="training rows")
    parser.add_argument("--items", type=int, default=600, help="evaluation items")
    parser.add_argument("--seed", type=int, default=17)
    given = parser.parse_args()
    book, rng = load_rules(RULES), random.Random(given.seed)
    left_out: Counter[str] = Counter()
    pools: dict[str, list[Row]] = {"train": [], "eval": []}
    for dialogue in dialogues(given.data):
        if (split := split_of(dialogue)) is None:
            left_out["dialogues of mixed domains"] += 1
        else:
            pools[split] += rows_of(dialogue, book, left_out)
    train = different(keeping_rules(pools["train"], book, left_out))
    held = different(one_each(pools["eval"], rng))
    rows, items = balanced(train, given.rows, rng), draw(held, given.items, rng, "evaluation dialogues")
    given.out.mkdir(parents=True, exist_ok=True)
    taught = [as_training(row) for row in rows]
    for split, made in (
        ("train", taught),
        ("calibration", taught[:CALIBRATION_ROWS]),
        ("eval", [as_item(row) for row in items]),
    ):
        lines = "".join(written(row) + "\n" for row in made)
        (given.out / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    for what, count in sorted(left_out.items()):
        print(f"left out: {count} {what}")
    for name, chosen, pool in (("training rows", rows, train), ("evaluation items", items, held)):
        kinds = Counter(row["facts"]["act"] for row in chosen)
        print(f"{len(chosen)} {name} of {len(pool)}: " + ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS))


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
