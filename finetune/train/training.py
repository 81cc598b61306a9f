"""The training run inside ``finetune.sft``: trl's SFTTrainer on tokenised conversations, loss on replies only."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.extras import need
from compress.memory import trim
from compress.stage import Job
from finetune.train import batches, merge
from finetune.train.rows import tokenise

if TYPE_CHECKING:
    from finetune.train.params import SftParams

AT_ONCE = 1024
"""Tokens that go through the model together on a CPU: more are no faster, and their activations fill the memory."""
PARTS = ("input_ids", "labels")
WHOLE = "whole"
"""Empty file that is written into a checkpoint once everything else in it is on disk."""


@dataclass(frozen=True)
class Result:
    """What training left: the model for ``full``, the adapter's folder otherwise."""

    model: Any
    adapter: Path
    loss: float
    """Mean of the last logging interval."""
    steps: int
    tokens: int
    seconds: float
    probes: Sequence[Sequence[int]]
    """Token sequences of some training rows."""


def train(job: Job[SftParams], rows: Sequence[dict[str, Any]], rate: float) -> Result:
    """Fine-tune on ``rows`` from the last whole checkpoint in ``job.scratch``."""
    torch, p = need("torch"), job.params
    for module in ("peft", "trl", "bitsandbytes", "datasets"):
        need(module)
    from transformers import AutoTokenizer, set_seed

    set_seed(job.seed)
    quiet()
    tokenizer = AutoTokenizer.from_pretrained(job.input.path, local_files_only=True)
    examples = tokenise(tokenizer, rows, p)
    on_cpu = not torch.cuda.is_available()
    model = merge.load_base(
        job.input.path,
        four_bit=p.method == "qlora",
        compute=torch.bfloat16,
        attention="eager" if on_cpu and p.max_length <= 1024 else None,  # faster than the fused kernel on a CPU
    )
    trainer = _trainer(job, model, tokenizer, examples, rate, on_cpu)
    last = _last_checkpoint(job.scratch)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    adapter = job.scratch / "adapter"
    if p.method != "full":
        shutil.rmtree(adapter, ignore_errors=True)
        trainer.model.save_pretrained(adapter)
    seconds, steps = time.monotonic() - started, int(trainer.state.global_step)
    mean = sum(len(e["input_ids"]) for e in examples) / len(examples)
    done = steps - (int(last.name.split("-")[1]) if last else 0)
    probes = [e["input_ids"] for e in examples[:64]]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Result(trainer.model, adapter, float(losses[-1]), steps, int(mean * p.batch * done), seconds, probes)


