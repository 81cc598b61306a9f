"""Ways of training the same model on the same rows: what they learn, what they forget, what they cost.

    python benchmarks/train/adapters.py BASE DATA RULES OUT --general FILE [--arms lora,dora,…] [--steps 50]

BASE: the model before tuning. DATA: a folder with train.jsonl and eval.jsonl. Every arm trains from BASE by
``finetune.sft`` for the same steps on the same rows, at the rate that its method chooses, one thread each, in a process
of its own.

Measured: −log p per token of the replies of the last ``--held`` training rows, which no arm sees; accuracy on the first
``--items`` of eval.jsonl (greedy, in the runtime); the change of −log p per token on general text against BASE; seconds
of processors and peak memory of the training. Differences are paired, to the first arm: Student's t, 95 % (means), and
Tango, 95 % on each side (shares).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from asked import answer, difference, general_texts, judge, mean_change, nll, points, run_stage, share, subset
from hh import logps_of

QLORA: dict[str, Any] = {"method": "qlora"}
ARMS: dict[str, dict[str, Any]] = {
    "qlora": QLORA,
    "lora": {"method": "lora"},
    "rslora": {**QLORA, "adapter": {"kind": "rslora"}},
    "lora+": {**QLORA, "adapter": {"kind": "lora+"}},
    "dora": {**QLORA, "adapter": {"kind": "dora"}},
    "loftq": {**QLORA, "adapter": {"kind": "loftq"}},
    "pissa": {"method": "lora", "adapter": {"kind": "pissa"}},
    "full": {"method": "full"},
    "frozen": {"method": "full", "freeze_blocks": 20},
    "gradual": {"method": "full", "unfreeze": {"every_epoch": 0.1, "first": 3}, "layer_decay": 0.9},
}


def train(name: str, given: argparse.Namespace, place: Path) -> None:
    """One arm, in this process; its peak memory goes beside what it took."""
    rows = len((given.data / "train.jsonl").read_text(encoding="utf-8").splitlines())
    data = subset(given.data, rows - given.held, given.out / f"data-{name}")
    params = {"batch": given.batch, "steps": given.steps, "checkpoint_every": 10**6, **ARMS[name]}
    run_stage("finetune.sft", params, given.base, data, given.rules, place)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    (place / "peak.json").write_text(json.dumps(peak))


def reply_nll(folder: Path, rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """Mean −log p per token of each row's reply in nats, float64 ``[rows]``."""
    found = logps_of(folder, [{**row, "rejected": row["messages"][-1]["content"]} for row in rows])[:, 0]
    return -found[:, 0] / found[:, 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "data", "rules", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--general", required=True)
    parser.add_argument("--arms", default=",".join(ARMS))
    for name, value in (("steps", 50), ("batch", 16), ("held", 200), ("items", 300)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only-train", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only_train:
        train(given.only_train, given, given.out / given.only_train)
        return
    from transformers import AutoTokenizer

    from compress.validate.items import load_items
    from runtime.rules import load_rules

    book = load_rules(given.rules)
    items = load_items(given.data / "eval.jsonl", book)[: given.items]
    lines = (given.data / "train.jsonl").read_text(encoding="utf-8").splitlines()
    held = [json.loads(line) for line in lines[-given.held :]]
    texts = general_texts(given.general, AutoTokenizer.from_pretrained(given.base))
    untrained = nll(given.base, texts)
    print(f"{len(items)} items, {len(held)} held-out rows, {len(texts)} windows of general text; {given.steps} steps")
    print(f"before: −log p {reply_nll(given.base, held).mean():.4f}", flush=True)
    first: tuple[Any, Any] | None = None
    for name in given.arms.split(","):
        place = given.out / name
        if not (place / "peak.json").is_file():
            subprocess.run([sys.executable, *sys.argv, "--only-train", name], check=True)
        took, peak = (json.loads((place / f"{what}.json").read_text()) for what in ("seconds", "peak"))
        told = judge(book, items, answer(place / "out", items, place, max_tokens=64))
        lost = reply_nll(place / "out", held)
        first = first or (told, lost)
        print(f"\n{name}: {took['cpu']:.0f} s of processors, peak {peak:,} MB")
        print(f"  accuracy {share(told.right)}, {points(difference(first[0].right, told.right))} points")
        print(f"  hard rules broken {share(told.broke)}, {points(difference(first[0].broke, told.broke))} points")
        print(f"  −log p of held-out replies {lost.mean():.4f}, {mean_change(first[1], lost)}")
        print(f"  −log p of general text {mean_change(untrained, nll(place / 'out', texts))}", flush=True)


if __name__ == "__main__":
    main()
