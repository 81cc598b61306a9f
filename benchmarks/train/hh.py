"""Agreement with held-out preferences after SFT, DPO and ULMA on Anthropic's helpful-and-harmless pairs.

    python benchmarks/train/hh.py MODEL HH.jsonl.gz OUT [--pairs 700] [--held 300] [--tokens 192] [--methods sft,dpo]

HH.jsonl.gz: rows with ``chosen`` and ``rejected`` dialogues (Bai et al. 2022). Split by prompt; pairs whose longer side
has more than ``--tokens`` tokens are left out. Every method trains one pass over the same pairs (SFT on the chosen
replies) from MODEL. A model agrees with a pair if the log-ratio to MODEL is larger for the chosen reply (what DPO and
ULMA train), and, shown beside it, if the chosen reply's mean log-probability per token is. Intervals: Wilson, 95 %.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
TRAIN: dict[str, dict[str, Any]] = {
    "sft": {},
    "dpo": {"beta": 0.1},
    "ulma": {"beta": 0.1},
    "kto": {"beta": 0.1},
    "simpo": {},
    "orpo": {},
}


def read(path: Path, tokenizer: Any, limit: int) -> list[dict[str, Any]]:
    """One pair per prompt, short enough, in the order of the file."""
    from compress.errors import DataError
    from finetune.data.adapters import hh
    from finetune.data.readers import read_rows
    from finetune.train.pairs import answered, prompt_of
    from finetune.train.rows import tokenise_all

    rows, seen = [], set()
    for line, raw in read_rows(path):
        if isinstance(raw, DataError):
            raise raw
        row = {"id": f"hh:{line}", **hh(raw)}
        ends = row["messages"][-1]["role"] == "assistant"
        if not ends or row["chosen"] == row["rejected"] or prompt_of(row) in seen:
            continue
        sides = tokenise_all(tokenizer, [row, answered(row, row["rejected"])])
        if max(len(side["input_ids"]) for side in sides) <= limit:
            seen.add(prompt_of(row))
            rows.append(row)
    return rows


def logps_of(folder: Path, rows: list[dict[str, Any]]) -> np.ndarray:
    """(log p, tokens) of the chosen and the rejected reply of each row, float64 ``[rows, 2, 2]``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from finetune.train.batches import collate
    from finetune.train.loss import score_labels
    from finetune.train.pairs import answered
    from finetune.train.preferring import logps
    from finetune.train.rows import tokenise_all

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    score_labels(model)
    trainer = SimpleNamespace(
        model=model, data_collator=collate(0), compute_loss_context_manager=contextlib.nullcontext
    )
    flat = [side for row in rows for side in (row, answered(row, row["rejected"]))]
    tokens = tokenise_all(tokenizer, flat)
    lengths = np.array([sum(label >= 0 for label in side["labels"]) for side in tokens])
    return np.stack([logps(trainer, tokens), lengths], 1).reshape(-1, 2, 2)


def share(right: np.ndarray) -> str:
    """Share of pairs with its interval."""
    from scipy.stats import binomtest

    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return f"{right.mean():.1%} ({interval.low:.1%} to {interval.high:.1%})"


def train(method: str, given: argparse.Namespace, data: Path) -> Path:
    """The folder that ``finetune.METHOD`` leaves."""
    from compress.artifact import open_artifact, seal
    from compress.registry import load_stage
    from compress.stage import Job

    place = given.out / method
    if (place / "out" / "config.json").is_file():
        return place / "out"
    for part in ("out", "scratch"):
        (place / part).mkdir(parents=True, exist_ok=True)
    stage = load_stage(f"finetune.{method}")
    params = stage.Params(rank=16, batch=8, max_length=given.tokens, **TRAIN[method])
    artifact = seal(data, kind="data", stage="benchmark", stage_version=1, params={}, inputs={}, facts={})
    job = Job(
        params=params,
        out=place / "out",
        scratch=place / "scratch",
        inputs=(open_artifact(given.model),),
        data=artifact,
        seed=17,
        progress=lambda done, total, note="": print(f"\r{method} {done}/{total} {note}   ", end="", file=sys.stderr),
    )
    stage.check(job)
    facts = stage.run(job)
    print(f"\n{method}: {json.dumps(facts)}", file=sys.stderr)
    return place / "out"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "hh", "out"):
        parser.add_argument(name, type=Path)
    for name, value in (("pairs", 700), ("held", 300), ("tokens", 192)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--methods", default="sft,dpo,ulma")
    given = parser.parse_args()
    from transformers import AutoTokenizer

    rows = read(given.hh, AutoTokenizer.from_pretrained(given.model), given.tokens)
    random.Random(17).shuffle(rows)
    held, taught = rows[: given.held], rows[given.held : given.held + given.pairs]
    data = given.out / "data"
    data.mkdir(parents=True, exist_ok=True)
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in taught))
    print(f"{len(rows)} pairs of at most {given.tokens} tokens; {len(taught)} taught, {len(held)} held out")
    base = logps_of(given.model, held)
    mean = base[..., 0] / base[..., 1]
    print(f"before: mean log-probability {share(mean[:, 0] > mean[:, 1])}")
    for method in given.methods.split(","):
        start = time.monotonic()
        folder = train(method, given, data)
        seconds = time.monotonic() - start
        now = logps_of(folder, held)
        ratio, mean = now[..., 0] - base[..., 0], now[..., 0] / now[..., 1]
        print(
            f"{method}: log-ratio {share(ratio[:, 0] > ratio[:, 1])}, per token "
            f"{share((ratio / now[..., 1])[:, 0] > (ratio / now[..., 1])[:, 1])}, mean log-probability "
            f"{share(mean[:, 0] > mean[:, 1])}, {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
