"""Training steps of ``finetune.sft`` beside plain trl: tokens per second, peak memory, loss, each in its own process.

    python benchmarks/train/step.py MODEL ROWS.jsonl [--steps 24] [--batch 16] [--rank 16] [--words 30] [--turns 2]
    python benchmarks/train/step.py MODEL ROWS.jsonl --packing --words 200 --turns 0

Both train a QLoRA adapter on the same rows in the same order from the same initial values. ``--words`` cuts every
message to so many words, ``--turns`` keeps so many of its last messages (0: all). trl is run as its documentation shows
it: NF4 base, ``prepare_model_for_kbit_training``, bf16. With ``--packing`` both sides are ours: ``packing: false`` and
``packing: true``.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))


def read_rows(path: Path, count: int, words: int, turns: int) -> list[dict[str, Any]]:
    """The last ``turns`` messages of ``count`` rows in a fixed random order, cut to ``words`` words each."""
    rows = [json.loads(line)["messages"][-turns:] for line in path.read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(rows)
    cut = [[{**m, "content": " ".join(m["content"].split()[:words])} for m in messages] for messages in rows[:count]]
    return [{"id": number, "messages": messages} for number, messages in enumerate(cut)]


def plain_trainer(
    job: Any, model: Any, tokenizer: Any, objective: Any, watch: Any, rate: float, on_cpu: bool, fit: Any, last: Any
) -> Any:
    """``finetune.train.training._trainer`` without anything of ours."""
    del fit, last
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from trl import SFTTrainer

    from finetune.train import hooks, training

    p = job.params
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    lora = LoraConfig(r=p.rank, lora_alpha=p.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    examples = watch.taught
    steps = training.steps_of(p, len(examples))
    args = training._arguments(job, rate, on_cpu, steps)
    args.bf16 = True
    trainer = SFTTrainer(
        model=get_peft_model(model, lora),
        args=args,
        train_dataset=Dataset.from_list(training.in_order(examples, steps, p.batch, job.seed)),
        processing_class=tokenizer,
        callbacks=[hooks.progress(job, objective, training.step_tokens(p, examples))],
    )
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    trainer.plan = None
    return trainer


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """One side, in this process."""
    from compress.artifact import Artifact
    from compress.stage import Job
    from finetune.train import training
    from finetune.train.params import SftParams
    from finetune.train.sft import Conversations

    if given.task == "trl":
        training._trainer = plain_trainer
    losses: list[str] = []
    place = Path(tempfile.mkdtemp())
    for part in ("out", "scratch"):
        (place / part).mkdir()
    params = SftParams(
        method="qlora",
        rank=given.rank,
        steps=given.steps,
        batch=given.batch,
        packing=given.task == "packed",
        checkpoint_every=10**6,
    )
    job = Job(
        params=params,
        out=place / "out",
        scratch=place / "scratch",
        inputs=(Artifact("hf", given.model, ""),),
        seed=1,
        progress=lambda done, total, note="": losses.append(note),
    )
    import torch

    torch.set_num_threads(given.threads)
    started = time.process_time()
    rows = read_rows(given.rows, given.steps * given.batch, given.words, given.turns)
    objective, labels, positions, began = Conversations(rows, params), 0, 0, 0.0
    count = objective.count

    def counted(inputs: dict[str, Any]) -> Any:
        nonlocal labels, positions, began
        began, found = began or time.process_time(), count(inputs)
        labels, positions = labels + int(found), positions + inputs["labels"].numel()
        return found

    objective.count = counted  # type: ignore[method-assign]
    result = training.train(job, objective, 1e-3)
    return {
        "tokens_per_second": round(result.tokens / result.seconds, 1),
        "labels_per_cpu_second": round(labels / (time.process_time() - began), 2) if labels else None,
        "padding": round(1 - result.tokens / positions, 3) if positions else None,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        "cpu_seconds": round(time.process_time() - started, 1),
        "tokens": result.tokens,
        "losses": [note for note in losses if note],
    }


def main() -> None:
    """Both sides, in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    for name, value in (("steps", 24), ("batch", 16), ("rank", 16), ("words", 30), ("turns", 2), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--task", choices=["trl", "holdfast", "packed"])
    given = parser.parse_args()
    if given.task:
        print(json.dumps(measure(given)))
        return
    found = {}
    sides = ("holdfast", "packed") if given.packing else ("trl", "holdfast")
    for task in sides:
        command = [sys.executable, __file__, *sys.argv[1:], "--task", task]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[task] = json.loads(done.stdout.splitlines()[-1])
        print(task, json.dumps(found[task]))
    first, second = (found[side] for side in sides)
    speed = second["tokens_per_second"] / first["tokens_per_second"]
    memory = second["peak_rss_mb"] / first["peak_rss_mb"]
    print(f"{speed:.2f} times the tokens per second, {memory:.2f} times the memory")


if __name__ == "__main__":
    main()
