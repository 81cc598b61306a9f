"""Agreement with held-out preferences after SFT, DPO and ULMA on Anthropic's helpful-and-harmless pairs.

    python benchmarks/train/hh.py MODEL HH.jsonl.gz OUT [--pairs 700] [--held 551] [--tokens 192]
        [--arms sft,dpo,ulma] [--with '{"ulma": {"beta": 1}}']

HH.jsonl.gz: rows with ``chosen`` and ``rejected`` dialogues (Bai et al. 2022). Split by prompt; pairs whose longer side
has more than ``--tokens`` tokens are left out, and those that do not answer the same turns. Every arm trains over the
same pairs (SFT on the chosen replies) from MODEL; an arm is a method, or a method with a name behind a hyphen. A model
agrees with a pair if the log-ratio to MODEL is larger for the chosen reply (what DPO trains), and, shown beside it, if
its mean over the reply's tokens is (what ULMA trains). Differences to the first arm are paired. Intervals: Wilson
(95 %), of differences Tango (95 % on each side). Arms that OUT holds already are not trained again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from asked import difference, points, run_stage, share


def read(path: Path, tokenizer: Any, limit: int) -> list[dict[str, Any]]:
    """One pair per prompt in an order of chance, short enough."""
    from compress.errors import DataError
    from finetune.data.adapters import hh
    from finetune.data.readers import read_rows
    from finetune.train.pairs import answered, prompt_of
    from finetune.train.rows import tokenise_all

    rows: dict[str, dict[str, Any]] = {}
    for line, raw in read_rows(path):
        if isinstance(raw, DataError):
            raise raw
        try:
            row = {"id": f"hh:{line}", **hh(raw)}
        except ValueError as why:
            print(f"line {line} is left out: {why}")
            continue
        if row["chosen"] != row["rejected"]:
            rows.setdefault(prompt_of(row), row)
    order = random.Random(17).sample(list(rows.values()), len(rows))
    sides = iter(tokenise_all(tokenizer, [side for row in order for side in (row, answered(row, row["rejected"]))]))
    lengths = [max(len(side["input_ids"]) for side in pair) for pair in zip(sides, sides, strict=True)]
    return [row for row, length in zip(order, lengths, strict=True) if length <= limit]


def logps_of(folder: Path, rows: list[dict[str, Any]], known: Path) -> np.ndarray:
    """(log p, tokens) of the chosen and the rejected reply of each row, float64 ``[rows, 2, 2]``; kept in ``known``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from finetune.train.batches import collate
    from finetune.train.loss import score_labels
    from finetune.train.pairs import answered
    from finetune.train.preferring import logps
    from finetune.train.rows import tokenise_all

    if known.is_file():
        return np.load(known, allow_pickle=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    score_labels(model)
    trainer = SimpleNamespace(
        model=model, data_collator=collate(0), compute_loss_context_manager=contextlib.nullcontext
    )
    flat = [side for row in rows for side in (row, answered(row, row["rejected"]))]
    tokens = tokenise_all(tokenizer, flat)
    lengths = np.array([sum(label >= 0 for label in side["labels"]) for side in tokens])
    values = np.stack([logps(trainer, tokens), lengths], 1).reshape(-1, 2, 2)
    np.save(known, values, allow_pickle=False)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "hh", "out"):
        parser.add_argument(name, type=Path)
    for name, value in (("pairs", 700), ("held", 551), ("tokens", 192)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--arms", default="sft,dpo,ulma")
    parser.add_argument("--with", dest="changes", type=json.loads, default={})
    given = parser.parse_args()
    from transformers import AutoTokenizer

    rows = read(given.hh, AutoTokenizer.from_pretrained(given.model), given.tokens)
    held, taught = rows[: given.held], rows[given.held : given.held + given.pairs]
    data = given.out / "data"
    data.mkdir(parents=True, exist_ok=True)
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in taught))
    print(f"{len(rows)} pairs of at most {given.tokens} tokens; {len(taught)} taught, {len(held)} held out")
    base = logps_of(given.model, held, given.out / "before.npy")
    first: tuple[np.ndarray, ...] = ()
    for arm in given.arms.split(","):
        params = {"rank": 16, "batch": 8, "max_length": given.tokens, **given.changes.get(arm, {})}
        took = run_stage(f"finetune.{arm.split('-')[0]}", params, given.model, data, None, given.out / arm)
        now = logps_of(given.out / arm / "out", held, given.out / f"{arm}.npy")
        ratio = now[..., 0] - base[..., 0]
        mean = ratio / now[..., 1]
        agrees = tuple(values[:, 0] > values[:, 1] for values in (ratio, mean))
        for name, right, least in zip(("log-ratio", "log-ratio per token"), agrees, first or agrees, strict=True):
            beside = f"; {points(difference(least, right))} against {given.arms.split(',')[0]}" if first else ""
            print(f"{arm}: {name} {share(right)}{beside}", flush=True)
        print(f"{arm}: {took.cpu:.0f} CPU s")
        first = first or agrees


if __name__ == "__main__":
    main()
