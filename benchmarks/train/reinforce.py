"""The rules as rewards against more SFT and DPO on mutated pairs, each for the same minutes from the same tuned model.

    python benchmarks/train/reinforce.py MODEL DATA RULES OUT [--minutes 3] [--arms sft,dpo,rejection,grpo]
        [--general FILE | world] [--with '{"grpo": {"rate": 1e-3}}']

MODEL: a folder that ``finetune.sft`` left. DATA: a folder with train.jsonl and eval.jsonl (a ``data`` artifact). Every
arm trains on from MODEL. Two short runs of each arm give its seconds for a step, and from them follow the steps that
fill ``--minutes``, with sampling, reference passes and merging. These are seconds of processors (with one thread those
of the clock, whatever else the machine does); what each arm took is shown. All arms see the same training rows; ``dpo``
reads no more of them than its steps use.

Measured on all of eval.jsonl, greedy, in the runtime, without enforcement: items in which a hard rule is broken,
accuracy, needless escalations and refusals (of the items whose right action is another), and the change of −log p per
token on general text. Intervals: Wilson, 95 %; of differences Tango, 95 % on each side.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from asked import Took, answer, difference, general_texts, judge, mean_change, nll, points, run_stage, share, subset

STAGES = {
    "sft": "finetune.sft",
    "dpo": "finetune.dpo",
    "rejection": "finetune.reinforce",
    "grpo": "finetune.reinforce",
}


def arm(name: str, steps: int, given: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """(parameters, data) of an arm that trains so many steps."""
    common = {
        "method": given.method,
        "rank": given.rank,
        "batch": given.batch,
        "steps": steps,
        "checkpoint_every": 10**6,
    }
    data = subset(given.data, given.rows, given.out / "data")
    own: dict[str, Any] = {}
    if name == "dpo":
        data = subset(given.data, min(given.rows, math.ceil(steps * given.batch / 2)), given.out / f"data-{steps}")
        own = {"pairs": "mutations"}
    elif name == "rejection":
        own = {"algorithm": "rejection_sampling", "prompts": steps * given.batch}
    elif name == "grpo":
        own = {"algorithm": "grpo", "batch": 2 * given.batch}
    return {**common, **own, **given.changes.get(name, {})}, data


def train(name: str, steps: int, given: argparse.Namespace, place: Path) -> Took:
    """What an arm takes for so many steps."""
    params, data = arm(name, steps, given)
    return run_stage(STAGES[name], params, given.model, data, given.rules, place)


def steps_for(name: str, given: argparse.Namespace) -> int:
    """Steps that fill the minutes, by two short runs behind one that loads the libraries."""
    few, more = given.pilot, 3 * given.pilot
    train(name, few, given, given.out / f"first-{name}")
    first, second = (train(name, steps, given, given.out / f"pilot-{name}-{steps}").cpu for steps in (few, more))
    each = (second - first) / (more - few)
    if each <= 0:
        sys.exit(f"{name}: {more} steps took no longer than {few}; take more (--pilot)")
    return max(1, round((60 * given.minutes - (first - few * each)) / each))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "rules", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--arms", default="sft,dpo,rejection,grpo")
    parser.add_argument("--general", default="world")
    parser.add_argument("--method", default="qlora")
    for name, value in (("rank", 16), ("batch", 16), ("pilot", 8), ("items", 0), ("rows", 10**9)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--with", dest="changes", type=json.loads, default={})
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    from transformers import AutoTokenizer

    from compress.validate.items import load_items
    from runtime.rules import load_rules

    book = load_rules(given.rules)
    items = load_items(given.data / "eval.jsonl", book)[: given.items or None]
    texts = general_texts(given.general, AutoTokenizer.from_pretrained(given.model))
    told = {"before": judge(book, items, answer(given.model, items, given.out / "before"))}
    lost, took = {"before": nll(given.model, texts)}, {"before": Took(0.0, 0.0)}
    for name in given.arms.split(","):
        place = given.out / name
        known = place / "steps.json"
        if not known.is_file():
            known.parent.mkdir(exist_ok=True)
            steps = steps_for(name, given)
            known.write_text(str(steps))
        took[name] = train(name, int(known.read_text()), given, place / "trained")
        told[name] = judge(book, items, answer(place / "trained" / "out", items, place))
        lost[name] = nll(place / "trained" / "out", texts)
    print(f"{len(items)} items; general text: {sum(map(len, texts))} tokens in {len(texts)} texts")
    for name, found in told.items():
        base = told["before"]
        print(f"\n{name}: {took[name].cpu:.0f} s of processors, {took[name].wall:.0f} s")
        print(
            f"  hard rules broken: {share(found.broke)}; against before {points(difference(base.broke, found.broke))}"
        )
        if "dpo" in told and name not in ("before", "dpo"):
            times = told["dpo"].broke.sum() / max(1, found.broke.sum())
            print(f"    {times:.2f} times fewer than dpo; {points(difference(told['dpo'].broke, found.broke))} points")
        print(f"  accuracy: {share(found.right)}; against before {points(difference(base.right, found.right))}")
        for what, values, first in (
            ("escalations", found.escalated, base.escalated),
            ("refusals", found.refused, base.refused),
        ):
            if not np.isnan(values).all():
                print(f"  needless {what}: {share(values)}; against before {points(difference(first, values))}")
        print(f"  -log p per token on general text: {mean_change(lost['before'], lost[name])}")
        worst = {
            rule.id: sum(not verdicts[rule.id] for verdicts in found.rules if rule.id in verdicts)
            for rule in book.rules
        }
        print(f"  broken by rule: {', '.join(f'{k} {v}' for k, v in worst.items() if v) or 'none'}")


if __name__ == "__main__":
    main()