def quiet() -> None:
    """The libraries' own bars and notices off: the stage reports its progress itself."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it looks for an optional GPU kernel package


def steps_of(p: SftParams, rows: int) -> int:
    """Optimiser steps: as given, or as the epochs make them."""
    return p.steps or max(1, round(p.epochs * rows / p.batch))


def in_order(examples: Sequence[Any], steps: int, batch: int, seed: int) -> list[Any]:
    """The examples as the steps read them, in an order of our own that does not depend on where a run resumed."""
    plan = batches.plan_batches([len(example["input_ids"]) for example in examples], steps, batch, seed)
    return [examples[i] for rows in plan for i in rows]


def _trainer(job: Job[SftParams], model: Any, tokenizer: Any, examples: list[Any], rate: float, on_cpu: bool) -> Any:
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback

    from finetune.train.fused import fuse

    p = job.params
    model = model if p.method == "full" else adapted(model, p, on_cpu)
    trainer = _label_trainer()(
        model=model,
        args=_arguments(job, rate, on_cpu, steps_of(p, len(examples))),
        train_dataset=Dataset.from_list(in_order(examples, steps_of(p, len(examples)), p.batch, job.seed)),
        processing_class=tokenizer,
        callbacks=[_callback(job)],
    )
    trainer.remove_callback(PrinterCallback)
    for weight in trainer.model.parameters():
        if weight.requires_grad:  # trl makes an NF4 model's adapter bfloat16, and a resumed one float32
            weight.data = weight.data.float()
    if p.method != "full" and on_cpu:
        fuse(trainer.model)
    return trainer


def adapted(model: Any, p: SftParams, on_cpu: bool) -> Any:
    """``model`` with a fresh adapter; all else is frozen."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if p.method == "qlora" and not on_cpu:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=True)
    lora = LoraConfig(
        r=p.rank,
        lora_alpha=p.alpha or p.rank,
        target_modules="all-linear",
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


def _label_trainer() -> Any:
    """trl's SFTTrainer with head and loss at labelled positions alone, and on a CPU ``AT_ONCE`` tokens at a time."""
    from trl import SFTTrainer

    from finetune.train.loss import IGNORED, score_labels

    class LabelTrainer(SFTTrainer):  # type: ignore[misc]
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            score_labels(self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model)

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """Rows are padded on the right, where causal attention does not look: no mask is needed."""
            labels = inputs["labels"]
            loss = model(input_ids=inputs["input_ids"], scored_labels=labels, use_cache=False).loss
            count = (labels[:, 1:] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
            loss = loss / count
            return (loss, {}) if return_outputs else loss

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            """Gradients of the parts of a batch add up to those of the whole."""
            if not self.args.use_cpu:
                return super().training_step(model, inputs, num_items_in_batch)
            count = (inputs["labels"][:, 1:] != IGNORED).sum()
            parts = zip(*(inputs[name].split(rows_at_once(inputs["input_ids"])) for name in PARTS), strict=True)
            return sum(
                super(LabelTrainer, self).training_step(model, dict(zip(PARTS, part, strict=True)), count)
                for part in parts
            )

    return LabelTrainer


def rows_at_once(ids: Any) -> int:
    """Rows of ``ids`` ``[rows, positions]`` that go through the model together, in parts of like size."""
    rows, width = ids.shape
    parts = -(-rows * width // AT_ONCE)
    return max(1, -(-rows // parts))


def _arguments(job: Job[SftParams], rate: float, on_cpu: bool, steps: int) -> Any:
    from trl import SFTConfig

    p = job.params
    return SFTConfig(
        output_dir=str(job.scratch),
        max_steps=steps,
        per_device_train_batch_size=p.batch,
        learning_rate=rate,
        lr_scheduler_type="linear",
        warmup_steps=0.05,
        weight_decay=0.0,
        adam_beta2=0.99,
        max_grad_norm=1.0,
        max_length=p.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},  # the rows are tokenised, with labels on the replies alone
        train_sampling_strategy="sequential",
        pad_to_multiple_of=8,
        bf16=p.method == "full" or not on_cpu,  # fused adapters choose their types themselves
        use_cpu=on_cpu,
        gradient_checkpointing=not on_cpu,
        dataloader_pin_memory=False,
        save_strategy="steps",
        save_steps=p.checkpoint_every,
        save_total_limit=2,
        logging_steps=min(10, steps),
        disable_tqdm=True,
        report_to=[],
        seed=job.seed,
        data_seed=job.seed,
    )


def _callback(job: Job[SftParams]) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Shows progress, and marks a checkpoint as whole once it is on disk."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            trim()  # batches of other lengths leave holes: without this the heap grows by a half in 50 steps
            loss = (logs or {}).get("loss")
            job.progress(state.global_step, state.max_steps, "" if loss is None else f"loss {float(loss):.3f}")

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    _sync(path)
            (folder / WHOLE).touch()
            _sync(folder)

    return Watch()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _last_checkpoint(scratch: Path) -> Path | None:
    """The latest whole checkpoint; half-written ones are removed."""
    whole = []
    for folder in scratch.glob("checkpoint-*"):
        if (folder / WHOLE).is_file():
            whole.append(folder)
        else:
            shutil.rmtree(folder)
    return max(whole, key=lambda folder: int(folder.name.split("-")[1]), default=None)
